"""Split a script into words, in any writing system: the text of each word in a caption, and its spoken form.

Scripts come from language models and speech services, so markup that is not spoken is left out: SSML tags such as
<break time="1s"/> and stage directions in square brackets such as [whispers].
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_NOT_SPOKEN: Final = re.compile(r"<[^<>]{0,400}>|\[[^\[\]]{0,200}\]")
# Writing systems without blanks between words. A caption line may break after any of their letters.
_WITHOUT_BLANKS: Final = frozenset({"CJK", "HIRAGANA", "KATAKANA"})
# Here blanks stand between phrases, and only a dictionary finds the words in them. A long phrase is cut evenly.
_BLANKS_BETWEEN_PHRASES: Final = frozenset({"THAI", "LAO", "KHMER", "MYANMAR"})
_LONGEST_PHRASE: Final = 20
_CHINESE: Final = frozenset({"cmn", "yue", "hak", "zh"})
_ENDS_SENTENCE: Final = tuple(".!?…。！？؟।။።")
_ENDS_CLAUSE: Final = tuple(",;:，、；：،؛—–")
_CLOSING: Final = "\"'”’»)]}」』）"
# Languages that espeak-ng speaks, by the writing system that Unicode's character names begin with. The likeliest first.
_LANGUAGES: Final[dict[str, tuple[str, ...]]] = {
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


@dataclass(frozen=True)
class Word:
    """One word of a script. text: as shown, with its punctuation. blank_before: whether a blank separates it from the
    word before. In writing without blanks a word is one letter with its marks."""

    text: str
    blank_before: bool = True

    @property
    def spoken(self) -> str:
        """The word for speech synthesis: without symbols that have no sound, such as emoji."""
        return without_symbols(self.text)


def without_markup(script: str) -> str:
    """`script` without SSML tags and stage directions."""
    return _NOT_SPOKEN.sub(" ", unicodedata.normalize("NFC", script))


def without_symbols(text: str) -> str:
    """`text` without symbols that have no sound, such as emoji, and without control characters."""
    return "".join(c for c in text if not unicodedata.category(c).startswith(("So", "Cs", "Co", "Cn", "Cc")))


def words_of(script: str) -> list[Word]:
    """The words of `script` in order. A token without letters or digits belongs to the word before it."""
    words: list[Word] = []
    for token in without_markup(script).split():
        blank = True
        for piece in _pieces(token):
            if _is_spoken(piece) or not words:
                words.append(Word(piece, blank))
            else:
                words[-1] = Word(words[-1].text + (" " if blank else "") + piece, words[-1].blank_before)
            blank = False
    if len(words) > 1 and not _is_spoken(words[0].text):
        words[:2] = [
            Word(f"{words[0].text} {words[1].text}" if words[1].blank_before else words[0].text + words[1].text)
        ]
    return [word for word in words if _is_spoken(word.text)]


def candidate_languages(words: list[Word]) -> tuple[str, ...]:
    """The languages that `words` may be in, by their writing system; empty where espeak-ng speaks none of them."""
    systems = Counter(_system(c) for word in words for c in word.text if c.isalpha())
    if systems["HIRAGANA"] + systems["KATAKANA"]:
        return _LANGUAGES["HIRAGANA"]
    for system, _ in systems.most_common():
        if system in _LANGUAGES:
            return _LANGUAGES[system]
    return () if systems else _LANGUAGES["LATIN"]


def unread_letters(words: list[Word], language: str) -> str:
    """The letters of `words` that espeak-ng cannot read in `language`, once each, in order.

    espeak-ng reads Chinese characters in Chinese languages only. In Japanese (kanji) it says "Chinese letter" instead.
    """
    if language.lower().partition("-")[0] in _CHINESE:
        return ""
    return "".join(dict.fromkeys(c for word in words for c in word.spoken if _system(c) == "CJK"))


def ends_sentence(text: str) -> bool:
    """Whether a word carries the end of a sentence, perhaps within quotation marks."""
    return text.rstrip(_CLOSING)[-1:] in _ENDS_SENTENCE


def ends_clause(text: str) -> bool:
    """Whether a word carries a comma or the like."""
    return text.rstrip(_CLOSING)[-1:] in _ENDS_CLAUSE


def is_right_to_left(text: str) -> bool:
    """Whether the first strong character of `text` is written from right to left (Unicode UAX 9, rule P2)."""
    for c in text:
        direction = unicodedata.bidirectional(c)
        if direction in ("L", "R", "AL"):
            return direction != "L"
    return False


def _pieces(token: str) -> Iterator[str]:
    """A token as it is, letter by letter where the writing system has no blanks, or a long phrase in parts."""
    if len(token) > _LONGEST_PHRASE and _system(_last_letter(token)) in _BLANKS_BETWEEN_PHRASES:
        yield from _parts(token)
        return
    piece = ""
    for c in token:
        starts = bool(piece) and _is_spoken(piece) and not unicodedata.category(c).startswith(("M", "P"))
        if starts and (_stands_alone(c) or _stands_alone(piece[-1]) or _stands_alone(_last_letter(piece))):
            yield piece
            piece = ""
        piece += c
    yield piece


def _parts(phrase: str) -> Iterator[str]:
    """A phrase in parts of about equal length, cut before a letter that carries its own marks."""
    n_parts = -(-len(phrase) // _LONGEST_PHRASE)
    wanted, part = len(phrase) / n_parts, ""
    for c in phrase:
        if len(part) >= wanted and unicodedata.category(c) == "Lo":
            yield part
            part = ""
        part += c
    yield part


def _last_letter(piece: str) -> str:
    return next((c for c in reversed(piece) if c.isalnum()), piece[-1])


def _stands_alone(c: str) -> bool:
    return c.isalpha() and _system(c) in _WITHOUT_BLANKS


def _is_spoken(text: str) -> bool:
    return any(c.isalnum() for c in text)


def _system(c: str) -> str:
    """The writing system of a letter: the first word of its Unicode name, such as LATIN or CJK."""
    return unicodedata.name(c, "").partition(" ")[0].partition("-")[0]
