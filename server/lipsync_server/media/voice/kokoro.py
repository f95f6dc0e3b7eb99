"""Kokoro-82M, a neural voice under Apache-2.0, by ONNX Runtime: phonetic letters in, 24 kHz speech out.

The model reads up to 510 letters at a time, and a voice: one vector of 256 numbers for each length of text. Its files
are those of https://huggingface.co/onnx-community/Kokoro-82M-v1.0-ONNX. Runs in a decoder process, on the CPU.
"""

import json
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lipsync_server.media.espeak import Clause
from lipsync_server.media.voice.choice import MODEL_FILE, TOKENIZER_FILE, VOICES_FOLDER
from lipsync_server.media.voice.symbols import kokoro_symbols
from lipsync_server.media_types import Speech

RATE_HZ: Final = 24_000
_MAX_SYMBOLS: Final = 510
# Sentences up to this length are read in one go. The voice is steadiest at 100 to 300 letters.
_WANTED_SYMBOLS: Final = 280
_STYLE_NUMBERS: Final = 256
_MAX_THREADS: Final = 4
_PAUSES: Final = {"。": ".", "।": ".", "！": "!", "？": "?", "、": ",", "，": ","}
_ENDS_SENTENCE: Final = ".!?"


class Kokoro:
    """The model of one folder of files."""

    def __init__(self, home: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = min(_MAX_THREADS, os.cpu_count() or 1)
        # Memory follows the longest sentence and is returned, so a process with a limit can read many texts.
        options.enable_cpu_mem_arena = False
        self._session = onnxruntime.InferenceSession(
            str(home / MODEL_FILE), options, providers=["CPUExecutionProvider"]
        )
        inputs = {each.name: each.type for each in self._session.get_inputs()}
        # Two exports of the model are public; they name this input differently.
        self._tokens = "input_ids" if "input_ids" in inputs else "tokens"
        self._home = home
        self._vocabulary = _vocabulary(home / TOKENIZER_FILE)

    def say(self, symbols: str, voice: str) -> Speech:
        """Up to 510 of Kokoro's letters as float32 mono speech at 24 kHz."""
        numbers = [self._vocabulary[c] for c in symbols if c in self._vocabulary][:_MAX_SYMBOLS]
        style = _styles(self._home / VOICES_FOLDER / f"{voice}.bin")[len(numbers) - 1]
        feeds: dict[str, Any] = {
            self._tokens: np.array([[0, *numbers, 0]], np.int64),
            "style": style[None],
            "speed": np.ones(1, np.float32),
        }
        return np.asarray(self._session.run(None, feeds)[0], np.float32).reshape(-1)


@lru_cache(maxsize=1)
def kokoro(home: Path) -> Kokoro:
    """The model of the folder `home`, loaded once in this process."""
    return Kokoro(home)


def chunks_of(clauses: Iterable[Clause], language: str) -> Iterator[str]:
    """Clauses as texts of Kokoro's letters that the model reads in one go: whole sentences where they fit."""
    chunk = ""
    for clause in clauses:
        symbols = kokoro_symbols(clause.ipa, language)
        stop = _PAUSES.get(clause.stop, clause.stop)
        for part in _parts(symbols):
            joined = f"{chunk} {part}" if chunk else part
            if len(joined) > _MAX_SYMBOLS - 2 or (len(joined) > _WANTED_SYMBOLS and chunk[-1:] in _ENDS_SENTENCE):
                yield chunk
                joined = part
            chunk = joined
        chunk += stop
    if chunk:
        yield chunk


def _parts(symbols: str) -> Iterator[str]:
    """A clause as it is, or cut between words where it alone is longer than the model reads."""
    part = ""
    for word in symbols.split():
        if part and len(part) + 1 + len(word) > _MAX_SYMBOLS - 2:
            yield part
            part = ""
        part = f"{part} {word[: _MAX_SYMBOLS - 2]}" if part else word[: _MAX_SYMBOLS - 2]
    if part:
        yield part


@lru_cache(maxsize=4)
def _styles(path: Path) -> NDArray[np.float32]:
    """A voice: float32 (longest text, 256)."""
    return np.fromfile(path, np.float32).reshape(-1, _STYLE_NUMBERS)


def _vocabulary(path: Path) -> dict[str, int]:
    """The number of each letter, from the tokenizer's file."""
    return {str(k): int(v) for k, v in json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"].items()}
