"""The C library espeak-ng: loads it, speaks plain text, and writes text in phonetic letters (IPA).

espeak-ng speaks 100 languages, sounds like a robot, and comes with the package espeakng-loader. It is under the GPL.
The library runs in a decoder process of its own (media/sandbox), never in the server or beside an engine. Its interface
is speak_lib.h of https://github.com/espeak-ng/espeak-ng.
"""

import ctypes
import ctypes.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lipsync_server.errors import InvalidInput

# Values of speak_lib.h.
_OUTPUT_SYNCHRONOUS: Final = 2
EVENT_END, EVENT_WORD, EVENT_MARK = 0, 1, 3
TEXT_UTF8, TEXT_IS_SSML = 1, 0x10
_PARAMETER_RATE: Final = 1
_WORDS_PER_MINUTE: Final = 160
_PHONEMES_AS_IPA: Final = 0x02
_WITH_TIES: Final = 0x80
TIE: Final = "^"
"""Stands between the letters of one sound, such as t^ʃ."""
_STOPS: Final = ".!?,;:—…।。！？、，"
# A period after these is no end of a sentence.
_ABBREVIATIONS: Final = frozenset(
    {
        "dr",
        "dra",
        "mr",
        "mrs",
        "ms",
        "sr",
        "sra",
        "srta",
        "st",
        "prof",
        "profa",
        "mme",
        "m",
        "sig",
        "dott",
        "nº",
        "no",
        "vs",
        "jr",
    }
)

# espeak-ng's names for languages whose usual code it does not know, or knows as another accent.
_OWN_NAMES: Final = {"zh": "cmn", "zh-cn": "cmn", "zh-tw": "cmn", "zh-hk": "yue", "pt-pt": "pt"}


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
class Clause:
    """A part of a sentence in phonetic letters, and the mark that ends it, such as "," or ".", or "" for none."""

    ipa: str
    stop: str


@lru_cache(maxsize=1)
def library() -> tuple[Any, int]:
    """The loaded library and the rate of its sound in Hz."""
    name, data = _files()
    loaded = ctypes.CDLL(name)
    rate_hz = loaded.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, data, 1)
    if rate_hz <= 0:
        raise InvalidInput("The voice library espeak-ng has no voices here: reinstall the package espeakng-loader.")
    loaded.espeak_TextToPhonemes.restype = ctypes.c_char_p
    loaded.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_int]
    return loaded, int(rate_hz)


def _files() -> tuple[str, bytes | None]:
    try:
        import espeakng_loader  # a package of 18 MB that holds the library and its voices
    except ImportError:
        name = ctypes.util.find_library("espeak-ng")
        if name is None:
            raise InvalidInput(
                "Captions from a script and speech from text need espeak-ng, which is not installed here: "
                "pip install espeakng-loader.",
                field="captions",
            ) from None
        return name, None
    return str(espeakng_loader.get_library_path()), str(Path(espeakng_loader.get_data_path())).encode()


def choose_language(language: str) -> None:
    """Set the library's voice to `language`, such as "en" or "pt-BR", or to its main language ("fr" for "fr-CA").

    Raises InvalidInput for a language without a voice.
    """
    loaded, _ = library()
    wanted = language.lower()
    for name in (_OWN_NAMES.get(wanted, wanted), wanted.partition("-")[0]):
        if loaded.espeak_SetVoiceByName(name.encode()) == 0:
            loaded.espeak_SetParameter(_PARAMETER_RATE, _WORDS_PER_MINUTE, 0)
            return
    raise InvalidInput(
        f"There is no voice for the language {language}. Give a code such as en, pt-BR or ja, or leave it out.",
        field="language",
    )


def can_speak(language: str) -> bool:
    """Whether there is a voice for `language`."""
    try:
        choose_language(language)
    except InvalidInput:
        return False
    return True


def samples_of(text: str, language: str) -> NDArray[np.int16]:
    """Plain `text` as speech at the library's own rate. Raises InvalidInput for a language without a voice."""
    choose_language(language)
    return synthesise(text, TEXT_UTF8)[0]


@dataclass(frozen=True)
class Start:
    """The first sample of a word, and the word's place in the text. mark: the name of an SSML mark, "" for a word.

    The library reads some words as one, such as "of the". It reports one of them, and a mark between them without its
    place (-1), or not at all; then all later marks have the name of the mark before them. A number is reported several
    times.
    """

    sample: int
    place: int
    mark: str = ""


def synthesise(text: str, flags: int) -> tuple[NDArray[np.int16], list[Start]]:
    """The samples of `text` in the chosen language, and the starts of words and marks, in order."""
    loaded, _ = library()
    blocks: list[NDArray[np.int16]] = []
    starts: list[Start] = []

    def receive(samples: Any, n_samples: int, events: Any) -> int:
        if samples and n_samples > 0:
            blocks.append(np.ctypeslib.as_array(samples, (n_samples,)).copy())
        index = 0
        while events[index].type != EVENT_END:
            event = events[index]
            if event.type in (EVENT_WORD, EVENT_MARK):
                mark = event.id.name.decode() if event.type == EVENT_MARK else ""
                starts.append(Start(event.sample, event.text_position - 1, mark))
            index += 1
        return 0

    callback = Callback(receive)
    loaded.espeak_SetSynthCallback(callback)
    data = text.encode()
    loaded.espeak_Synth(data, len(data) + 1, 0, 1, 0, flags, None, None)
    loaded.espeak_Synchronize()
    return np.concatenate(blocks) if blocks else np.zeros(0, np.int16), starts


def clauses_of(text: str, language: str) -> list[Clause]:
    """`text` in phonetic letters, clause by clause. Raises InvalidInput for a language without a voice."""
    choose_language(language)
    loaded, _ = library()
    data = ctypes.create_string_buffer(text.encode())
    start = ctypes.addressof(data)
    rest = ctypes.c_void_p(start)
    clauses: list[Clause] = []
    at = 0
    while rest.value:
        ipa = loaded.espeak_TextToPhonemes(ctypes.byref(rest), TEXT_UTF8, _PHONEMES_AS_IPA | _WITH_TIES | ord(TIE) << 8)
        end = rest.value - start if rest.value else len(data.value)
        read = data.value[at:end].decode("utf-8", "ignore")
        at = end
        # The library reads one letter into the next clause to see where this one ends.
        clauses.append(Clause((ipa or b"").decode("utf-8").strip(), _stop_of(read[:-1] if rest.value else read)))
    return [clause for clause in clauses if clause.ipa]


def _stop_of(read: str) -> str:
    """The mark at the end of a clause's text."""
    ended = read.rstrip().rstrip("\"'”’»)]}")
    if not ended or ended[-1] not in _STOPS:
        return "." if "\n\n" in read else ""
    last = ended[:-1].split()[-1:] if ended[-1] == "." else []
    return "" if last and last[0].lower() in _ABBREVIATIONS else ended[-1]
