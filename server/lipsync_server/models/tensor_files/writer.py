"""Write a safetensors file whose tensors are made one after the other, on any device, and never all in memory.

The header is the first part of the file, so every name, type and shape must be known before the first tensor is made. A
few threads copy and write while the caller makes the next tensors. Knows the file format. Knows no model.
"""

import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import BoundedSemaphore

import torch
from torch import Tensor

from lipsync_server.durable import publish
from lipsync_server.errors import WeightsError

_TYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.float8_e4m3fn: "F8_E4M3",
}
_N_WRITERS = 4
# Number of tensors that may wait for a writer: enough to keep the writers busy.
_N_WAITING = 8


@contextmanager
def appears_whole(target: Path) -> Iterator[Path]:
    """Yield the path of a new file beside `target`, and rename it durably to `target` at the end.

    Raises WeightsError.
    """
    part = target.with_suffix(".part")
    try:
        yield part
        publish(part, target)
    except OSError as error:
        raise WeightsError(f"{target} cannot be written ({error}). Free some disk space.") from error
    finally:
        part.unlink(missing_ok=True)


def write_tensors(path: Path, layout: Mapping[str, Tensor], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write `tensors` to `path`. layout: the same names with the types and shapes, on any device, such as meta.

    Raises ValueError if a tensor differs from the layout, or if a tensor of the layout is missing at the end.
    """
    offsets: dict[str, int] = {}
    header: dict[str, object] = {}
    end = 0
    # Tensors of wide types are first in the file, so that every tensor is aligned for its type.
    for name, tensor in sorted(layout.items(), key=lambda item: -item[1].dtype.itemsize):
        offsets[name], begin = end, end
        end += tensor.numel() * tensor.dtype.itemsize
        header[name] = {
            "dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end],
        }  # fmt: skip
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    waiting = BoundedSemaphore(_N_WAITING)
    with path.open("wb") as file, ThreadPoolExecutor(_N_WRITERS) as writers:
        file.write(struct.pack("<Q", len(text)) + text)
        file.flush()
        os.ftruncate(file.fileno(), start + end)

        def write(tensor: Tensor, offset: int) -> None:
            try:
                _write_at(file.fileno(), tensor, offset)
            finally:
                waiting.release()

        written = []
        for name, tensor in tensors:
            like = layout.get(name)
            if like is None or (like.dtype, like.shape) != (tensor.dtype, tensor.shape) or name not in offsets:
                raise ValueError(f"{name} is not as announced: {tensor.dtype}, {tuple(tensor.shape)}")
            waiting.acquire()
            written.append(writers.submit(write, tensor, start + offsets.pop(name)))
        for one in written:
            one.result()
    if offsets:
        raise ValueError(f"{len(offsets)} tensors never came, the first is {next(iter(offsets))}")


def _write_at(descriptor: int, tensor: Tensor, offset: int) -> None:
    left = tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data
    while len(left):
        n_written = os.pwrite(descriptor, left, offset)
        left, offset = left[n_written:], offset + n_written
