"""Speak a corpus with flite's voices and flite's own phone times. The voices were built from recordings of four people.

    python speak_flite.py OUT.npz --minutes 30

flite has English pronunciation only. Sentences of other languages are read as English; they add phone sequences.
"""

import argparse
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import corpus
import numpy as np
import soundfile
from espeak import Utterance
from phones import Segment, from_arpabet, spread
from texts import sentences

VOICES = ["slt", "rms", "awb", "kal16"]


def say(text: str, voice: str, stretch: float, pitch_hz: int, scratch: Path) -> Utterance:
    wav = scratch / "flite.wav"
    settings = ["--setf", f"duration_stretch={stretch:.2f}", "--setf", f"int_f0_target_mean={pitch_hz}"]
    command = ["flite", "-voice", voice, "-psdur", *settings, "-t", text, str(wav)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    audio, rate = soundfile.read(wav, dtype="float32")
    if rate != corpus.RATE_HZ:
        raise ValueError(f"flite's voice {voice} speaks at {rate} Hz, not 16000; leave it out")
    segments: list[Segment] = []
    start = 0.0
    for part in printed.split():
        name, _, end = part.rpartition(":")
        segments += spread(from_arpabet(name), start, float(end))
        start = float(end)
    return Utterance(audio, segments)


def speak(minutes: float, rng: np.random.Generator) -> Iterator[tuple[str, Utterance]]:
    sources = [sentences(v, rng) for v in ("en-us", "en-us", "en-us", "de", "es", "it", "pt-br")]
    spoken_s = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        while spoken_s < minutes * 60:
            text = next(sources[int(rng.integers(len(sources)))]).encode("ascii", "ignore").decode()
            voice = str(rng.choice(VOICES))
            low, high = {"slt": (140, 240), "rms": (75, 140), "awb": (85, 160), "kal16": (75, 140)}[voice]
            said = say(text, voice, float(rng.uniform(0.8, 1.3)), int(rng.integers(low, high)), Path(scratch))
            spoken_s += len(said.audio) / corpus.RATE_HZ
            yield f"flite/{voice}", said


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out", type=Path)
    ap.add_argument("--minutes", type=float, default=30)
    ap.add_argument("--seed", type=int, default=3)
    a = ap.parse_args()
    n = corpus.write(a.out, speak(a.minutes, np.random.default_rng(a.seed)))
    print(n, "utterances")
