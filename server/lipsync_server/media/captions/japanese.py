"""Japanese text as words with their readings in kana, by the dictionary Sudachi.

espeak-ng reads kana and no kanji, and Japanese has no blanks between words. Sudachi (Apache-2.0, the extra "japanese"
of pyproject.toml) cuts a text into short units and knows the reading of each. Units that belong together, such as a
noun and its particle, are joined into one word of a caption: 写真 + から becomes 写真から. Runs in a decoder process.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from lipsync_server.extras import missing_packages
from lipsync_server.media.captions.script import Word, ends_sentence, words_of
from lipsync_server.media.captions.writing_systems import system_of

PACKAGES: Final = ("sudachipy", "sudachidict_small")
_LONGEST_TEXT: Final = 4000
"""Letters in one call. Sudachi takes at most 49,149 bytes."""
_LONGEST_WORD: Final = 8
"""Letters after which a word of a caption takes no further unit, so that a line can hold it."""
_READINGS: Final = {
    ("は", "助詞"): "ワ",
    ("へ", "助詞"): "エ",
    ("私", "代名詞"): "ワタシ",
    ("日本", "名詞"): "ニホン",
    ("明日", "名詞"): "アシタ",
}
"""Readings of speech where Sudachi gives those of spelling or of formal style, by text and part of speech."""
_AFTER_DIGITS: Final = {"日": "ニチ", "人": "ニン", "分": "フン", "月": "ガツ", "年": "ネン", "時": "ジ", "本": "ホン"}
"""Readings of counters after a number in digits, which Sudachi reads as if they stood alone."""
_JOINS_BEFORE: Final = frozenset({"助詞", "助動詞", "接尾辞"})
"""Parts of speech that belong to the word before: particles, auxiliary verbs and suffixes."""
_HELPERS: Final = frozenset({"動詞", "形容詞"})


@dataclass(frozen=True)
class _Unit:
    """One unit of Sudachi: its text, its reading in katakana, and its parts of speech, from the general to the fine."""

    text: str
    reading: str
    kind: tuple[str, ...]

    @property
    def is_blank(self) -> bool:
        return self.text.isspace()

    @property
    def is_sign(self) -> bool:
        return not any(c.isalnum() for c in self.text)

    @property
    def opens(self) -> bool:
        return unicodedata.category(self.text[0]) in ("Ps", "Pi")

    @property
    def closes(self) -> bool:
        return unicodedata.category(self.text[0]) in ("Pe", "Pf")

    @property
    def is_number(self) -> bool:
        return "数詞" in self.kind[:3]


def can_read_kanji() -> bool:
    """Whether the packages that know the readings of kanji are installed."""
    return not missing_packages(PACKAGES)


def is_japanese(language: str) -> bool:
    """Whether `language` is a code of Japanese, such as ja or ja-JP."""
    return language.lower().partition("-")[0] == "ja"


def has_kanji(text: str) -> bool:
    """Whether `text` has a letter that espeak-ng cannot read in Japanese."""
    return any(system_of(c) == "CJK" for c in text)


def in_kana(text: str) -> str:
    """`text` as the voice reads it: in kana, with blanks between words."""
    return " ".join(word.spoken for word in with_readings(words_of(text)))


def with_readings(words: Sequence[Word]) -> list[Word]:
    """The same text in the words of a Japanese reader, with readings. A unit without a known reading keeps its text."""
    joined: list[Word] = []
    for text, blank_before in _texts(words):
        joined += _words(_units(text), blank_before)
    return joined


def _texts(words: Iterable[Word]) -> Iterator[tuple[str, bool]]:
    """The text of `words` in parts that Sudachi takes, cut after sentences where there are some; and whether a blank
    stands before each part."""
    text, blank_before = "", True
    for word in words:
        if not text:
            blank_before = word.blank_before
        text += (" " if word.blank_before and text else "") + word.text
        if len(text) > _LONGEST_TEXT or (len(text) > _LONGEST_TEXT / 2 and ends_sentence(word.text)):
            yield text, blank_before
            text = ""
    if text:
        yield text, blank_before


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from sudachipy import Dictionary, SplitMode

    return Dictionary(dict="small").tokenizer(mode=SplitMode.A)


def _units(text: str) -> Iterator[_Unit]:
    for each in _tokenizer().tokenize(text):
        yield _Unit(each.surface(), each.reading_form(), tuple(each.part_of_speech()))


def _words(units: Iterable[_Unit], blank_before: bool) -> Iterator[Word]:
    """Join units into words. Signs belong to the word before, opening brackets to the word after."""
    word: list[_Unit] = []
    for unit in units:
        if (unit.is_blank or not _belongs(unit, word)) and any(not each.is_sign for each in word):
            yield _joined(word, blank_before)
            word, blank_before = [], unit.is_blank
        if not unit.is_blank:
            word.append(unit)
    if word:
        yield _joined(word, blank_before)


def _belongs(unit: _Unit, word: Sequence[_Unit]) -> bool:
    """Whether `unit` is part of the word that the units before it make."""
    if unit.is_sign:
        return not unit.opens
    if all(each.is_sign for each in word):
        return True
    before = word[-1]
    if before.closes and unit.kind[0] == "助詞":
        return True
    if before.is_sign or sum(len(each.text) for each in word) >= _LONGEST_WORD:
        return False
    if unit.kind[0] in _JOINS_BEFORE or before.kind[0] == "接頭辞":
        return True
    if before.is_number:
        return unit.is_number or "助数詞可能" in unit.kind
    # する after a noun, and いる, くださる and the like after て.
    is_helper = unit.kind[0] in _HELPERS and unit.kind[1] == "非自立可能"
    return is_helper and (before.text in ("て", "で") or "サ変可能" in before.kind)


def _joined(word: Sequence[_Unit], blank_before: bool) -> Word:
    reading = ""
    after_digits = False
    for unit in word:
        has_digits = unit.is_number and any(c.isdecimal() for c in unit.text)
        # The voice reads digits and unknown letters itself; blanks keep them apart from kana.
        if has_digits or unit.is_sign:
            reading += f" {unit.text}" if has_digits else unit.text
        else:
            known = _AFTER_DIGITS.get(unit.text) if after_digits else _READINGS.get((unit.text, unit.kind[0]))
            read = known or (unit.reading if _is_kana(unit.reading) else unit.text)
            reading += f" {read}" if after_digits or not _is_kana(read) else read
        after_digits = has_digits
    return Word("".join(unit.text for unit in word), blank_before, reading.strip())


def _is_kana(text: str) -> bool:
    return bool(text) and all(system_of(c) in ("HIRAGANA", "KATAKANA") for c in text)
