"""Words as synthetic speech, with the moment at which each word begins. The voice is espeak-ng's, in 100 languages.

espeak-ng is a C library under the GPL. It is loaded here and runs in a decoder process of its own
(media/sandbox), never in the server or beside an engine. Its interface: speak_lib.h in
https://github.com/espeak-ng/espeak-ng.
"""

import ctypes
import ctypes.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

import numpy as np
import soxr
from numpy.typing import NDArray

from lipsync_server.errors import InvalidInput
from lipsync_server.media_types import SPEECH_RATE_HZ, Speech

# Values of speak_lib.h.
_OUTPUT_SYNCHRONOUS: Final = 2
_EVENT_END, _EVENT_MARK = 0, 3
_TEXT_UTF8, _TEXT_IS_SSML = 1, 0x10
_PARAMETER_RATE: Final = 1
_WORDS_PER_MINUTE: Final = 160
# Number of words in one call. The library keeps its input in memory, so a long script is sent in pieces.
_WORDS_AT_ONCE: Final = 400


class EventId(ctypes.Union):
    """espeak_EVENT.id of speak_lib.h: the number of a word, the name of a mark, or a phoneme."""

    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h: something that happens at a time of the synthetic speech."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", EventId),
    ]


Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))


@dataclass(frozen=True)
class Spoken:
    """Synthetic speech. samples: float32 mono at 16 kHz. starts_s: float64 (n_words + 1,), the start of each word and
    the end of the last; it never falls."""

    samples: Speech
    starts_s: NDArray[np.float64]


@lru_cache(maxsize=1)
def _library() -> tuple[Any, int]:
    """The loaded library and the rate of its sound in Hz."""
    name, data = _files()
    library = ctypes.CDLL(name)
    rate_hz = library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, data, 1)
    if rate_hz <= 0:
        raise InvalidInput("The voice library espeak-ng has no voices here: reinstall the package espeakng-loader.")
    return library, int(rate_hz)


def _files() -> tuple[str, bytes | None]:
    try:
        import espeakng_loader  # a package of 18 MB that holds the library and its voices
    except ImportError:
        name = ctypes.util.find_library("espeak-ng")
        if name is None:
            raise InvalidInput(
                "Captions from a script need espeak-ng, which is not installed here: pip install espeakng-loader.",
                field="captions",
            ) from None
        return name, None
    return str(espeakng_loader.get_library_path()), str(Path(espeakng_loader.get_data_path())).encode()


def can_speak(language: str) -> bool:
    """Whether there is a voice for `language`, such as "en" or "pt-BR"."""
    library, _ = _library()
    return bool(library.espeak_SetVoiceByName(language.lower().encode()) == 0)


def speak(words: Sequence[str], language: str) -> Spoken:
    """Read `words` aloud. Raises InvalidInput for a language without a voice."""
    library, rate_hz = _library()
    if not can_speak(language):
        raise InvalidInput(
            f"There is no voice for the language {language}. Give a code such as en, pt-BR or ja, or leave it out.",
            field="language",
        )
    library.espeak_SetParameter(_PARAMETER_RATE, _WORDS_PER_MINUTE, 0)
    pieces: list[Speech] = []
    starts = np.full(len(words) + 1, np.nan)
    n_samples = 0
    for first in range(0, len(words), _WORDS_AT_ONCE):
        part = words[first : first + _WORDS_AT_ONCE]
        heard, marks = _synthesise(library, part, first)
        for number, sample in marks.items():
            starts[number] = (n_samples + sample) / rate_hz
        pieces.append(heard)
        n_samples += len(heard)
    starts[-1] = n_samples / rate_hz
    samples = np.concatenate([*pieces, np.zeros(1, np.float32)])
    return Spoken(soxr.resample(samples, rate_hz, SPEECH_RATE_HZ), _share_out(starts, words))


def _synthesise(library: Any, words: Sequence[str], first: int) -> tuple[Speech, dict[int, int]]:
    """The samples of `words`, and the sample at which the word of each number begins: a mark stands before each."""
    blocks: list[NDArray[np.int16]] = []
    marks: dict[int, int] = {}

    def receive(samples: Any, n_samples: int, events: Any) -> int:
        if samples and n_samples > 0:
            blocks.append(np.ctypeslib.as_array(samples, (n_samples,)).copy())
        index = 0
        while events[index].type != _EVENT_END:
            if events[index].type == _EVENT_MARK:
                marks[int(events[index].id.name)] = events[index].sample
            index += 1
        return 0

    callback = Callback(receive)
    library.espeak_SetSynthCallback(callback)
    marked = " ".join(f'<mark name="{first + i}"/>{escape(word)}' for i, word in enumerate(words))
    text = f"<speak>{marked}</speak>".encode()
    library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _TEXT_UTF8 | _TEXT_IS_SSML, None, None)
    library.espeak_Synchronize()
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.int16)
    # The samples of marks count through the whole text, which is this piece alone.
    return (samples / 32768).astype(np.float32), marks


def _share_out(starts: NDArray[np.float64], words: Sequence[str]) -> NDArray[np.float64]:
    """Starts without gaps or ties. espeak-ng reads some words as one and then gives both the same moment or none; such
    words share their time by their letters."""
    starts = starts.copy()
    starts[0] = 0.0 if np.isnan(starts[0]) else starts[0]
    known = [0]
    for i in range(1, len(starts)):
        is_new = not np.isnan(starts[i]) and starts[i] - starts[known[-1]] > 0.02
        if is_new or i == len(starts) - 1:
            known.append(i)
    for left, right in pairwise(known):
        letters = np.cumsum([0.0] + [max(1, len(words[i])) for i in range(left, right)])
        starts[left:right] = starts[left] + (starts[right] - starts[left]) * (letters / letters[-1])[:-1]
    return np.maximum.accumulate(starts)
