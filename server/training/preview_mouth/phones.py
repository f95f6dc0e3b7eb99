"""Lip positions of phones: the targets that the mouth network is trained on. A phone is one sound of speech.

Knows IPA as espeak-ng writes it and ARPAbet, and for every phone class how far the mouth opens (0 shut, 1 wide), how
wide it is (-1 rounded, 1 spread) and how strongly it pulls on its neighbours. Knows no audio.

The opening and width of the English classes are means measured on real speakers (one mean per recognised phone). The
other classes are placed between them by articulation: height, backness and rounding of a vowel, place and manner of a
consonant.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

GRID_HZ = 100


@dataclass(frozen=True)
class Lips:
    """opening 0..1, width -1..1, pull: weight against the neighbours (0: they decide; above 1: this phone does)."""

    opening: float
    width: float = 0.0
    pull: float = 1.0
    press: bool = False


LIPS: dict[str, Lips] = {
    "SIL": Lips(0.0, 0.0, 0.8),
    # vowels, English names where English has them
    "AE": Lips(0.91, 0.35, 1.4), "AA": Lips(0.72, -0.20, 1.4), "A": Lips(0.82, 0.08, 1.4), "AH": Lips(0.46, -0.09, 1.0),
    "AO": Lips(0.52, -0.70, 1.3), "O": Lips(0.40, -0.62, 1.3), "EH": Lips(0.64, 0.12, 1.2), "E": Lips(0.56, 0.26, 1.2),
    "IH": Lips(0.47, 0.05, 1.0), "IY": Lips(0.46, 0.18, 1.0), "IX": Lips(0.42, 0.0, 1.0), "UH": Lips(0.38, -0.36, 1.1),
    "UW": Lips(0.25, -0.45, 1.3), "UU": Lips(0.36, 0.0, 1.0), "UE": Lips(0.27, -0.55, 1.2),
    "OE": Lips(0.42, -0.50, 1.2),
    "AX": Lips(0.40, -0.05, 0.7), "ER": Lips(0.36, -0.22, 1.1),
    # consonants
    "P": Lips(0.0, -0.12, 3.0, True), "B": Lips(0.0, -0.15, 3.0, True), "M": Lips(0.0, -0.15, 3.0, True),
    "F": Lips(0.08, 0.0, 2.0), "V": Lips(0.10, 0.0, 1.8), "BH": Lips(0.15, -0.2, 1.8),
    "W": Lips(0.12, -0.95, 2.0), "HW": Lips(0.15, -0.7, 1.5),
    "S": Lips(0.40, 0.20, 1.0), "Z": Lips(0.38, 0.10, 1.0), "SH": Lips(0.38, -0.30, 1.1), "ZH": Lips(0.36, -0.28, 1.1),
    "CH": Lips(0.34, -0.20, 1.1), "JH": Lips(0.36, -0.18, 1.1), "TS": Lips(0.40, 0.15, 1.0),
    "T": Lips(0.42, 0.12, 0.6), "D": Lips(0.38, 0.08, 0.6), "N": Lips(0.40, 0.0, 0.6), "TH": Lips(0.40, 0.0, 0.8),
    "DH": Lips(0.40, 0.0, 0.7),
    "L": Lips(0.36, -0.15, 0.6), "R": Lips(0.36, -0.50, 0.9), "RR": Lips(0.42, 0.0, 0.5), "RX": Lips(0.48, -0.1, 0.3),
    "K": Lips(0.50, -0.05, 0.3), "G": Lips(0.50, 0.0, 0.3), "NG": Lips(0.46, 0.0, 0.3), "X": Lips(0.50, 0.0, 0.3),
    "HH": Lips(0.55, 0.0, 0.15), "Y": Lips(0.45, 0.10, 0.6),
}  # fmt: skip

CLASSES = tuple(LIPS)
INDEX = {name: i for i, name in enumerate(CLASSES)}

# Diphthongs are two targets in one phone; the first takes 60 % of its time.
PAIRS = {"AY": ("A", "IH"), "AW": ("A", "UH"), "EY": ("EH", "IH"), "OW": ("O", "UH"), "OY": ("AO", "IH")}

_IPA = {
    "AE": "æ", "AA": "ɑɒ", "A": "aɐä", "AH": "ʌɜ", "AO": "ɔ", "O": "oɤɵ", "EH": "ɛ", "E": "e", "IH": "ɪᵻ", "IY": "i",
    "IX": "ɨ", "UH": "ʊ", "UW": "uʉ", "UU": "ɯ", "UE": "yʏ", "OE": "øœɶ", "AX": "əɘᵊ", "ER": "ɚɝ",
    "P": "p", "B": "bɓ", "M": "mɱ", "F": "f", "V": "vʋ", "BH": "βɸ", "W": "w", "HW": "ɥʍ",
    "S": "sɬ", "Z": "z", "SH": "ʃʂɕ", "ZH": "ʒʐʑ", "CH": "ʧʨ", "JH": "ʤʥ", "TS": "ʦʣ",
    "T": "tʈʔ", "D": "dɖɗɾɽ", "N": "nɳɲ", "TH": "θ", "DH": "ð", "L": "lɭɫʎɮ", "R": "ɹɻ", "RR": "r", "RX": "ʁʀ",
    "K": "kqc", "G": "ɡgɟɢɠ", "NG": "ŋɴ", "X": "xχɣçħʕ", "HH": "hɦ", "Y": "jʝɰ",
}  # fmt: skip
_BY_SYMBOL = {symbol: name for name, symbols in _IPA.items() for symbol in symbols}
_AFFRICATES = {("T", "SH"): "CH", ("D", "ZH"): "JH", ("T", "S"): "TS", ("D", "Z"): "TS"}


def from_ipa(text: str) -> list[str]:
    """Return the classes of one IPA phone: two for a diphthong, none for a stress mark, a tone or a silent sign."""
    if text.startswith("("):  # espeak-ng's language switches, "(en)"
        return []
    names = [_BY_SYMBOL[c] for c in text if c in _BY_SYMBOL]
    if len(names) >= 2 and (pair := _AFFRICATES.get((names[0], names[1]))):
        names = [pair, *names[2:]]
    return names


_ARPABET = {"ax": "AX", "axr": "ER", "el": "L", "em": "M", "en": "N", "dx": "D", "ix": "IX", "zh": "ZH", "pau": "SIL",
            "h#": "SIL", "brth": "SIL", "ssil": "SIL", "#": "SIL"}  # fmt: skip


def from_arpabet(name: str) -> list[str]:
    """Return the classes of an ARPAbet phone of festival, flite or pocketsphinx. Case and stress digits are ignored."""
    key = name.lower().rstrip("012")
    upper = _ARPABET.get(key, key.upper())
    if upper in PAIRS:
        return list(PAIRS[upper])
    return [upper] if upper in LIPS else []


@dataclass(frozen=True)
class Segment:
    """One phone class from start_s to end_s."""

    name: str
    start_s: float
    end_s: float


def spread(names: list[str], start_s: float, end_s: float) -> list[Segment]:
    """Share the time of one phone among its classes: a diphthong's first target takes 60 %."""
    if not names:
        return []
    if len(names) == 1:
        return [Segment(names[0], start_s, end_s)]
    first = start_s + 0.6 * (end_s - start_s)
    step = (end_s - first) / (len(names) - 1)
    rest = [Segment(n, first + k * step, first + (k + 1) * step) for k, n in enumerate(names[1:])]
    return [Segment(names[0], start_s, first), *rest]


