"""Fit the readout: the last, linear step from the networks' outputs to the opening of the mouth, on filmed people.

    python fit_readout.py RECORDINGS --weights ../../../weights/preview_mouth.npz [--out FILE]

RECORDINGS is a folder with `split.json` (the clips and their speakers), `clips/NAME.mp4` and `curves.npz`
(`NAME/opening`, the gap between the lips in face heights at 100 Hz). Prints the agreement with each speaker when the
step is fitted on the others, then fits it on all of them and writes it, with the credit that the recordings' licence
asks for, into the weight file. The result is the same on every run.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import augment
import av
import numpy as np
from lipsync_server.engines.preview import speech
from lipsync_server.engines.preview.readout import OPENING, SPEAKING, Readout, evidence_of
from numpy.typing import NDArray
from phones import CLASSES, LIPS
from scipy.ndimage import gaussian_filter1d

Array = NDArray[np.float64]

OFFSETS = (-10, -6, -3, 0, 3, 6, 10)
# The strength with which the weights are pulled to the network's own opening (ridge regression).
RIDGE = 100.0
# Every clip is heard as it is and in this many degraded copies (augment.py), so that rooms and microphones matter less.
COPIES = 1
# Steps of 10 ms: silence before and after the sentence counts for no more than this, since a rule shuts the lips there.
_EDGE = 15
_SMOOTH = 2.0

CREDIT = (
    "The mouth network was trained in part on mouth movements measured in the GRID audio-visual speech corpus: "
    "M. Cooke, J. Barker, S. Cunningham, X. Shao, The Grid Audio-Visual Speech Corpus (1.0), 2006, "
    "https://doi.org/10.5281/zenodo.3625687, licensed under CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/). "
    "Changes: clips cropped, re-encoded and reduced to curves of mouth opening and width. "
    "The authors of the corpus do not endorse this software."
)


@dataclass(frozen=True)
class Clip:
    """One recording.

    opening: (n,), 0 near the speaker's shut lips, 1 at the speaker's usual wide opening. evidence: one (n, n_outputs)
    for the clip as it is and for each degraded copy. spoken: the steps from shortly before to shortly after the words.
    """

    name: str
    speaker: str
    opening: Array
    evidence: tuple[Array, ...]
    spoken: slice


def read_sound(path: Path) -> NDArray[np.float32]:
    """The sound of a video, float32 (n_samples,), mono at 16 kHz."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=speech.SPEECH_RATE_HZ)
        blocks = [block for frame in container.decode(audio=0) for block in resampler.resample(frame)]
        blocks += resampler.resample(None)
    return np.concatenate([block.to_ndarray().reshape(-1) for block in blocks]).astype(np.float32)


def hear(sound: NDArray[np.float32], networks: tuple[speech.Network, ...]) -> tuple[Array, NDArray[np.bool_]]:
    """The outputs of `networks` for `sound`: evidence (n, n_outputs), smoothed, and where somebody speaks, (n,)."""
    n = len(sound) // (speech.SPEECH_RATE_HZ // speech.GRID_HZ) + 1
    features, level = speech.normalise(speech.log_mel(sound, 0, n), speech.loud_level(sound))
    evidence = evidence_of(speech.predict(features, networks))
    return gaussian_filter1d(evidence.astype(np.float64), _SMOOTH, axis=0), speech.talking_steps(
        evidence[:, SPEAKING], level
    )


def read_clips(folder: Path, networks: tuple[speech.Network, ...]) -> list[Clip]:
    rng = np.random.default_rng(0)
    rows = json.loads((folder / "split.json").read_text())["clips"]
    sounds = {row["clip"]: read_sound(folder / "clips" / f"{row['clip']}.mp4") for row in rows}
    babble = np.concatenate(list(sounds.values())[:4])
    clips = []
    with np.load(folder / "curves.npz", allow_pickle=False) as curves:
        for speaker in sorted({row["speaker"] for row in rows}):
            names = [row["clip"] for row in rows if row["speaker"] == speaker]
            shut, wide = np.percentile(np.concatenate([curves[f"{name}/opening"] for name in names]), [3, 95])
            for name in names:
                copies = [augment.degrade(sounds[name], rng, babble) for _ in range(COPIES)]
                heard = [hear(sound, networks) for sound in (sounds[name], *copies)]
                gap = curves[f"{name}/opening"]
                n = min(len(gap), *(len(evidence) for evidence, _ in heard))
                words = np.flatnonzero(heard[0][1][:n])
                spoken = slice(max(0, int(words[0]) - _EDGE), min(n, int(words[-1]) + 1 + _EDGE))
                opening = np.clip((gap[:n] - shut) / (wide - shut), -0.1, 1.4)
                clips.append(Clip(name, speaker, opening, tuple(evidence[:n] for evidence, _ in heard), spoken))
    return clips


