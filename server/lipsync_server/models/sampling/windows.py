"""Windows over the audio: the frames that each run of the model makes and keeps, and the frames of their sound.

The model makes at most 81 frames in one run, so a long video is a row of overlapping windows. A later window begins
with the last `motion_frames` frames of the previous window as input, so that motion continues without a jump:

    window 0   [0 ............................ 80]
    window 1                          [72 .. 80 | 81 ................ 152]        9 frames taken over, 72 new ones

The VAE encodes the first frame as one latent frame, and each four more frames as another, so a window has 4n + 1 frames
and n + 1 latent frames. The last window is the shortest that covers the rest of the audio. The model gets the sound of
each frame and of two frames on either side. Integers only; knows no audio and no model.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lipsync_server.errors import InvalidInput

WINDOW_FRAMES = 81
MOTION_FRAMES = 9
# The frames of sound for one video frame: its own, and two on either side.
_NEIGHBOURS = np.arange(-2, 3, dtype=np.int64)


@dataclass(frozen=True)
class Window:
    """One run of the model: frames [start, start + n_frames) of the video.

    The frames [keep_first, keep_stop), counted within the window, are new. stride: video frames of a latent frame."""

    index: int
    start: int
    n_frames: int
    keep_first: int
    keep_stop: int
    stride: int = 4

    @property
    def n_latents(self) -> int:
        """Number of latent frames of the window."""
        return latents_of(self.n_frames, self.stride)

    @property
    def n_kept(self) -> int:
        """Number of new frames of the window."""
        return self.keep_stop - self.keep_first


@dataclass(frozen=True)
class Schedule:
    """All windows of one video of `n_frames` frames.

    heard: number of audio frames of each person. mirrored: number of frames that are appended backwards to each
    person's audio before the last window, as in the reference; we append silence.
    """

    windows: tuple[Window, ...]
    n_frames: int
    motion_frames: int
    heard: tuple[int, ...]
    mirrored: tuple[int, ...]

    def audio_indices(self, window: Window, person: int = 0) -> NDArray[np.int64]:
        """Indices of `person`'s audio frames for each frame of `window`: int64 (n_frames, 5)."""
        n = self.heard[person]
        length = n + (self.mirrored[person] if window is self.windows[-1] else 0)
        centres = np.arange(window.start, window.start + window.n_frames, dtype=np.int64)
        positions = np.clip(centres[:, None] + _NEIGHBOURS, 0, length - 1)
        heard: NDArray[np.int64] = np.where(positions < n, positions, 2 * n - 1 - positions)
        return heard

    def progress(self, window: Window, step: int, n_steps: int) -> tuple[int, int, str]:
        """The work before `step` of `window` and the whole work, in steps times latent frames, and a note in words.

        step: counted from 0, of `n_steps` denoising steps a window; `n_steps` itself while the window is decoded.
        """
        before = sum(w.n_latents for w in self.windows[: window.index]) * n_steps
        total = sum(w.n_latents for w in self.windows) * n_steps
        note = f"window {window.index + 1} of {len(self.windows)}, step {min(step + 1, n_steps)} of {n_steps}"
        return before + step * window.n_latents, total, note


def latents_of(n_frames: int, stride: int = 4) -> int:
    """Number of latent frames for `n_frames` frames: one for the first frame, then one for each `stride` frames."""
    return (n_frames - 1) // stride + 1


def _check(window_frames: int, motion_frames: int, stride: int = 4) -> None:
    """Raise InvalidInput unless both lengths are whole latent frames and a window is longer than its overlap."""
    if window_frames % stride != 1 or window_frames <= stride:
        raise InvalidInput(
            f"window_frames must be {stride}n+1 and at least {stride + 1}, not {window_frames}.", field="window_frames"
        )
    if motion_frames % stride != 1 or not 1 <= motion_frames < window_frames:
        raise InvalidInput(
            f"motion_frames must be {stride}n+1 and less than the window's {window_frames} frames, not "
            f"{motion_frames}.",
            field="motion_frames",
        )


def schedule(
    n_frames: int,
    *,
    n_people: int = 1,
    window_frames: int = WINDOW_FRAMES,
    motion_frames: int = MOTION_FRAMES,
    stride: int = 4,
    whole_windows: bool = False,
) -> Schedule:
    """Windows for a video of exactly `n_frames` frames; the last one is the shortest 4n+1 that covers the rest.

    The audio must be padded with silence to `heard` frames, the end of the last window. whole_windows: the last window
    is as long as the others, for models that were distilled at one length. stride: frames of a latent frame.
    """
    _check(window_frames, motion_frames, stride)
    if n_frames < 1:
        raise InvalidInput("The video must have at least one frame.")
    windows: list[Window] = []
    start = 0
    while True:
        skip = motion_frames if windows else 0
        needed = n_frames - start
        if needed <= window_frames:
            size = stride * (latents_of(needed, stride) - 1) + 1
            size = size if size >= needed else size + stride
            size = window_frames if whole_windows else size
            windows.append(Window(len(windows), start, size, skip, needed, stride))
            break
        windows.append(Window(len(windows), start, window_frames, skip, window_frames, stride))
        start += window_frames - motion_frames
    heard = windows[-1].start + windows[-1].n_frames
    return Schedule(tuple(windows), n_frames, motion_frames, (heard,) * n_people, (0,) * n_people)
