"""The readout follows filmed lips better than the networks alone, and its weights carry the credit they owe.

tests/data/preview/filmed_lips.npz has the networks' outputs and the measured lips of five clips of the GRID corpus
(CC BY 4.0, credit in weights/preview_mouth.LICENSE): numbers, no picture and no sound.
"""

from pathlib import Path

import numpy as np
import pytest
from lipsync_server.engines.preview.readout import FIRST_PHONE, OPENING, SPEAKING, Readout, evidence_of
from lipsync_server.paths import bundled
from numpy.typing import NDArray

DATA = Path(__file__).parents[2] / "data" / "preview" / "filmed_lips.npz"
CLIPS = ("grid23_lrwp9a", "grid23_priazn", "gridxx_bbab8n", "gridxx_lbbc2a", "gridxx_lwbsza")


def shipped() -> Readout:
    with np.load(bundled("preview_mouth.npz"), allow_pickle=False) as arrays:
        return Readout.of(arrays)


def clip(name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    with np.load(DATA, allow_pickle=False) as arrays:
        return arrays[f"{name}/evidence"].astype(np.float32), arrays[f"{name}/opening"].astype(np.float32)


def agreement(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def test_the_opening_follows_filmed_lips_better_than_the_networks_alone() -> None:
    gains = []
    for name in CLIPS:
        evidence, opening = clip(name)
        speaking = np.flatnonzero(evidence[:, SPEAKING] > 0.5)
        words = slice(speaking[0], speaking[-1] + 1)
        gains.append(agreement(shipped()(evidence)[words], opening[words]))
        gains[-1] -= agreement(evidence[words, OPENING], opening[words])
    assert np.mean(gains) > 0.03


@pytest.mark.parametrize("name", CLIPS)
def test_the_opening_is_neither_early_nor_late(name: str) -> None:
    evidence, opening = clip(name)
    predicted = shipped()(evidence)
    n = len(opening)
    shifts = range(-15, 16)
    best = max(
        shifts,
        key=lambda k: agreement(predicted[max(0, k) : n + min(0, k)], opening[max(0, -k) : n - max(0, k)]),
    )
    assert abs(best) <= 5, f"{10 * best} ms late"


def test_a_step_of_the_readout_needs_the_outputs_around_it_only() -> None:
    evidence, _ = clip(CLIPS[0])
    readout = shipped()
    whole = readout(evidence)
    np.testing.assert_allclose(readout(evidence[50:150])[10:-10], whole[60:140], atol=1e-5)


def test_evidence_is_made_of_probabilities() -> None:
    outputs = np.random.default_rng(0).normal(0, 20, (40, FIRST_PHONE + 49)).astype(np.float32)
    outputs[0] = 1000
    evidence = evidence_of(outputs)
    assert np.isfinite(evidence).all()
    np.testing.assert_allclose(evidence[:, FIRST_PHONE:].sum(axis=1), 1, atol=1e-5)
    assert evidence[:, 2:].min() >= 0 and evidence[:, 2:].max() <= 1


def test_the_weights_carry_the_credit_that_their_training_data_ask_for() -> None:
    with np.load(bundled("preview_mouth.npz"), allow_pickle=False) as arrays:
        credit = str(arrays["credit"])
    beside = " ".join(bundled("preview_mouth.LICENSE").read_text().split())
    for text in (credit, beside):
        assert "10.5281/zenodo.3625687" in text
        assert "CC BY 4.0" in text and "https://creativecommons.org/licenses/by/4.0/" in text
        assert "Changes:" in text and "do not endorse" in text
