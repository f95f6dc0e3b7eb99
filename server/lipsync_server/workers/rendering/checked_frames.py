"""Checks the frames of an engine against the engine interface: dtype, shape, size and number.

A fault of an engine is reported here, before wrong frames reach the encoder or a caller. Knows the interface only.
"""

from collections.abc import Generator

from lipsync_server.engines.base import Engine, Frames, RenderContext, RenderRequest
from lipsync_server.errors import LipsyncError


def checked_frames(
    engine: Engine, request: RenderRequest, context: RenderContext, n_stored: int
) -> Generator[Frames, None, None]:
    """Yield the engine's batches, which follow the `n_stored` frames of an earlier try.

    Each batch must be (n, height, width, 3) uint8 with even and constant size, and the total must be the request's
    number of frames. Raises LipsyncError that names the engine's fault.
    """
    n_done = n_stored
    size: tuple[int, int] | None = None
    batches = engine.generate(request, context)
    try:
        for frames in batches:
            if frames.dtype != "uint8" or frames.ndim != 4 or frames.shape[3] != 3:
                raise _fault(engine, f"made an array of {frames.dtype} {frames.shape} instead of RGB frames")
            height, width = frames.shape[1:3]
            if height % 2 or width % 2:
                raise _fault(engine, f"made frames of {width}x{height} pixels; both must be even")
            if size not in (None, (height, width)):
                raise _fault(engine, f"changed the size of its frames to {width}x{height} at frame {n_done}")
            size = (height, width)
            n_done += len(frames)
            if n_done > request.n_frames:
                raise _fault(engine, f"made {n_done} frames or more where {request.n_frames} were due")
            if len(frames):
                yield frames
            del frames
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()
    if n_done != request.n_frames:
        raise _fault(engine, f"made {n_done} frames where {request.n_frames} were due")


def _fault(engine: Engine, fault: str) -> LipsyncError:
    """The error for a caller. fault: follows the engine's name in the sentence."""
    return LipsyncError(f"Engine {engine.name} {fault}. This is a fault of the engine; please report it.")
