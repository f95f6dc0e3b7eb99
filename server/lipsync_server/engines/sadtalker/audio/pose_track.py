"""The head's motion over a recording, joined from PoseVAE's blocks of 32 frames; any stretch is computed on demand.

Two ways to join blocks. `independent` is the reference: every block has its own noise and nothing joins them, so the
head jumps every 1.28 s. `blended`, the engine's default, starts a block every 16 frames and cross-fades neighbours,
fading in from the source's own pose. Knows a mel window source; does not know expression.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from scipy.signal import savgol_filter
from torch import Tensor

from lipsync_server.engines.sadtalker.arrays import Rows
from lipsync_server.engines.sadtalker.audio.pose_vae import PoseVAE

PoseJoin = Literal["blended", "independent"]
SMOOTHING_FRAMES, SMOOTHING_ORDER = 13, 2
Windows = Callable[[int, int], Tensor]  # frames [first, stop) -> (n, 1, 80, 16)
Noise = Callable[[int], Tensor]  # block -> (64,) drawn from N(0, 1), the same for the same block


def seeded_noise(seed: int, n_latent: int) -> Noise:
    """Noise of each block from `seed` and the block's number alone, so that a resumed job draws the same."""

    def noise(block: int) -> Tensor:
        drawn = np.random.default_rng((seed, block)).standard_normal(n_latent)
        return torch.from_numpy(drawn.astype(np.float32))

    return noise


def smooth(poses: Rows) -> Rows:
    """Savitzky-Golay filter along time, as in the reference: (n, 6) -> (n, 6).

    Each value becomes that of a parabola fitted to the 13 frames around it. One or two frames stay as they are; the
    reference crashes there.
    """
    n = len(poses)
    window = min(SMOOTHING_FRAMES, n - 1 + n % 2)
    if window <= SMOOTHING_ORDER:
        return poses
    return np.asarray(savgol_filter(poses, window, SMOOTHING_ORDER, axis=0), np.float32)


class PoseTrack:
    """Poses (angles 3, translation 3) of a recording of n_frames frames."""

    def __init__(
        self,
        network: PoseVAE,
        windows: Windows,
        n_frames: int,
        source_pose: Tensor,
        *,
        style: int,
        noise: Noise,
        join: PoseJoin = "blended",
    ) -> None:
        """source_pose: (6,) of the picture; it is the pose of frame 0."""
        self.network, self.windows, self.n_frames = network, windows, n_frames
        self.source_pose, self.style, self.noise, self.join = source_pose, style, noise, join
        self._blocks: OrderedDict[int, Rows] = OrderedDict()

    def rows(self, first: int, stop: int) -> Rows:
        """Smoothed poses of frames [first, stop): (n, 6)."""
        # The filter looks 6 frames to either side, and its ends fit the 13 outermost frames.
        low, high = max(0, first - SMOOTHING_FRAMES + 1), min(self.n_frames, stop + SMOOTHING_FRAMES - 1)
        return np.asarray(smooth(self.raw(low, high))[first - low : stop - low])

    def raw(self, first: int, stop: int) -> Rows:
        """Poses of frames [first, stop) before smoothing: (n, 6)."""
        motion = np.zeros((stop - first, len(self.source_pose)), np.float32)
        for i in range(max(1, first), stop):
            for block, offset, weight in self._parts(i - 1):
                motion[i - first] += weight * self._block(block)[offset]
        motion += self.source_pose.cpu().numpy()
        return motion

    def _parts(self, i: int) -> Iterator[tuple[int, int, float]]:
        """(block, row, weight) that make the motion of the i-th frame after the first."""
        size = self.network.decoder.n_frames
        if self.join == "independent":
            n_full, rest = divmod(self.n_frames - 1, size)
            block, offset = divmod(i, size)
            yield (block, offset, 1.0) if block < n_full else (block, size - rest + offset, 1.0)
            return
        hop = size // 2
        block, offset = divmod(i, hop)
        rising = 0.5 - 0.5 * float(np.cos(np.pi * (offset + 0.5) / hop))
        yield block, offset, rising
        if block > 0:
            yield block - 1, hop + offset, 1 - rising

    def _block(self, index: int) -> Rows:
        if index not in self._blocks:
            self._blocks[index] = self._decode(index)
            while len(self._blocks) > 4:
                self._blocks.popitem(last=False)
        return self._blocks[index]

    def _decode(self, index: int) -> Rows:
        size, last = self.network.decoder.n_frames, self.n_frames - 1
        if self.join == "independent":
            # A block past the end uses the last 32 windows; in a shorter recording the first window is repeated.
            first = min(1 + index * size, max(1, self.n_frames - size))
            frames = range(max(1, first), min(first + size, self.n_frames))
            before, after, z = size - len(frames), 0, self.noise(index)
        else:
            first = 1 + index * size // 2
            frames = range(first, min(first + size, last + 1))
            before, after, z = 0, size - len(frames), self._blended_noise(index)
        audio = self.network.embed(self.windows(frames.start, frames.stop))
        audio = torch.cat([audio[:1].expand(before, -1), audio, audio[-1:].expand(after, -1)])
        device = audio.device
        motion = self.network.decoder(
            audio[None],
            z.to(device)[None],
            torch.tensor([self.style], device=device),
            self.source_pose.to(device)[None],
        )
        return np.asarray(motion[0].float().cpu().numpy(), np.float32)

    def _blended_noise(self, index: int) -> Tensor:
        """The noise of a block: its own for even blocks, the normalised sum of both neighbours' for odd ones.

        (a + b) / sqrt(2) of two independent unit normals has unit variance again.
        """
        if index % 2 == 0:
            return self.noise(index // 2)
        return (self.noise(index // 2) + self.noise(index // 2 + 1)) / 2**0.5
