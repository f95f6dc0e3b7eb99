"""Measure SadTalker's renderer with random weights at the published size: `lipsync bench --random-weights
--engine sadtalker`.

Speed does not depend on the values of weights, so no model files are needed. Knows the measurements; the networks and
inputs are in rig.py.
"""

import gc
import math
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from lipsync_server.bench import memory
from lipsync_server.bench.clock import Clock
from lipsync_server.bench.machine import HEADER, Machine
from lipsync_server.bench.record import Numbers, Record
from lipsync_server.bench.sadtalker.rig import Material, Rig
from lipsync_server.bench.sections import SectionRun, chosen
from lipsync_server.engines.sadtalker.loading import official
from lipsync_server.engines.sadtalker.renderer.renderer import DTYPES, Precision, channels_last
from lipsync_server.media_types import FPS
from lipsync_server.random_models.sadtalker import TINY

TFLOP_PER_FRAME = {256: 1.203, 512: 4.813}
"""Operations of the whole generator for one frame, as the published code computes it, by size."""
_CAP_BYTES = 5 * 2**30
"""GPU memory of a 6 GB card without CUDA's own share."""
_RATES = "convolution TFLOP/s"


@dataclass(frozen=True)
class Case:
    """One section: one kind of measurement of one renderer.

    size: side of the picture in pixels. capped: whether GPU memory is limited to a 6 GB card.
    """

    kind: Literal["speed", "length", "stages"]
    size: int
    precision: Precision
    compiled: bool = False
    capped: bool = False

    @property
    def name(self) -> str:
        """The section's name, such as "speed 512 float16 compiled"."""
        how = [word for word in ("compiled", "capped") if getattr(self, word)]
        return " ".join([self.kind, str(self.size), self.precision, *how])


@dataclass(frozen=True)
class Plan:
    """The extent of a measurement.

    sizes: sides of the picture in pixels. n_frames: of a section `speed`. short_s, long_s: seconds of the two videos of
    a section `length`; with long_s 0 there are no such sections. capped, stages: whether to measure with the memory of
    a 6 GB card, and the parts.
    """

    sizes: Sequence[int] = (512, 256)
    precisions: Sequence[Precision] = ("float16",)
    compiled: bool = True
    n_frames: int = 200
    short_s: float = 10.0
    long_s: float = 300.0
    capped: bool = False
    stages: bool = True

    def cases(self) -> list[Case]:
        """The sections in order: compiled before not compiled, and `length` at the smallest size only.

        Sections that are not compiled have the sizes in reverse order, so that the last renderer is used again.
        """
        cases: list[Case] = []
        for compiled in (True, False) if self.compiled else (False,):
            for size, precision in product(self.sizes if compiled else self.sizes[::-1], self.precisions):
                cases.append(Case("speed", size, precision, compiled))
                if self.long_s and compiled == self.compiled and size == min(self.sizes):
                    cases.append(Case("length", size, precision, compiled))
                if self.capped:
                    cases.append(Case("speed", size, precision, compiled, capped=True))
                if self.stages and not compiled:
                    cases.append(Case("stages", size, precision))
        return cases

    @classmethod
    def for_device(cls, device: torch.device, *, tiny: bool = False) -> "Plan":
        """The plan for a GPU, a smaller one for a CPU, which computes for seconds at each frame, or for a dry run."""
        if device.type == "cuda":
            return cls(capped=True)
        sizes = (256,) if tiny else cls.sizes
        return cls(
            sizes=sizes, precisions=("float32", "bfloat16"), compiled=False, n_frames=5, short_s=0.2,
            long_s=0.4 if tiny else 0.0,
        )  # fmt: skip


