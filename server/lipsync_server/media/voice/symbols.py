"""Write espeak-ng's phonetic letters as the letters that Kokoro was trained with.

Kokoro writes a diphthong or an affricate as one letter (A for eɪ, ʤ for dʒ). It knows American and British vowels, and
has no length mark in American English. The pairs are those of misaki, the text front end of Kokoro's author
(https://github.com/hexgrad/misaki, Apache-2.0), as far as espeak-ng gives these sounds.
"""

import re
from typing import Final

from lipsync_server.media.espeak import TIE

_JOINED: Final = {
    "aɪ": "I", "aʊ": "W", "dz": "ʣ", "dʒ": "ʤ", "eɪ": "A", "oʊ": "O", "əʊ": "Q", "ss": "S", "ts": "ʦ", "tʃ": "ʧ",
    "ɔɪ": "Y", "dʑ": "ʥ", "tɕ": "ʨ",
}  # fmt: skip
_ENGLISH: Final = (
    ("ə^l", "ᵊl"), ("ʲo", "jo"), ("ʲə", "jə"), ("ʲ", ""), ("ɚ", "əɹ"), ("r", "ɹ"), ("x", "k"), ("ç", "k"), ("ɐ", "ə"),
    ("ɬ", "l"), ("\u0303", ""), ("ʔ", "t"),
)  # fmt: skip
_BRITISH: Final = (("e^ə", "ɛː"), ("iə", "ɪə"))
_AMERICAN: Final = (("ɜːɹ", "ɜɹ"), ("ɜː", "ɜɹ"), ("ɪə", "iə"), ("ː", ""), ("ɾ", "T"))
_SYLLABIC: Final = re.compile("(\\S)\u0329")
# espeak-ng marks a word of another language with its code in parentheses.
_FOREIGN: Final = re.compile(r"\([a-z-]+\)")


def kokoro_symbols(ipa: str, language: str) -> str:
    """espeak-ng's IPA with ties, of a text in `language`, in Kokoro's letters."""
    text = _FOREIGN.sub("", ipa)
    english = language.lower().startswith("en")
    if english:
        text = _SYLLABIC.sub("ᵊ\\1", text)
        for old, new in (*_ENGLISH, *(_BRITISH if language.lower() == "en-gb" else _AMERICAN)):
            text = text.replace(old, new)
    for (first, second), letter in ((tuple(pair), letter) for pair, letter in _JOINED.items()):
        text = text.replace(f"{first}{TIE}{second}", letter)
    # espeak-ng writes the plain g of the keyboard, Kokoro the phonetic one.
    return text.replace(TIE, "").replace("-", "").replace("_", "").replace("\u0329", "").replace("g", "ɡ")
