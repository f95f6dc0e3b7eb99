"""The error of captions on real speech, against the known times of words or phrases.

    python tests/load/caption_errors.py FOLDER

FOLDER has a folder for each language, with NAME.wav and a Praat TextGrid whose name begins with NAME. A tier
`TokensAlign` has the times of words. Without one, the longest tier with text has phrases between pauses; then the start
of each phrase's first word counts. The language is not given to the server, as most callers do not give it. Prints for
each language the median and the 90th percentile of the error in milliseconds.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from lipsync_server.media.captions.align import align
from lipsync_server.media.captions.script import words_of
from lipsync_server.media_types import SPEECH_RATE_HZ, Speech

WORD_TIER = "TokensAlign"
_NO_WORDS = re.compile(r"#|\*|\+|_|sil|dummy|sp|(ipu_?\d+)?|@+", re.IGNORECASE)
_MARKS = re.compile(r"^ipu_\d+|[#*+@_{}\[\]()]")


@dataclass(frozen=True)
class Spoken:
    """A word or a phrase: its first second, and its text."""

    start_s: float
    text: str


def spoken_in(grid: str) -> tuple[bool, list[Spoken]]:
    """Whether the TextGrid has times of words, and its words or phrases."""
    tiers = {}
    for part in re.split(r"item \[\d+\]:", grid)[1:]:
        name = re.search(r'name = "(.*?)"', part)
        found = re.findall(r'xmin = ([\d.]+)\s+xmax = [\d.]+\s+text = "(.*?)"', part, re.DOTALL)
        texts = [(float(start), text.strip("\ufeff \n")) for start, text in found]
        tiers[name[1] if name else ""] = [
            Spoken(start, _MARKS.sub(" ", text).strip()) for start, text in texts if not _NO_WORDS.fullmatch(text)
        ]
    if tiers.get(WORD_TIER):
        return True, tiers[WORD_TIER]
    return False, max(tiers.values(), key=lambda tier: sum(len(one.text) for one in tier), default=[])


def read_speech(path: Path) -> Speech:
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    return np.asarray(soxr.resample(samples.mean(1), rate_hz, SPEECH_RATE_HZ), np.float32)


def errors_ms(sound: Path, spoken: list[Spoken]) -> tuple[list[float], str, bool]:
    """The error of each start, the language that the server found, and whether script and sound fit."""
    parts = [(one, words_of(one.text)) for one in spoken]
    parts = [(one, words) for one, words in parts if words]
    heard = align([word for _, words in parts for word in words], read_speech(sound), None)
    # The server may join words of a script, so a phrase is found by the number of letters before it.
    letters = np.cumsum([0, *(sum(len(word.text) for word in words) for _, words in parts)])[:-1]
    places = np.cumsum([0, *(len(word.text) for word in heard.words)])[:-1]
    found = [heard.words[int(np.searchsorted(places, place))].start_s for place in letters]
    errors = [1000 * abs(at - one.start_s) for at, (one, _) in zip(found, parts, strict=True)]
    return errors, heard.language, heard.fits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    print(
        "| language | recordings | what is timed | how many | median ms | 90 % within ms |\n|---|---|---|---|---|---|"
    )
    for language in sorted(path for path in folder.iterdir() if path.is_dir()):
        errors: list[float] = []
        kinds, n_recordings = set(), 0
        for sound in sorted(language.glob("*.wav")):
            grids = sorted(language.glob(f"{sound.stem}*.TextGrid"))
            if not grids:
                continue
            has_words, spoken = spoken_in(grids[0].read_text(encoding="utf-8"))
            found, heard_language, fits = errors_ms(sound, spoken)
            kinds.add("words" if has_words else "phrases")
            errors += found
            n_recordings += 1
            print(f"{sound.name}: taken for {heard_language}{'' if fits else ', with a warning'}", file=sys.stderr)
        if errors:
            median, most = np.percentile(errors, [50, 90])
            print(f"| {language.name} | {n_recordings} | {', '.join(sorted(kinds))} | {len(errors)} | {median:.0f} "
                  f"| {most:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
