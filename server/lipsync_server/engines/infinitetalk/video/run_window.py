"""Runs one window: condition, denoise, decode, and pass the last frames to the next window.

A window is one run of the model over up to 81 frames (models/sampling/windows.py). The engine and both benchmarks call
`run_window`, so that a benchmark measures the code that makes videos. Knows the order of the parts, which frames of a
window are new, and how to time each part. Does not know requests, memory that runs out, resume points or how the parts
compute.
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

from torch import Tensor

from lipsync_server.engines.base import Frames
from lipsync_server.engines.infinitetalk.video.conditions import WindowCondition
from lipsync_server.engines.infinitetalk.video.window_loop import OnStep, WindowLoop
from lipsync_server.models.pictures import HostCopy
from lipsync_server.models.sampling.new_frames import NewFrames
from lipsync_server.models.sampling.windows import Window

# The VAE decodes the first latent to one frame and each other one to four.
_N_KINDS_OF_BATCH = 2
Part = Literal["condition", "denoise", "decode", "transfer", "take_over"]
Clock = Callable[[Part], AbstractContextManager[None]]
"""Makes the context in which a part runs, for a benchmark that times the parts. A part may run several times."""


class ConditionSource(Protocol):
    """Where a window's conditioning comes from: `conditions.ConditionMaker` in the engine."""

    def at(self, window: Window) -> WindowCondition:
        """The conditioning of `window`."""

    def prefetch(self, window: Window) -> None:
        """Begin to make the conditioning of `window`, which comes next."""


@dataclass(frozen=True)
class WindowResult:
    """The result of a window whose frames were all yielded.

    latents: (16, T, h, w) float32, the clean latents. taken_over: (16, k, h, w), the latents of the window's last
    frames, with which the next window begins; None after the last window.
    """

    latents: Tensor
    taken_over: Tensor | None


def _untimed(part: Part) -> AbstractContextManager[None]:
    return nullcontext()


def run_window(
    loop: WindowLoop,
    window: Window,
    conditions: ConditionSource,
    known: Tensor | None,
    *,
    is_last: bool,
    prefetch: Window | None = None,
    n_sent: int = 0,
    on_step: OnStep = lambda step: None,
    clock: Clock = _untimed,
) -> Generator[Frames, None, WindowResult]:
    """Yield the window's new frames, uint8 RGB (n, H, W, 3), a few at a time; return what the next window needs.

    known: latents that the window before handed on (`WindowResult.taken_over`); None for the first window. is_last:
    nothing is made beyond the last frame that is kept, and nothing is handed on. prefetch: the next window, when its
    conditioning may be made while the GPU is busy with this one. n_sent: new frames that an earlier attempt at this
    window has yielded already; these are not yielded again. on_step: see `WindowLoop.denoise`; called once more, with
    the number of steps, before each batch of frames. Time between two yields counts for no part.
    """
    with clock("condition"):
        condition = conditions.at(window)
    with clock("denoise"):
        latents = loop.denoise(window, condition, known, on_step)
        if prefetch is not None:
            # The CPU has queued the last denoising step and is free now; the GPU is still busy with that step and will
            # decode next. Use the time to encode the next picture.
            conditions.prefetch(prefetch)
    new = NewFrames(window, motion_frames=0 if is_last else loop.settings.motion_frames, n_sent=n_sent)
    decoded = loop.decode(latents)
    # The computation of the next frames is queued before the host waits for these, so that the GPU never waits.
    leaving: HostCopy | None = None
    while not new.complete:
        with clock("decode"):
            frames = next(decoded, None)
        if frames is None:
            break
        before, kept = leaving, new.add(frames)
        leaving = None if kept is None else HostCopy(kept)
        if before is not None:
            on_step(loop.settings.steps)
            with clock("transfer"):
                batch = before.wait()
            yield batch
    taken_over = None
    if not new.complete:
        with clock("take_over"):
            taken_over = loop.take_over(new.tail())
    if leaving is not None:
        on_step(loop.settings.steps)
        with clock("transfer"):
            batch = leaving.wait()
        yield batch
    return WindowResult(latents, taken_over)


def rehearse(
    loop: WindowLoop, window: Window, conditions: ConditionSource, known: Tensor | None, on_step: OnStep
) -> None:
    """Run `loop`, which has one step, on `window` up to the first frames of each kind, and drop the result.

    In the first run on a card, kernels are compiled, and cuDNN measures its own kernels. This takes half a minute to a
    minute, which the job's first window then saves. loop: has its own random numbers, so the job's random numbers do
    not change. known, on_step: as in `WindowLoop.denoise`.
    """
    latents = loop.denoise(window, conditions.at(window), known, on_step)
    for _ in islice(loop.decode(latents), _N_KINDS_OF_BATCH):
        on_step(0)


def consume(frames: Generator[Frames, None, WindowResult], put: Callable[[Frames], None]) -> WindowResult:
    """Call `put` with each batch (uint8 RGB (n, H, W, 3)) of `run_window`; return the window's result."""
    while True:
        try:
            batch = next(frames)
        except StopIteration as end:
            result: WindowResult = end.value
            return result
        put(batch)