@dataclass
class Bench:
    """Measures the cases of a plan, with one renderer in memory at a time."""

    material: Material
    plan: Plan
    rates: dict[Precision, float] = field(default_factory=dict)  # TFLOP/s of convolutions, by precision
    exact: dict[int, torch.Tensor] = field(default_factory=dict)  # a frame in float32, by size
    rig: Rig | None = None

    @property
    def device(self) -> torch.device:
        """The measured device."""
        return self.material.device

    def __post_init__(self) -> None:
        self.clock = Clock(self.device, repeats=1 if self.device.type == "cpu" else 5)

    def measure(self, case: Case) -> Numbers:
        """Measure one case."""
        rig = self._rig_for(case)
        rig.renderer.compiled = case.compiled
        memory.free(self.device)
        memory.reset_peak(self.device)
        with memory.card_of(self._card_bytes(), self.device) if case.capped else nullcontext():
            if case.kind == "speed":
                return self.speed(rig)
            return self.length(rig) if case.kind == "length" else self.stages(rig)

    def measure_into(self, case: Case, found: Numbers) -> None:
        """Measure one case and add its numbers to `found`."""
        found |= self.measure(case)

    def _card_bytes(self) -> int:
        """The size for `memory.card_of`, in bytes. It includes CUDA's own share, and _CAP_BYTES does not."""
        return _CAP_BYTES + (memory.beside_torch_bytes(self.device) if self.device.type == "cuda" else 0)

    def speed(self, rig: Rig) -> Numbers:
        """Frames a second without encoding, and seconds of the first batch, in which code compiles.

        of_convolutions: measured TFLOP/s / TFLOP/s of a convolution alone (`convolution_rate`).
        """
        first = self.material.track(rig.batch_size / FPS)
        _, first_batch_s = self.clock.timed(lambda: list(rig.stream(first)))
        track = self.material.track(self.plan.n_frames / FPS)
        cpu_before_s = time.process_time()
        _, loop_s = self.clock.timed(lambda: list(rig.stream(track)))
        fps, rate = track.n_frames / loop_s, self.rates.get(rig.precision)
        numbers: Numbers = {
            "batch_size": rig.batch_size,
            "stayed_compiled": rig.renderer.compiled,
            "first_batch_s": round(first_batch_s, 2),
            "fps": round(fps, 3),
            "seconds_per_second": round(FPS / fps, 4),
            "cpu_s_per_frame": round((time.process_time() - cpu_before_s) / track.n_frames, 4),
            "tflops": round(fps * TFLOP_PER_FRAME[rig.size], 2),
            **memory.peaks(self.device),
            "mean_error_to_float32": self._error(rig),
        }
        if self.device.type == "cpu":
            numbers["load_average"] = round(os.getloadavg()[0], 2)
        if rate:
            numbers["convolutions_fps"] = round(rate / TFLOP_PER_FRAME[rig.size], 2)
            numbers["of_convolutions"] = round(fps * TFLOP_PER_FRAME[rig.size] / rate, 3)
        return numbers

    def length(self, rig: Rig) -> Numbers:
        """Largest memory while a short and then a long recording are rendered. The frames are dropped at once."""
        return {
            "short": self._streamed(rig, self.plan.short_s),
            "long": self._streamed(rig, self.plan.long_s),
        }

    def stages(self, rig: Rig) -> Numbers:
        """Milliseconds per frame of each part of the renderer."""
        stages = rig.stages(self.material.track(1.0))
        numbers: Numbers = {name: self._ms_per_frame(stage, rig.batch_size) for name, stage in stages.items()}
        track = self.material.track(5.0)
        _, seconds = self.clock.timed(lambda: track.rows(0, track.n_frames))
        numbers["coefficients"] = round(seconds * 1000 / track.n_frames, 4)
        numbers["convolutions"] = {name: round(value, 3) for name, value in rig.renderer.conv_times.items()}
        return numbers

    def _streamed(self, rig: Rig, duration_s: float) -> Numbers:
        """Render a video of `duration_s`, and return speed and peak memory."""
        track = self.material.track(duration_s)
        memory.reset_peak(self.device)
        rss_bytes, seconds = self.clock.timed(lambda: _largest_rss(rig.stream(track)))
        return {
            "video_s": duration_s,
            "n_frames": track.n_frames,
            "fps": round(track.n_frames / seconds, 2),
            "rss_mib": round(rss_bytes / 2**20, 1),
            **memory.peaks(self.device),
        }

    def _ms_per_frame(self, stage: Callable[[], object], batch_size: int) -> float:
        """Mean milliseconds of `stage`, which computes one batch, for a frame."""
        samples = self.clock.seconds(stage)
        return round(sum(samples) / len(samples) * 1000 / batch_size, 4)

    def _rig_for(self, case: Case) -> Rig:
        """The current renderer if it has the case's size and precision, else a new one."""
        if self.rig is None or (self.rig.size, self.rig.precision) != (case.size, case.precision):
            self.rig = None
            gc.collect()
            if self.plan.compiled:
                torch.compiler.reset()
            self.rig = Rig(self.material, case.size, case.precision, compiled=self.plan.compiled)
        return self.rig

    def _error(self, rig: Rig) -> float | None:
        """Mean absolute difference to the float32 renderer's picture (values 0 to 1); None if that did not run yet."""
        frame = rig.first_frame(self.material.track(1 / FPS))
        if rig.precision == "float32":
            self.exact[rig.size] = frame
        return float((frame - self.exact[rig.size]).abs().mean()) if rig.size in self.exact else None


def convolution_rate(device: torch.device, precision: Precision) -> float:
    """TFLOP/s of this device in the most frequent convolution of the renderer: 512 to 512 channels, 3x3 on 64 x 64."""
    dtype, batch = DTYPES[precision], 16
    conv = channels_last(nn.Conv2d(512, 512, 3, padding=1, device=device, dtype=dtype))
    x = torch.randn(batch, 512, 64, 64, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    repeats = 50
    with torch.inference_mode():
        conv(x)
        _, seconds = Clock(device).timed(lambda: [conv(x) for _ in range(repeats)])
    return 2 * 9 * 512 * 512 * 64 * 64 * batch * repeats / seconds / 1e12


def _largest_rss(stream: Iterator[int]) -> int:
    """The largest resident memory of this process while a stream is consumed, in bytes."""
    largest = 0
    for _ in stream:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        largest = max(largest, pages * resource.getpagesize())
    return largest


def measure(asked: SectionRun) -> None:
    """Run the wanted sections, one after the other on one device. Raises InvalidInput for an unknown section."""
    device = torch.device(asked.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = False
    plan = Plan.for_device(device, tiny=asked.tiny)
    cases = {case.name: case for case in plan.cases()}
    wanted = chosen(cases, asked.only)
    ends_at = math.inf if asked.budget_s is None else time.monotonic() + asked.budget_s
    record = Record(asked.json_path, ends_at, after_part=lambda: memory.free(device))
    record.section(HEADER, lambda found: found.update(Machine.here(str(device)).with_torch().numbers))
    bench = Bench(Material(device, TINY if asked.tiny else official.PUBLISHED), plan)
    if device.type == "cuda":  # a CPU is shared, and its rate changes from second to second
        bench.rates = {precision: convolution_rate(device, precision) for precision in plan.precisions}
        record.section(_RATES, lambda found: found.update({k: round(rate, 3) for k, rate in bench.rates.items()}))
    record.run({name: partial(bench.measure_into, cases[name]) for name in wanted})
