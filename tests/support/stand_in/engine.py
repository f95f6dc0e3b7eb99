"""The stand-in engine itself."""

import os
import pickle
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from lipsync_server.engines.base import Frames, RenderContext, RenderRequest
from lipsync_server.errors import Cancelled
from lipsync_server.settings import Settings

from stand_in.options import Options

_PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], dtype=np.uint8)
N_BARS = len(_PALETTE)
"""The picture repeats after so many frames."""


def bars(frame: int, width: int, height: int) -> Frames:
    """Frame number `frame`: four vertical bars that move on by one bar with every frame. uint8 (height, width, 3)."""
    columns = (np.arange(width) * N_BARS // width + frame) % N_BARS
    return np.broadcast_to(_PALETTE[columns], (height, width, 3)).copy()


class BarsEngine:
    """weights: a folder. Its file `load`, if there is one, names a fault of loading: die, fail, slow, lose the GPU."""

    name = "bars"

    def __init__(self, weights: Path) -> None:
        self._orders = weights / "load"

    def load(self, report: Callable[[str, float, float], None] = lambda stage, done, total: None) -> None:
        order = self._orders.read_text() if self._orders.is_file() else ""
        report("load", 1, 2)
        if order == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if order == "fail":
            raise RuntimeError("the weights are made of cheese")
        if order == "lose the GPU":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        while order == "slow" and self._orders.is_file():
            time.sleep(0.01)
        report("load", 2, 2)

    def generate(self, request: RenderRequest, context: RenderContext) -> Iterator[Frames]:
        options = request.options
        assert isinstance(options, Options)
        first = 0
        if context.resume_point is not None:
            first = int(context.resume_point.state["next_frame"])
            assert first == context.resume_point.n_frames
            assert np.array_equal(context.resume_point.state["recent"], bars(first - 1, 4, 2))
            context.warn(f"resumed at {first}")
        tried = context.scratch / "tried"
        misbehaves = options.every_try or not tried.exists()
        tried.touch()
        if misbehaves and options.channel:
            _spoil_channel(options.channel)
        last = request.n_frames + options.extra_frames
        saved = first
        context.progress("preprocess", 1, 1)
        for start in range(first, last, options.batch):
            end = min(last, start + options.batch)
            if not options.deaf and context.cancelled():
                raise Cancelled("The job was cancelled.")
            if misbehaves and options.fail_at and start <= options.fail_at < end:
                raise RuntimeError("a tensor went missing")
            if misbehaves and options.die_at and start <= options.die_at < end:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(options.seconds_per_frame * (end - start))
            context.progress("generate", end, last, f"frame {end} of {last}")
            grow = 2 if options.grow_at and start >= options.grow_at else 0
            yield np.stack([bars(frame, options.width + grow, options.height) for frame in range(start, end)])
            if options.save_every and end - saved >= options.save_every:
                context.save({"next_frame": end, "recent": bars(end - 1, 4, 2), "note": "ä", "scale": 0.5, "on": True})
                saved = end

    def close(self) -> None:
        pass


def _spoil_channel(how: str) -> None:
    """Spoil the pipe of this worker process to its server, whose number is the process's first argument."""
    descriptor = int(sys.argv[1])
    if how == "closed":
        socket.socket(fileno=os.dup(descriptor)).shutdown(socket.SHUT_WR)
        time.sleep(3600)
    elif how == "garbage":
        os.write(descriptor, struct.pack("!i", 64) + bytes(range(64)))
    else:
        data = pickle.dumps({"task": "of nobody"})
        os.write(descriptor, struct.pack("!i", len(data)) + data)


def create(settings: Settings) -> BarsEngine:
    return BarsEngine(settings.weights_dir)
