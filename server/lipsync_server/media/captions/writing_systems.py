"""The writing system of a letter, the languages that use it, and the voice that can read it.

espeak-ng reads the letters of its own language and Latin letters. It spells those of most other writing systems, letter
by letter ("Chinese letter, Chinese letter"), which takes many times as long as the word. So words in another writing
system are read by a voice of that system. Knows Unicode's names of letters; does not know words.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from typing import Final

# Languages that espeak-ng speaks, by the writing system that Unicode's character names begin with. The likeliest first.
LANGUAGES: Final[dict[str, tuple[str, ...]]] = {
    "LATIN": ("en", "pt-BR", "es", "fr", "de", "it", "nl", "pl", "tr", "id", "vi", "sv", "ro", "cs", "hu", "fi"),
    "CYRILLIC": ("ru", "uk", "bg", "sr", "kk"),
    "ARABIC": ("ar", "fa", "ur"),
    "CJK": ("cmn", "yue"),
    "HIRAGANA": ("ja",),
    "KATAKANA": ("ja",),
    "HANGUL": ("ko",),
    "DEVANAGARI": ("hi", "mr", "ne"),
    "HEBREW": ("he",),
    "GREEK": ("el",),
    "THAI": ("th",),
    "MYANMAR": ("my",),
    "BENGALI": ("bn", "as"),
    "TAMIL": ("ta",),
    "TELUGU": ("te",),
    "KANNADA": ("kn",),
    "MALAYALAM": ("ml",),
    "GUJARATI": ("gu",),
    "GURMUKHI": ("pa",),
    "ORIYA": ("or",),
    "SINHALA": ("si",),
    "GEORGIAN": ("ka",),
    "ARMENIAN": ("hy",),
    "ETHIOPIC": ("am", "ti"),
}
NO_VOICE: Final = "none"
"""In the place of a voice's language, where espeak-ng has no voice for a writing system."""
_READ_BY_ALL: Final = frozenset({"LATIN"})
"""Systems that every voice reads: those of other languages switch to English for Latin words by themselves."""
_CHINESE: Final = frozenset({"cmn", "yue", "hak", "zh", "nan", "wuu"})
_READ_OTHERWISE: Final = {"ja": "CJK", "ko": "CJK"}
"""Languages in which letters of this system have a sound that a voice of the system's own languages does not know:
kanji and hanja."""


_HIDES_VOWELS: Final = frozenset({"ARABIC", "HEBREW"})
"""Systems in which short vowels are marks above and below the letters, and are rarely written."""
_FEW_MARKS: Final = 0.2
"""Marks to letters, below which a text counts as written without them: full Arabic marks are about 0.7 to a letter."""
_NO_SYSTEM: Final = frozenset({"COMBINING", "MODIFIER", "FEMININE", "MASCULINE", "SUPERSCRIPT", "SUBSCRIPT"})
"""First words of the names of letters that belong to no writing system, such as ª."""


@lru_cache(maxsize=4096)
def system_of(c: str) -> str:
    """The writing system of a letter: the first word of its Unicode name, such as LATIN or CJK; "" for no letter."""
    if not c.isalpha():
        return ""
    system = unicodedata.name(unicodedata.normalize("NFKC", c)[0], "").partition(" ")[0].partition("-")[0]
    if system == "IDEOGRAPHIC":  # 々 repeats the character before it
        return "CJK"
    return "" if system in _NO_SYSTEM else system


def languages_of(text: str) -> tuple[str, ...]:
    """The languages that `text` may be in, by its writing system; empty where espeak-ng speaks none of them."""
    systems = _counted(text)
    if systems["HIRAGANA"] + systems["KATAKANA"]:
        return LANGUAGES["HIRAGANA"]
    for system, _ in systems.most_common():
        if system in LANGUAGES:
            return LANGUAGES[system]
    return () if systems else LANGUAGES["LATIN"]


def systems_read_in(language: str, text: str) -> frozenset[str]:
    """The writing systems that the voice of `language` reads itself.

    text: the whole script. A language that is not in the table above is written in the script's commonest system.
    """
    main = language.lower().partition("-")[0]
    if main in _CHINESE:
        return _READ_BY_ALL | {"CJK"}
    own = {system for system, codes in LANGUAGES.items() if main in {code.partition("-")[0] for code in codes}}
    if not own:
        own = {system for system, _ in _counted(text).most_common(1) if system != "CJK"}
    return _READ_BY_ALL | own


def runs_by_voice(text: str, read: frozenset[str]) -> Iterator[tuple[str, str]]:
    """`text` in parts, each with the language of the voice that reads it: "" for the voice of the script's own
    language, NO_VOICE where no voice reads it.

    read: of `systems_read_in`. Marks and digits belong to the letters before them.
    """
    voice = ""
    voices = []
    for c in text:
        system = system_of(c)
        if system:
            voice = "" if system in read else LANGUAGES.get(system, (NO_VOICE,))[0]
        voices.append(voice)
    for each, part in groupby(zip(voices, text, strict=True), key=lambda pair: pair[0]):
        yield each, "".join(c for _, c in part)


def is_guessed(text: str, language: str, read: frozenset[str]) -> bool:
    """Whether no voice knows the sound of a letter of `text`: of kanji, hanja, and systems that espeak-ng lacks."""
    otherwise = _READ_OTHERWISE.get(language.lower().partition("-")[0])
    return any(
        system not in read and (system == otherwise or system not in LANGUAGES)
        for system in {system_of(c) for c in text} - {""}
    )


def hides_vowels(text: str) -> bool:
    """Whether most letters of `text` are Arabic or Hebrew ones, with few marks for their short vowels.

    A voice has to guess such vowels. Hebrew's points do not count, because the server's voice does not read them.
    """
    systems = _counted(text)
    n_hiding = sum(systems[system] for system in _HIDES_VOWELS)
    n_marks = sum("\u064b" <= c <= "\u0652" for c in text)
    return n_hiding > systems.total() / 2 and n_marks < _FEW_MARKS * n_hiding


def _counted(text: str) -> Counter[str]:
    """How many letters of each writing system `text` has."""
    return Counter(system for c in text if (system := system_of(c)))
