"""Split a script into words, in any writing system: the text of each word in a caption, and its spoken form.

Scripts come from language models and speech services, so markup that is not spoken is left out: SSML tags such as
<break time="1s"/> and stage directions in square brackets such as [whispers].
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from lipsync_server.media.captions.writing_systems import languages_of, system_of

_NOT_SPOKEN: Final = re.compile(r"<[^<>]{0,400}>|\[[^\[\]]{0,200}\]")
# Writing systems without blanks between words. A caption line may break after any of their letters.
_WITHOUT_BLANKS: Final = frozenset({"CJK", "HIRAGANA", "KATAKANA"})
# Here blanks stand between phrases, and only a dictionary finds the words in them. A long phrase is cut evenly.
_BLANKS_BETWEEN_PHRASES: Final = frozenset({"THAI", "LAO", "KHMER", "MYANMAR"})
_LONGEST_PHRASE: Final = 20
_PART_OF_THE_KANA_BEFORE: Final = frozenset("ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮーｧｨｩｪｫｬｭｮｯｰﾞﾟゝゞヽヾ々")
_LEADING_VOWELS: Final = frozenset("เแโใไເແໂໃໄ")
"""Written before the consonant that they follow in speech."""
_MEANS_MORE: Final = re.compile(r"<(?:fraction|super|sub)>")
"""Unicode's kinds of letters that are not the same as their plain form: ½ is no 12, x² is no x2, and 1º is no 1o."""
_ENDS_SENTENCE: Final = tuple(".!?…。！？؟।။።")
_ENDS_CLAUSE: Final = tuple(",;:，、；：،؛—–")
_HEBREW_POINTS: Final = re.compile("[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]")
_OPENING: Final = frozenset("「『（【《〈［")
_CLOSING: Final = "\"'”’»)]}」』）"


@dataclass(frozen=True)
class Word:
    """One word of a script.

    text: as shown, with its punctuation. blank_before: whether a blank separates it from the word before. reading: the
    word in letters that the voice reads, where `text` has others; "" for none. In writing without blanks a word is one
    letter with its marks, unless a dictionary has found the words (japanese.py).
    """

    text: str
    blank_before: bool = True
    reading: str = ""

    @property
    def spoken(self) -> str:
        """The word for speech synthesis: in plain letters and digits, without symbols that have no sound."""
        return without_symbols(_plain(self.reading or self.text))


def without_markup(script: str) -> str:
    """`script` without SSML tags and stage directions."""
    return _NOT_SPOKEN.sub(" ", unicodedata.normalize("NFC", script))


def without_symbols(text: str) -> str:
    """`text` without symbols that have no sound, such as emoji, and without control characters."""
    return "".join(c for c in text if not unicodedata.category(c).startswith(("So", "Cs", "Co", "Cn", "Cc")))


def _plain(text: str) -> str:
    """`text` in plain letters and digits: "ﬁ" becomes "fi", "①" becomes "1", and digits of any writing become 0 to 9.

    espeak-ng does not read such letters, and reads the digits of few languages. Hebrew loses its points: espeak-ng
    spells the letters of most words that have them.
    """
    if text.isascii():
        return text
    text = _HEBREW_POINTS.sub("", text)
    plain = "".join(unicodedata.normalize("NFKC", c) if _has_plain_form(c) else c for c in text)
    return "".join(str(unicodedata.decimal(c, c)) for c in unicodedata.normalize("NFC", plain))


def _has_plain_form(c: str) -> bool:
    """Whether `c` is another form of plain letters or digits. Punctuation stays, because it makes the pauses."""
    return not (unicodedata.category(c).startswith("P") or _MEANS_MORE.match(unicodedata.decomposition(c)))


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


def candidate_languages(words: Sequence[Word]) -> tuple[str, ...]:
    """The languages that `words` may be in, by their writing system; empty where espeak-ng speaks none of them."""
    return languages_of("".join(word.text for word in words))


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
    if len(token) > _LONGEST_PHRASE and system_of(_last_letter(token)) in _BLANKS_BETWEEN_PHRASES:
        yield from _parts(token)
        return
    piece = ""
    for c in token:
        if (
            _is_spoken(piece)
            and _may_start(c)
            and (c in _OPENING or _stands_alone(c) or _stands_alone(_last_letter(piece)))
        ):
            yield piece
            piece = ""
        piece += c
    yield piece


def _may_start(c: str) -> bool:
    """Whether a caption's word may begin with `c`: no mark, symbol, closing sign, or small kana, which has no sound of
    its own."""
    category = unicodedata.category(c)
    if category.startswith("P"):
        return category in ("Ps", "Pi")
    return not category.startswith(("M", "S")) and c not in _PART_OF_THE_KANA_BEFORE


def _parts(phrase: str) -> Iterator[str]:
    """A phrase in parts of about equal length, each cut before a consonant or a vowel that is written first."""
    n_parts = -(-len(phrase) // _LONGEST_PHRASE)
    wanted, part = len(phrase) / n_parts, ""
    for c in phrase:
        if len(part) >= wanted and _begins_a_syllable(c, part[-1]):
            yield part
            part = ""
        part += c
    yield part


def _begins_a_syllable(c: str, before: str) -> bool:
    """Whether a phrase may be cut between the letters `before` and `c`."""
    if unicodedata.category(c) != "Lo" or before in _LEADING_VOWELS:
        return False
    name = unicodedata.name(c, "")
    return c in _LEADING_VOWELS or not (" VOWEL " in name or " CHARACTER SARA " in name)


def _last_letter(piece: str) -> str:
    return next((c for c in reversed(piece) if c.isalnum()), piece[-1])


def _stands_alone(c: str) -> bool:
    return system_of(c) in _WITHOUT_BLANKS


def _is_spoken(text: str) -> bool:
    return any(c.isalnum() for c in text)
