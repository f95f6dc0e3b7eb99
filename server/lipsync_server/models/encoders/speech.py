"""Speech features for the video model: wav2vec2's hidden states at 25 frames a second, for any length of recording.

wav2vec2 (https://arxiv.org/abs/2006.11477) was trained to predict masked speech, so its layers describe sounds: the low
ones waveform and pitch, the high ones phonemes. The video model attends to all twelve layers of the base model. The
reference runs one pass over the whole recording, whose attention grows with the square of its length. Here:
  * Loudness, the mean and deviation of the samples, and the first layer's group norm (a statistic over all time) are
  measured over the whole recording, piece by piece, so the features equal those of one pass at any length.
  * Up to ONE_PASS_FRAMES (80 s) attention spans the whole recording, exactly as in the reference.
  * A longer recording is computed in blocks of 60 s with 10 s of context on either side. wav2vec2 was trained on clips
  of at most half a minute, so sound further away does not change a frame's lips.

  A block is computed when a window needs it, and the last two blocks are kept, so memory does not grow with the length.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lipsync_server.media_types import FPS, SPEECH_RATE_HZ, Speech
from lipsync_server.models.encoders.loudness import gain_to_target
from lipsync_server.models.encoders.wav2vec import Wav2Vec

SAMPLES_PER_FRAME = SPEECH_RATE_HZ // FPS
ONE_PASS_FRAMES = 2000
_CONTEXT_FRAMES = 250
_BLOCK_FRAMES = ONE_PASS_FRAMES - 2 * _CONTEXT_FRAMES
_KEPT_BLOCKS = 2
# Samples per piece of the streaming passes: ten seconds.
_PIECE = 10 * SPEECH_RATE_HZ


class Track:
    """One person's sound on the video's time line: a recording that starts at `offset` samples, silence elsewhere."""

    def __init__(self, speech: Speech, n_samples: int, *, offset: int = 0, levelled: bool = True) -> None:
        """levelled: scale the recording to -23 LUFS, as InfiniteTalk and FlashTalk need it.

        FlashHead needs the plain recording.
        """
        self.n_samples = n_samples
        self._speech, self._offset = speech, offset
        self._gain = np.float32(gain_to_target(speech) if levelled and len(speech) else 1.0)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Samples [start, stop), levelled; zeros outside the recording."""
        samples = np.zeros(stop - start, np.float32)
        first = max(start, self._offset)
        last = min(stop, self._offset + len(self._speech), self.n_samples)
        if first < last:
            inside = np.asarray(self._speech[first - self._offset : last - self._offset])
            samples[first - start : last - start] = inside * self._gain
        return samples


@dataclass(frozen=True)
class _Statistics:
    """Mean and deviation over the whole recording: of the samples, and of each channel of the first convolution."""

    mean: float
    deviation: float
    channel_mean: Tensor
    channel_variance: Tensor


