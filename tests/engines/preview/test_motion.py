"""The head, the brows and the breath move with the speech's phrases and stressed syllables, and rest with it."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from lipsync_server.engines.preview import head
from lipsync_server.engines.preview.motion import Amounts, Motion
from lipsync_server.engines.preview.prosody import prosody_of
from lipsync_server.engines.preview.speech import speech_track
from numpy.typing import NDArray

DATA = Path(__file__).parents[2] / "data" / "preview"
FPS = 25
Array = NDArray[np.float32]
VOWELS = {"A", "AA", "AE", "AH", "AO", "O", "EH", "E", "IH", "IY", "UW", "UH", "AX", "ER", "UE", "OE"}


def recording(name: str) -> tuple[Array, list[tuple[str, float, float]]]:
    speech, _ = soundfile.read(DATA / f"{name}.ogg", dtype="float32")
    return speech, [tuple(p) for p in json.loads((DATA / f"{name}.json").read_text())["phones"]]


def track_of(loudness: Array) -> Array:
    return np.stack([0.5 * loudness, 0 * loudness, 0 * loudness, loudness, 0 * loudness], axis=1).astype(np.float32)


def talk(*phrases: tuple[float, float], seconds: float, accents: tuple[float, ...] = ()) -> Array:
    """The track of speech of even loudness in `phrases` (start and end in s), louder at `accents` (s)."""
    t = np.arange(int(seconds * FPS)) / FPS
    loudness = np.zeros(len(t))
    for start, end in phrases:
        loudness[(t >= start) & (t < end)] = 0.45
    for at in accents:
        loudness += 0.5 * np.exp(-0.5 * ((t - at) / 0.07) ** 2)
    return track_of(loudness.astype(np.float32))


def weights(track: Array, seed: int, *, head: float = 1.0) -> Array:
    motion = Motion(track, FPS, seed, Amounts(head=head, blinks=False))
    return np.array([motion.pose(i).head for i in range(len(track))])


def column(name: str) -> int:
    return head.BASES.index(name)


def test_the_head_nods_on_stressed_syllables_and_the_brows_rise_with_them() -> None:
    accents = (2.0, 3.1, 4.4, 6.0, 7.3, 8.5)
    stressed = talk((1.0, 9.5), seconds=11, accents=accents)
    even = talk((1.0, 9.5), seconds=11)
    t = np.arange(len(even)) / FPS
    at_accents = np.array([np.argmin(np.abs(t - at - 0.04)) for at in accents])
    between = np.array([np.argmin(np.abs(t - at - 0.55)) for at in accents[:5]])
    for name in ("pitch", "brow"):
        extra = np.mean(
            [weights(stressed, k)[:, column(name)] - weights(even, k)[:, column(name)] for k in range(20)], 0
        )
        assert extra[at_accents].mean() > 5 * abs(extra[between].mean())


def test_a_new_posture_comes_with_each_phrase() -> None:
    track = talk((1, 3), (4, 6), (7, 9), seconds=10)
    speed = np.mean([np.abs(np.diff(weights(track, k)[:, column("yaw")])) for k in range(40)], 0)
    t = np.arange(len(speed)) / FPS
    starts = np.any([(t > at - 0.3) & (t < at + 0.55) for at in (4, 7)], axis=0)
    middles = np.any([(t > at + 0.9) & (t < at + 1.9) for at in (1, 4, 7)], axis=0)
    assert speed[starts].mean() > 3 * speed[middles].mean()


def test_the_head_rests_in_silence_and_moves_in_speech() -> None:
    silent = np.zeros((20 * FPS, 5), np.float32)
    spoken = talk((0.5, 4), (5, 9), (10, 13), (14, 19), seconds=20, accents=(1, 2.2, 6, 7, 11, 15, 17))
    for name in ("yaw", "pitch", "roll"):
        at_rest = np.mean([weights(silent, k)[:, column(name)].std() for k in range(10)])
        speaking = np.mean([weights(spoken, k)[:, column(name)].std() for k in range(10)])
        assert 0 < at_rest < 0.45 * speaking


def test_the_chest_fills_before_a_phrase_and_empties_with_its_words() -> None:
    breath = np.mean([weights(talk((3, 6), seconds=8), k)[:, column("breath")] for k in range(20)], 0)
    assert breath[3 * FPS] > 0.8 > 0.5 > breath[round(5.5 * FPS)]


@pytest.mark.parametrize("name", ["speech_en", "speech_de"])
def test_accents_of_real_speech_are_on_its_vowels(name: str) -> None:
    speech, phones = recording(name)
    track = speech_track(speech, int(len(speech) / 16_000 * FPS), FPS)
    prosody = prosody_of(track[:, 3], FPS)
    assert len(prosody.accents) >= 3
    near = [
        any(phone in VOWELS and start - 0.05 <= accent.at_s <= end + 0.05 for phone, start, end in phones)
        for accent in prosody.accents
    ]
    assert np.mean(near) >= 0.8


def test_two_recordings_with_a_pause_are_two_phrases() -> None:
    speech, phones = recording("speech_en")
    first_s = min(start for phone, start, _ in phones if phone != "SIL")
    pause = np.zeros(12_800, np.float32)
    track = speech_track(np.concatenate([pause, speech, pause, speech]), int((2 * len(speech) + 25_600) / 640), FPS)
    opening = [phrase.start_s for phrase in prosody_of(track[:, 3], FPS).phrases if phrase.opens]
    for start_s in (0.8 + first_s, 0.8 + len(speech) / 16_000 + 0.8 + first_s):
        assert min(abs(start_s - other) for other in opening) < 0.2


@settings(deadline=None, max_examples=40)
@given(
    loudness=st.lists(st.floats(0, 1, width=32), max_size=400),
    fps=st.sampled_from([24, 25, 30, 60]),
    seed=st.integers(0, 2**31),
)
def test_any_loudness_moves_the_head_smoothly_and_little(loudness: list[float], fps: int, seed: int) -> None:
    motion = Motion(track_of(np.array(loudness, np.float32)), fps, seed, Amounts())
    poses = np.array([motion.pose(i).head for i in range(len(loudness))])
    if len(loudness):
        assert np.isfinite(poses).all()
        assert not poses[0].any()
        angles = poses[:, [column(name) for name in ("roll", "yaw", "pitch")]]
        assert np.abs(angles).max() < 0.2
        assert np.abs(np.diff(angles, axis=0)).max(initial=0) * fps < 0.9


def test_head_motion_zero_keeps_the_head_still() -> None:
    still = weights(talk((1, 9), seconds=10, accents=(2, 4, 6)), 3, head=0)
    assert not still[:, [column(name) for name in ("across", "down", "roll", "yaw", "pitch")]].any()