def class_track(segments: list[Segment], n: int) -> NDArray[np.int64]:
    """Return the class index every 10 ms; silence between segments."""
    out = np.full(n, INDEX["SIL"])
    for s in segments:
        out[max(0, round(s.start_s * GRID_HZ)) : max(0, round(s.end_s * GRID_HZ))] = INDEX[s.name]
    return out


_OPENING = np.array([LIPS[c].opening for c in CLASSES])
_WIDTH = np.array([LIPS[c].width for c in CLASSES])
_PULL = np.array([LIPS[c].pull for c in CLASSES])
_PRESS = np.array([float(LIPS[c].press) for c in CLASSES])


def lip_track(classes: NDArray[np.int64], sigma_ms: float = 40.0) -> NDArray[np.float32]:
    """Return opening, width and press every 10 ms, (n, 3), with coarticulation (neighbouring phones shape each other).

    Each phone pulls on its neighbours by a Gaussian window times its weight. Then p, b and m close the lips.
    """
    sigma = sigma_ms * GRID_HZ / 1000
    pull = _PULL[classes]
    total = gaussian_filter1d(pull, sigma)
    opening = gaussian_filter1d(pull * _OPENING[classes], sigma) / total
    width = gaussian_filter1d(pull * _WIDTH[classes], 1.5 * sigma) / gaussian_filter1d(pull, 1.5 * sigma)
    press = _PRESS[classes]
    shut = np.clip(1.5 * gaussian_filter1d(press, 1.6), 0, 1)
    return np.stack([opening * (1 - shut), width, press], 1).astype(np.float32)
