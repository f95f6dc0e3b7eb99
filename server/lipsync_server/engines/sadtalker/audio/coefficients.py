"""Expression and pose of every frame, and the 27-frame windows of them that the renderer is driven by.

Any stretch is computed on demand in chunks, so memory does not grow with the recording. Knows the audio networks;
knows no pictures.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lipsync_server.engines.sadtalker.arrays import Rows, Speech
from lipsync_server.engines.sadtalker.audio.audio_nets import ExpNet
from lipsync_server.engines.sadtalker.audio.blink import blink_track
from lipsync_server.engines.sadtalker.audio.mel import mel_windows
from lipsync_server.engines.sadtalker.audio.pose_track import PoseJoin, PoseTrack, seeded_noise
from lipsync_server.engines.sadtalker.audio.pose_vae import PoseVAE

N_EXPRESSION, N_MOTION = 64, 70
WINDOW_FRAMES = 27
_CHUNK = 32


@dataclass(frozen=True)
class TrackOptions:
    """Options for computing coefficients from a recording.

    style: one of PoseVAE's 46 styles of head motion. join: how its blocks are joined (pose_track.py). blink_scale: 0
    keeps the eyes open. expression_scale: factor on the expression. still: keep the source's pose. follow_pose,
    follow_eyes: take the head's motion, or the expression, from a reference video.
    """

    seed: int = 0
    style: int = 0
    join: PoseJoin = "blended"
    blink_scale: float = 1.0
    expression_scale: float = 1.0
    still: bool = False
    follow_pose: bool = False
    follow_eyes: bool = False


class CoefficientTrack:
    """Rows of 70 coefficients (73 with the crop's, in full modes) for a recording of n_frames frames."""

    def __init__(
        self,
        exp_net: ExpNet,
        pose_vae: PoseVAE,
        speech: Speech,
        n_frames: int,
        source: Rows,
        options: TrackOptions,
        reference: Rows | None = None,
    ) -> None:
        """source: (70,) or (73,) coefficients of the picture. Every row has the same number of coefficients.

        reference: (m, 73) of a video whose pose or eyes are followed, looped.
        """
        self.reference_pose = reference if options.follow_pose else None
        self.reference_eyes = reference if options.follow_eyes else None
        self.exp_net, self.speech, self.n_frames, self.source, self.options = exp_net, speech, n_frames, source, options
        self.device = exp_net.mapping1.weight.device
        self.blink = blink_track(n_frames, options.seed) * np.float32(options.blink_scale)
        self.pose = PoseTrack(
            pose_vae,
            self._windows,
            n_frames,
            torch.from_numpy(source[N_EXPRESSION:N_MOTION]),
            style=options.style,
            noise=seeded_noise(options.seed, pose_vae.decoder.n_latent),
            join=options.join,
        )
        self._chunks: OrderedDict[int, Rows] = OrderedDict()

    def rows(self, first: int, stop: int) -> Rows:
        """Coefficients of frames [first, stop), as the renderer takes them."""
        chunks = [self._chunk(i) for i in range(first // _CHUNK, (stop - 1) // _CHUNK + 1)]
        offset = first - first // _CHUNK * _CHUNK
        return np.asarray(np.concatenate(chunks)[offset : offset + stop - first])

    def semantics(self, first: int, stop: int) -> Rows:
        """Windows of frames [first, stop): (n, 70 or 73, 27)."""
        return windows_of(self.rows, self.n_frames, first, stop)

    def _windows(self, first: int, stop: int) -> Tensor:
        return torch.from_numpy(mel_windows(self.speech, self.n_frames, first, stop))[:, None].to(self.device)

    def _chunk(self, index: int) -> Rows:
        if index not in self._chunks:
            first, stop = index * _CHUNK, min((index + 1) * _CHUNK, self.n_frames)
            generated = np.concatenate([self._expression(first, stop), self._pose(first, stop)], axis=1)
            if self.reference_pose is not None:
                generated = with_reference_pose(generated, self.reference_pose, first)
            self._chunks[index] = target_rows(
                generated, self.source, expression_scale=self.options.expression_scale, still=self.options.still
            )
            while len(self._chunks) > 4:
                self._chunks.popitem(last=False)
        return self._chunks[index]

    def _expression(self, first: int, stop: int) -> Rows:
        n = stop - first
        expression = torch.from_numpy(self.source[:N_EXPRESSION]).to(self.device).expand(n, -1)
        blink = torch.from_numpy(self.blink[first:stop]).to(self.device)[:, None]
        if self.reference_eyes is not None:  # the video's whole expressions, which hold its own blinks
            expression = torch.from_numpy(reference_expression(self.reference_eyes, first, stop)).to(self.device)
            blink = torch.zeros_like(blink)
        result = self.exp_net(self._windows(first, stop), expression, blink)
        return np.asarray(result.float().cpu().numpy(), np.float32)

    def _pose(self, first: int, stop: int) -> Rows:
        if self.options.still:  # replaced by the source's in any case
            return np.broadcast_to(self.source[N_EXPRESSION:N_MOTION], (stop - first, N_MOTION - N_EXPRESSION))
        return self.pose.rows(first, stop)


def target_rows(generated: Rows, source: Rows, *, expression_scale: float, still: bool) -> Rows:
    """Generated coefficients (n, 70) -> the renderer's input, (n, 70) or (n, 73) as the source (70,) or (73,) has.

    The scale multiplies the expression itself, not its difference to the source's. With `still`, pose and, in full
    modes, the crop are the source's.
    """
    target = np.broadcast_to(source, (len(generated), len(source))).astype(np.float32)
    target[:, :N_EXPRESSION] = generated[:, :N_EXPRESSION] * np.float32(expression_scale)
    if not still:
        target[:, N_EXPRESSION:N_MOTION] = generated[:, N_EXPRESSION:]
    return target


def source_semantics(source: Rows) -> Rows:
    """The renderer's window for a still source: (C,) -> (C, 27), the same coefficients in every frame."""
    return np.repeat(source[:, None], WINDOW_FRAMES, axis=1)


def windows_of(rows: Callable[[int, int], Rows], n_frames: int, first: int, stop: int) -> Rows:
    """Windows of 27 frames around each of [first, stop), the ends repeated: (n, C, 27). rows(a, b) gives (b - a, C)."""
    half = WINDOW_FRAMES // 2
    index = np.clip(np.arange(first, stop)[:, None] + np.arange(-half, half + 1), 0, n_frames - 1)
    low = int(index.min())
    windows: Rows = rows(low, int(index.max()) + 1)[index - low]
    return windows.transpose(0, 2, 1)


def with_reference_pose(generated: Rows, reference: Rows, first: int = 0) -> Rows:
    """Add a reference video's head motion (its pose minus the pose of its first frame, looped) to generated rows.

    generated: (n, 70), whose first row is frame `first`; reference: (m, 70 or more).
    """
    index = (first + np.arange(len(generated))) % len(reference)
    result = generated.copy()
    result[:, N_EXPRESSION:N_MOTION] += (reference[index] - reference[0])[:, N_EXPRESSION:N_MOTION]
    return result


def reference_expression(reference: Rows, first: int, stop: int) -> Rows:
    """The expression (n, 64) from which ExpNet starts in frames [first, stop); a video that gives it is looped."""
    return reference[np.arange(first, stop) % len(reference), :N_EXPRESSION]
