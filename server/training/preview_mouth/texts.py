"""Sentences to speak, in as many languages as the machine has text for.

Knows the paths of Debian's `fortunes-*` packages and of the translations of `iso-codes`; any text would serve. A
synthesizer speaks the words; they are not stored.
"""

import gettext
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_FORTUNES = Path("/usr/share/games/fortunes")
_FOLDERS = {"en-us": "", "de": "de", "es": "es", "it": "it", "pt-br": "brasil", "cs": "cs", "pl": "pl", "bg": "bg",
            "ga": "ga", "ru": "ru",
            "sk": "sk"}  # fmt: skip
_LOCALES = Path("/usr/share/locale")
# espeak-ng voice -> gettext locale of iso-codes
_NAMES = {
    "fr": "fr", "nl": "nl", "sv": "sv", "da": "da", "nb": "nb", "fi": "fi", "hu": "hu", "ro": "ro", "tr": "tr",
    "el": "el", "uk": "uk",
    "hr": "hr", "sl": "sl", "sr": "sr", "lt": "lt", "lv": "lv", "et": "et", "ca": "ca", "eu": "eu", "gl": "gl",
    "cy": "cy", "hi": "hi",
    "bn": "bn", "ta": "ta", "te": "te", "mr": "mr", "ar": "ar", "fa": "fa", "id": "id", "ms": "ms", "vi": "vi",
    "sw": "sw", "ka": "ka",
    "ko": "ko", "kn": "kn", "ml": "ml", "pa": "pa", "gu": "gu", "is": "is", "sq": "sq", "mk": "mk", "af": "af",
    "pt": "pt",
}  # fmt: skip
_INITIALS = "b p m f d t n l g k h j q x zh ch sh r z c s"
_FINALS = "a o e ai ei ao ou an en ang eng i u ia ie iao iu ian in iang ing ua uo uai ui uan un uang ong"
_HIRAGANA = [chr(c) for c in range(0x3042, 0x3094) if chr(c) not in "ぁぃぅぇぉっゃゅょゎゐゑぢづ"]
VOICES = [*_FOLDERS, *_NAMES, "cmn-latn-pinyin", "ja"]


def _sentences(text: str) -> list[str]:
    parts = re.split(r"(?<=[.!?])\s+|\n%|\n\n", text)
    tidy = (re.sub(r"\s+", " ", p).strip(" -\"'«»*%") for p in parts)
    return [p for p in tidy if 25 <= len(p) <= 160 and not re.search(r"[|_{}<>@#=/\\\x00-\x1f]|\d{3}|--", p)]


def _read(folder: str) -> list[str]:
    root = _FORTUNES / folder
    files = (
        [root]
        if root.is_file()
        else [p for p in sorted(root.glob("*")) if p.is_file() and p.suffix not in (".dat", ".u8")]
    )
    out: list[str] = []
    for path in files[:60]:
        try:
            out += _sentences(path.read_text("utf8"))
        except UnicodeDecodeError:
            continue
    return out


def _names(locale: str) -> list[str]:
    out: set[str] = set()
    for domain in ("iso_3166-1", "iso_639-2", "iso_4217"):
        path = _LOCALES / locale / "LC_MESSAGES" / f"{domain}.mo"
        if path.exists():
            with path.open("rb") as f:
                catalog = gettext.GNUTranslations(f)
            out |= {v for v in catalog._catalog.values() if isinstance(v, str) and 4 <= len(v) <= 60}  # type: ignore[attr-defined]  # private
    return sorted(out)


def _made_up(kind: str, rng: np.random.Generator) -> str:
    """Make words of random kana or pinyin. espeak-ng reads both, and the machine has no Japanese or Chinese text."""
    initials, finals = _INITIALS.split(), _FINALS.split()
    words = []
    for _ in range(rng.integers(4, 10)):
        n = rng.integers(1, 4)
        if kind == "ja":
            words.append("".join(rng.choice(_HIRAGANA) for _ in range(n + 1)))
        else:
            tones = rng.integers(1, 5, n)
            words.append("".join(f"{rng.choice(initials)}{rng.choice(finals)}{tone}" for tone in tones))
    return " ".join(words)


def sentences(voice: str, rng: np.random.Generator) -> Iterator[str]:
    """Yield sentences for an espeak-ng voice without end; none at all if the machine has no text in its language."""
    if voice in ("ja", "cmn-latn-pinyin"):
        while True:
            yield _made_up(voice, rng)
    pool = _read(_FOLDERS[voice]) if voice in _FOLDERS else []
    names = _names(_NAMES[voice]) if voice in _NAMES else []
    if len(pool) < 20 and len(names) < 20:
        return
    while True:
        if len(pool) >= 20:
            yield str(rng.choice(pool))
        else:
            yield ", ".join(rng.choice(names, rng.integers(2, 5))) + "."
