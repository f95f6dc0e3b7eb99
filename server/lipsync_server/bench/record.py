"""What every section of the benchmark shares: sizes, where numbers go, clocks and memory.

Knows how to time a device and to write numbers as they come. Does not know what is measured.
"""

import gc
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lipsync_server.engines.base import Frames
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.errors import EngineUnavailable
from lipsync_server.media.encoder import FrameEncoder
from lipsync_server.random_models import infinitetalk as random_checkpoint
from lipsync_server.random_models.infinitetalk import Sizes

Numbers = dict[str, object]
GIB = 2**30
EIGHT_BIT: dict[str, tuple[str, float]] = {
    "int8_scores": ("int8", 1.0),
    "8bit": ("fp8", 1.0),
    "8bit_half": ("fp8", 0.5),
    "8bit_quarter": ("fp8", 0.25),
}
"""Ways of self-attention in 8 bits: the kernel's name and the share of key tiles that it looks at."""


@dataclass(frozen=True)
class Scale:
    """How large everything is: as published, or tiny for a dry run on a CPU.

    picture, picture_hd: height and width in pixels. window_frames and motion_frames: those of a window and those it
    takes over. http_durations_s: seconds of sound that the HTTP section posts, after a short one to warm up.
    """

    models: Sizes = random_checkpoint.FULL
    picture: tuple[int, int] = (640, 640)
    picture_hd: tuple[int, int] = (960, 960)
    window_frames: int = 81
    motion_frames: int = 9
    http_durations_s: tuple[float, ...] = (10.0, 60.0)
    soak_jobs: int = 50

    @property
    def n_latents(self) -> int:
        return (self.window_frames - 1) // 4 + 1


FULL = Scale()
TINY = Scale(
    models=random_checkpoint.TINY, picture=(64, 64), picture_hd=(96, 96), window_frames=13, motion_frames=5,
    http_durations_s=(0.2,), soak_jobs=3,
)  # fmt: skip


class BackgroundSink(Protocol):
    """What the worker puts between an engine and its encoder: workers.encoding.BackgroundEncoder."""

    def put(self, frames: Frames) -> None: ...

    def after_all(self, action: Callable[[], None]) -> None: ...

    def drain(self, timeout_s: float | None = None) -> bool: ...

    def close(self) -> None: ...


Beside = Callable[[FrameEncoder], BackgroundSink]
"""Starts encoding in a thread of its own. It is the worker's, which an engine may not import, so it is handed in."""


@dataclass
class Bench:
    """One run of the benchmark. path: the JSON file, which keeps what an earlier run of other sections wrote."""

    scale: Scale
    device: torch.device
    scratch: Path
    path: Path | None = None
    beside: Beside | None = None
    repeats: int = 4
    numbers: Numbers = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is not None:
            self.numbers = read(self.path)

    @property
    def config(self) -> TransformerConfig:
        return self.scale.models.transformer

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def encode_beside(self, encoder: FrameEncoder) -> BackgroundSink:
        """Encode as the worker does; raises EngineUnavailable where nobody handed that in."""
        if self.beside is None:
            raise EngineUnavailable("Whole windows are encoded by the worker's thread: use `lipsync bench`.")
        return self.beside(encoder)

    def checkpoint(self) -> Path:
        """The folder of a random checkpoint in the published layout; written when first asked for."""
        folder, finished = self._checkpoint, self._checkpoint / "finished"
        if not finished.exists():
            self.say(f"writing a random checkpoint to {folder}")
            started = time.perf_counter()
            contents = random_checkpoint.FP8_FEW_STEPS
            random_checkpoint.write(folder, self.scale.models, contents, device=self.device)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            self.numbers["checkpoint"] = {"written_s": round(time.perf_counter() - started, 1), "bytes": size}
            self.save()
            self.say(f"checkpoint: {self.numbers['checkpoint']}")
            finished.touch()
            self.free()
        return folder

    def remove_checkpoint(self) -> None:
        shutil.rmtree(self._checkpoint, ignore_errors=True)

    @property
    def _checkpoint(self) -> Path:
        return self.scratch / f"random-checkpoint-{self.config.dim}"

    def free(self) -> None:
        """Give back what nobody refers to any more."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def section(self, name: str, measure: Callable[["Bench", Numbers], None]) -> None:
        """Run one section, which fills in its numbers and may `save` between; a failure is its own alone."""
        self.part(self.numbers, name, lambda found: measure(self, found))
        self.say(f"{name}: {json.dumps(self.numbers[name])}")

    def part(self, numbers: Numbers, name: str, measure: Callable[[Numbers], None]) -> None:
        """Measure one part of `numbers`, written at once; when it fails, it says why and the others go on."""
        started = time.perf_counter()
        found = Numbers()
        numbers[name] = found
        try:
            measure(found)
        except Exception as error:  # the other parts still count
            found["failed"] = f"{type(error).__name__}: {str(error)[:500]}"
        found["took_s"] = round(time.perf_counter() - started, 1)
        self.save()
        self.free()

    def save(self) -> None:
        """Write all numbers there are."""
        if self.path is not None:
            write(self.path, self.numbers)

    @staticmethod
    def say(line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, run: Callable[[], object]) -> list[float]:
        """Wall seconds of each run between two waits for the device; the first is a warm-up and not counted."""
        taken = []
        for _ in range(self.repeats + 1):
            self.wait()
            started = time.perf_counter()
            run()
            self.wait()
            taken.append(round(time.perf_counter() - started, 6))
        return taken[1:]

    def reset_peak(self) -> None:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_gib(self) -> float | None:
        """Largest sum of tensors since `reset_peak`, in GiB."""
        return round(torch.cuda.max_memory_allocated(self.device) / GIB, 2) if self.cuda else None

    def peaks(self) -> Numbers:
        """Peak memory since `reset_peak`: of tensors, of torch's allocator, and of the card.

        The last one is what nvidia-smi would have shown at the peak: with CUDA's context, its libraries' workspaces and
        loaded kernels, which torch does not count.
        """
        if not self.cuda:
            return {}
        reserved = torch.cuda.max_memory_reserved(self.device)
        return {
            "peak_gib": self.peak_gib(),
            "peak_reserved_gib": round(reserved / GIB, 2),
            "peak_device_gib": round((reserved + self.beside_torch_bytes()) / GIB, 2),
        }

    def allocated_bytes(self) -> int:
        """Memory that tensors take on the card now."""
        return torch.cuda.memory_allocated(self.device) if self.cuda else 0

    def beside_torch_bytes(self) -> int:
        """Memory in use on the card that is not torch's, now; all of this process's when nobody else uses the card."""
        free, total = torch.cuda.mem_get_info(self.device)
        return total - free - torch.cuda.memory_reserved(self.device)

    @contextmanager
    def card_of(self, n_bytes: int) -> Iterator[int]:
        """Hold this process to a card of `n_bytes`, CUDA's context included; gives what torch may take of it."""
        if not self.cuda:
            yield n_bytes
            return
        total = torch.cuda.get_device_properties(self.device).total_memory
        left = n_bytes - self.beside_torch_bytes()
        torch.cuda.set_per_process_memory_fraction(left / total, self.device)
        try:
            yield left
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)


def read(path: Path) -> Numbers:
    """The numbers in a file; none where there is no file yet."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else Numbers()


def write(path: Path, numbers: Numbers) -> None:
    """Put the numbers into a file, which is whole at any moment: another process may look at it meanwhile."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def median(samples: list[float]) -> float:
    return sorted(samples)[len(samples) // 2]


def relative(got: Tensor, wanted: Tensor) -> float:
    """Relative L2."""
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())
