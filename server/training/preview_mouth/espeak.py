"""Synthesize speech with known phone times by libespeak-ng, in any of its languages and voices.

Knows the C library's events (through ctypes). One synthesizer per process: the library is a global.
"""

import ctypes
import ctypes.util
from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr
from lipsync_server.media.espeak import Callback
from numpy.typing import NDArray
from phones import Segment, from_ipa, spread

RATE_HZ = 16_000
_EVENT_PHONEME, _EVENT_END = 7, 0
_SYNCHRONOUS = 2
_PHONEME_EVENTS_IPA = 1 | 2
_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4


@dataclass(frozen=True)
class Utterance:
    """16 kHz mono speech and the phones in it."""

    audio: NDArray[np.float32]
    segments: list[Segment]


class Espeak:
    """The synthesizer. `say` may be called any number of times."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL(ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1")
        self._rate = self._lib.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS_IPA)
        self._samples: list[NDArray[np.int16]] = []
        self._phones: list[tuple[float, str]] = []
        # ctypes does not keep a callback alive, so this attribute does
        self._callback = Callback(self._collect)
        self._lib.espeak_SetSynthCallback(self._callback)

    def _collect(self, wav: Any, n: int, events: Any) -> int:
        if wav and n > 0:
            self._samples.append(np.ctypeslib.as_array(wav, (n,)).copy())
        k = 0
        while events[k].type != _EVENT_END:
            if events[k].type == _EVENT_PHONEME:
                name = bytes(events[k].id.string).split(b"\0")[0].decode("utf8", "ignore")
                self._phones.append((events[k].audio_position / 1000, name))
            k += 1
        return 0

    def phonemes(self, text: str, voice: str) -> str:
        """Return `text` as IPA with stress marks, one clause after the other; "" if espeak-ng has no such voice."""
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            return ""
        self._lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
        rest = ctypes.c_char_p(text.encode("utf8"))
        clauses = []
        while rest.value:
            part = self._lib.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, 0x02)
            clauses.append((part or b"").decode("utf8").strip())
        return ", ".join(c for c in clauses if c)

    def say(
        self, text: str, voice: str, *, words_per_minute: int = 170, pitch: int = 50, pitch_range: int = 50
    ) -> Utterance | None:
        """Synthesize `text` with `voice` ("fr", "de+f3"). Returns None if espeak-ng fails."""
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            return None
        for parameter, value in ((_RATE, words_per_minute), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._lib.espeak_SetParameter(parameter, value, 0)
        self._samples, self._phones = [], []
        data = text.encode("utf8")
        self._lib.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
        self._lib.espeak_Synchronize()
        if not self._samples:
            return None
        audio = np.concatenate(self._samples).astype(np.float32) / 32768
        end_s = len(audio) / self._rate
        times = [t for t, _ in self._phones] + [end_s]
        segments: list[Segment] = []
        for (start_s, name), stop_s in zip(self._phones, times[1:], strict=True):
            segments += spread(from_ipa(name), start_s, stop_s)
        return Utterance(soxr.resample(audio, self._rate, RATE_HZ).astype(np.float32), segments)
