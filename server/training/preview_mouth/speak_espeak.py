"""Speak a corpus with espeak-ng: many languages, voice variants, speeds and pitches.

python speak_espeak.py OUT.npz --minutes 90
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import corpus
import numpy as np
from espeak import RATE_HZ, Espeak, Utterance
from texts import VOICES, sentences

# Voice variants that sound like people. Whispering and robot voices are left out.
VARIANTS = """f1 f2 f3 f4 f5 m1 m2 m3 m4 m5 m6 m7 m8 Andy Annie Alex Alicia Andrea Denis Diogo Gene Hugo Jacky
Lee Marco Mario Michael Mike adam anika announcer antonio aunty belinda benjamin boris david ed
edward grandma grandpa gustave iven john linda klatt klatt2 klatt3 klatt4 max michel miguel
norbert pablo paul pedro quincy rob robert sandro shelby steph steph2 travis victor zac"""


def speak(minutes: float, rng: np.random.Generator) -> Iterator[tuple[str, Utterance]]:
    synthesizer = Espeak()
    sources = {v: sentences(v, rng) for v in VOICES}
    weight = {
        v: 3.0 if v in ("en-us", "de", "fr", "es", "pt-br", "it", "cmn-latn-pinyin", "ru", "hi", "ja") else 1.0
        for v in VOICES
    }
    spoken_s = 0.0
    while spoken_s < minutes * 60 and sources:
        names = list(sources)
        p = np.array([weight[v] for v in names])
        voice = str(rng.choice(names, p=p / p.sum()))
        text = next(sources[voice], None)
        if text is None:
            del sources[voice]
            continue
        variant = str(rng.choice(["", *VARIANTS.split()]))
        accent = str(rng.choice(["en-gb", "en-us", "en-gb-scotland", "en-gb-x-rp"])) if voice == "en-us" else voice
        said = synthesizer.say(
            text,
            f"{accent}+{variant}" if variant else accent,
            words_per_minute=int(rng.integers(120, 230)),
            pitch=int(rng.integers(15, 85)),
            pitch_range=int(rng.integers(30, 80)),
        )
        if said is None or len(said.audio) < RATE_HZ or np.abs(said.audio).max() < 0.01:
            continue
        spoken_s += len(said.audio) / RATE_HZ
        yield f"espeak/{voice}", said


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out", type=Path)
    ap.add_argument("--minutes", type=float, default=90)
    ap.add_argument("--seed", type=int, default=1)
    a = ap.parse_args()
    n = corpus.write(a.out, speak(a.minutes, np.random.default_rng(a.seed)))
    print(n, "utterances")