def _moments(evidence: Array) -> Array:
    """(n, n_outputs) -> (n, len(OFFSETS) * columns): the outputs at each moment, and sums over phones that share lips.

    A language has phones that the recordings lack. The last three columns of each moment are the opening, the width and
    the squared opening that the table of phones expects, so such a phone moves with its neighbours in the table.
    """
    columns = evidence @ _widen(evidence.shape[1])
    steps = np.clip(np.arange(len(columns))[:, None] + np.array(OFFSETS), 0, len(columns) - 1)
    return columns[steps].reshape(len(columns), -1)


def _widen(n_outputs: int) -> Array:
    """The matrix (n_outputs, n_outputs + 3) that adds the three table columns to the outputs."""
    table = np.zeros((n_outputs, 3))
    lips = [LIPS[name] for name in CLASSES]
    table[-len(lips) :] = [(one.opening, one.width, one.opening**2) for one in lips]
    return np.concatenate([np.eye(n_outputs), table], axis=1)


def fit(clips: list[Clip]) -> Readout:
    """Ridge regression of the opening on the networks' outputs.

    The weights are pulled to a straight line over the network's own opening, not to zero: where the recordings say
    little, the mouth stays as synthetic speech taught it.
    """
    shares = [(clip, evidence) for clip in clips for evidence in clip.evidence]
    inputs = np.concatenate([_moments(evidence)[clip.spoken] for clip, evidence in shares])
    target = np.concatenate([clip.opening[clip.spoken] for clip, _ in shares])
    n_outputs = clips[0].evidence[0].shape[1]
    n_columns = inputs.shape[1] // len(OFFSETS)
    own = OFFSETS.index(0) * n_columns + OPENING
    slope, _ = np.polyfit(inputs[:, own], target, 1)
    mean, middle = inputs.mean(axis=0), target.mean()
    centred = inputs - mean
    rest = target - middle - slope * centred[:, own]
    # Copies of a clip are one recording, so together they weigh as much as one.
    ridge = RIDGE * (1 + COPIES) * np.eye(len(mean))
    weights = np.linalg.solve(centred.T @ centred + ridge, centred.T @ rest)
    weights[own] += slope
    # The table columns are sums of the outputs, so their weights are added to those of the outputs.
    folded = weights.reshape(len(OFFSETS), n_columns) @ _widen(n_outputs).T
    return Readout(OFFSETS, folded.astype(np.float32), float(middle - mean @ weights))


def agreement(clips: list[Clip], readout: Readout | None) -> float:
    """Mean correlation with the filmed lips while somebody speaks; without a readout that of the network's opening."""
    values = []
    for clip in clips:
        evidence = clip.evidence[0].astype(np.float32)
        opening = readout(evidence) if readout else evidence[:, OPENING]
        values.append(np.corrcoef(opening[clip.spoken], clip.opening[clip.spoken])[0, 1])
    return float(np.mean(values))


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("recordings", type=Path)
    ap.add_argument("--weights", type=Path, required=True)
    ap.add_argument("--out", type=Path)
    a = ap.parse_args()
    clips = read_clips(a.recordings, speech.load_networks(a.weights))
    print("speaker           clips  network  readout of the others")
    table = []
    for speaker in sorted({clip.speaker for clip in clips}):
        mine = [clip for clip in clips if clip.speaker == speaker]
        others = fit([clip for clip in clips if clip.speaker != speaker])
        table.append((agreement(mine, None), agreement(mine, others)))
        print(f"{speaker:16s} {len(mine):6d} {table[-1][0]:8.3f} {table[-1][1]:8.3f}")
    print(f"{'mean':16s} {len(clips):6d} {np.mean([t[0] for t in table]):8.3f} {np.mean([t[1] for t in table]):8.3f}")
    readout = fit(clips)
    with np.load(a.weights, allow_pickle=False) as z:
        arrays = {key: z[key] for key in z.files if not key.startswith(("readout_", "credit"))}
    np.savez(
        a.out or a.weights,
        **arrays,
        readout_offsets=np.array(readout.offsets),
        readout_weights=readout.weights,
        readout_bias=np.float32(readout.bias),
        credit=np.array(CREDIT),
    )