class SpeechEmbedding:
    """Embedding (n_frames, 12, width) of one track, computed block by block as frames are needed."""

    def __init__(self, model: Wav2Vec, track: Track, n_frames: int | None = None) -> None:
        self._model, self._track = model, track
        # The reference's order of operations, whose rounding gives 28 frames for 1.16 s. n_frames overrides the result.
        self.n_frames = int(track.n_samples / SPEECH_RATE_HZ * FPS) if n_frames is None else n_frames
        self._n_features = model.n_features(track.n_samples)
        self._statistics = _measure(model, track)
        self._blocks: OrderedDict[int, Tensor] = OrderedDict()
        self._block_frames = self.n_frames if self.n_frames <= ONE_PASS_FRAMES else _BLOCK_FRAMES

    def gather(self, indices: NDArray[np.int64]) -> Tensor:
        """Embeddings of the frames `indices`, any shape: (*indices.shape, 12, width) float32."""
        flat = torch.from_numpy(np.ascontiguousarray(indices.reshape(-1)))
        result: Tensor | None = None
        for block in sorted(set((indices.reshape(-1) // self._block_frames).tolist())):
            values = self._block(block)
            if result is None:
                result = torch.empty(len(flat), *values.shape[1:], device=values.device)
            here = (flat // self._block_frames == block).to(values.device)
            result[here] = values[flat.to(values.device)[here] - block * self._block_frames]
        assert result is not None
        return result.view(*indices.shape, *result.shape[1:])

    def _block(self, index: int) -> Tensor:
        """Embeddings (frames of the block, 12, width) of a block, computed now or kept from one of the last windows."""
        if index not in self._blocks:
            first = index * self._block_frames
            stop = min(first + self._block_frames, self.n_frames)
            self._blocks[index] = self._compute(first, stop)
            while len(self._blocks) > _KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(index)
        return self._blocks[index]

    def _compute(self, first: int, stop: int) -> Tensor:
        """Embeddings of frames [first, stop), made with up to ten seconds of context on either side."""
        begin = max(0, first - _CONTEXT_FRAMES)
        end = min(self.n_frames, stop + _CONTEXT_FRAMES)
        states = self._model.encode(self.features(begin, end))
        return torch.stack(states[1:], dim=1)[first - begin : stop - begin]

    def features(self, first: int, stop: int) -> Tensor:
        """Convolution features, about 50 a second, brought to the frame rate: (stop - first, channels)."""
        # In float32, as in torch's own interpolation: its rounding changes the features of a recording of half a
        # minute.
        step = torch.tensor((self._n_features - 1) / (self.n_frames - 1) if self.n_frames > 1 else 0.0)
        positions = torch.arange(first, stop, dtype=torch.float32) * step
        below = positions.floor().long().clamp(max=self._n_features - 1)
        above = (below + 1).clamp(max=self._n_features - 1)
        low, high = int(below[0]), int(above[-1]) + 1
        found = self._convolve(low, high)
        share = (positions - below).to(found)[:, None]
        below, above = (below - low).to(found.device), (above - low).to(found.device)
        return found[below] * (1 - share) + found[above] * share

    def _convolve(self, low: int, high: int) -> Tensor:
        """Convolution features [low, high), (n, channels), a piece at a time: the first layers are wide."""
        model, s = self._model, self._statistics
        per_piece = max(1, _PIECE // model.stride)
        pieces = []
        for start in range(low, high, per_piece):
            stop = min(start + per_piece, high)
            samples = self._track.read(start * model.stride, (stop - 1) * model.stride + model.receptive_field)
            normalised = (samples - np.float32(s.mean)) / np.float32(s.deviation)
            pieces.append(model.convolve(torch.from_numpy(normalised), s.channel_mean, s.channel_variance))
        return torch.cat(pieces)


def _measure(model: Wav2Vec, track: Track) -> _Statistics:
    """Two streaming passes over `track`: the samples, then the first convolution's channels."""
    mean, deviation = 0.0, 1.0
    if model.normalises:
        total = squares = 0.0
        for start in range(0, track.n_samples, _PIECE):
            piece = track.read(start, min(start + _PIECE, track.n_samples)).astype(np.float64)
            total += float(piece.sum())
            squares += float(np.square(piece).sum())
        mean = total / track.n_samples
        variance = max(0.0, squares / track.n_samples - mean * mean)
        deviation = float(np.sqrt(variance + 1e-7))
    kernel, stride = model.first_kernel, model.first_stride
    n_outputs = (track.n_samples - kernel) // stride + 1
    per_piece = _PIECE // stride
    sums = torch.zeros(2, model.n_channels, dtype=torch.float64)
    for first in range(0, n_outputs, per_piece):
        last = min(first + per_piece, n_outputs)
        samples = (track.read(first * stride, (last - 1) * stride + kernel) - np.float32(mean)) / np.float32(deviation)
        channels = model.first_convolution(torch.from_numpy(samples))
        sums[0] += channels.sum(-1, dtype=torch.float64).cpu()
        sums[1] += channels.double().square().sum(-1).cpu()
    channel_mean = sums[0] / n_outputs
    channel_variance = (sums[1] / n_outputs - channel_mean.square()).clamp(min=0)
    return _Statistics(mean, deviation, channel_mean.to(model.device), channel_variance.to(model.device))


def silence(n_frames: int, like: Tensor) -> Tensor:
    """Zero features for the passes without sound: (1, n_frames, 5, 12, width).

    like: one window's features (P, n_frames, 5, 12, width), which give the device and the dtype."""
    return F.pad(like[:1, :0], (0, 0, 0, 0, 0, 0, 0, n_frames))
