"""How fast the engine renders on this machine and how much memory it takes, with random weights at the published size.

    python -m lipsync_server.bench.sadtalker.command --json result.json [--only 512] [--precisions float32 bfloat16]

Speed does not depend on what the weights say. Runs where only torch, numpy, scipy, cv2, Pillow and safetensors are.
Every section is written to the JSON as soon as it is known; one that fails says why and leaves the others alone. Knows
what to time; bench_rig.py knows what is rendered.
"""

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import nn

from lipsync_server.bench.sadtalker.rig import Material, Rig
from lipsync_server.engines.sadtalker.audio.mel import FPS
from lipsync_server.engines.sadtalker.loading import official
from lipsync_server.engines.sadtalker.renderer.renderer import DTYPES, Precision, channels_last
from lipsync_server.random_models.sadtalker_tiny import TINY

TFLOP_PER_FRAME = {256: 1.203, 512: 4.813}  # of the whole generator, as the reference computes it, per frame
PACKAGES = ("torch", "numpy", "scipy", "opencv-python-headless", "pillow", "safetensors")
_GIB = 2**30
_T = TypeVar("_T")
Numbers = dict[str, object]


@dataclass(frozen=True)
class Case:
    """One section: what is measured of which renderer. capped: with the GPU memory of a 6 GB card."""

    what: Literal["speed", "length", "stages"]
    size: int
    precision: Precision
    compiled: bool = False
    capped: bool = False

    @property
    def name(self) -> str:
        how = [word for word in ("compiled", "capped") if getattr(self, word)]
        return " ".join([self.what, str(self.size), self.precision, *how])


@dataclass(frozen=True)
class Plan:
    """How much is measured. Lengths in seconds of video; long_s 0 leaves memory over length out."""

    sizes: Sequence[int] = (512, 256)
    precisions: Sequence[Precision] = ("float16",)
    compiled: bool = True
    n_frames: int = 200
    short_s: float = 10.0
    long_s: float = 300.0
    cap_gib: float = 0.0
    stages: bool = False

    def cases(self) -> list[Case]:
        """The sections in order: compiled before not, and memory over length at the smallest size.

        What is not compiled goes through the sizes backwards, so that a renderer serves as many sections as it can.
        """
        cases: list[Case] = []
        for compiled in (True, False) if self.compiled else (False,):
            for size, precision in product(self.sizes if compiled else self.sizes[::-1], self.precisions):
                cases.append(Case("speed", size, precision, compiled))
                if self.long_s and compiled == self.compiled and size == min(self.sizes):
                    cases.append(Case("length", size, precision, compiled))
                if self.cap_gib:
                    cases.append(Case("speed", size, precision, compiled, capped=True))
        if self.stages:
            cases += [Case("stages", *rig, self.compiled) for rig in product(self.sizes, self.precisions)]
        return cases


@dataclass
class Bench:
    """Goes through a plan, holding one renderer at a time."""

    material: Material
    plan: Plan
    rates: dict[Precision, float] = field(default_factory=dict)  # TFLOP/s of convolutions, by precision
    exact: dict[int, torch.Tensor] = field(default_factory=dict)  # a frame in float32, by size
    rig: Rig | None = None

    @property
    def device(self) -> torch.device:
        return self.material.device

    def measure(self, case: Case) -> Numbers:
        rig = self._rig_for(case)
        rig.renderer.compiled = case.compiled
        with memory_cap(self.device, self.plan.cap_gib if case.capped else 0.0):
            if case.what == "speed":
                return self.speed(rig)
            return self.length(rig) if case.what == "length" else self.stages(rig)

    def speed(self, rig: Rig) -> Numbers:
        """Frames a second of everything but encoding, and what the first batch took (compiling, choosing kernels)."""
        first = self.material.track(rig.batch_size / FPS)
        first_batch_s, _ = timed(lambda: list(rig.stream(first)), self.device)
        track = self.material.track(self.plan.n_frames / FPS)
        cpu_before_s = time.process_time()
        loop_s, _ = timed(lambda: list(rig.stream(track)), self.device)
        fps, rate = track.n_frames / loop_s, self.rates.get(rig.precision)
        numbers: Numbers = {
            "batch_size": rig.batch_size,
            "stayed_compiled": rig.renderer.compiled,
            "first_batch_s": round(first_batch_s, 2),
            "fps": round(fps, 3),
            "seconds_per_second": round(FPS / fps, 4),
            "cpu_s_per_frame": round((time.process_time() - cpu_before_s) / track.n_frames, 4),
            "tflops": round(fps * TFLOP_PER_FRAME[rig.size], 2),
            **self._gpu_peak(),
            "mean_error_to_float32": self._error(rig),
        }
        if self.device.type == "cpu":
            numbers["load_average"] = round(os.getloadavg()[0], 2)
        if rate:
            numbers["floor_fps"] = round(rate / TFLOP_PER_FRAME[rig.size], 2)
            numbers["of_floor"] = round(fps * TFLOP_PER_FRAME[rig.size] / rate, 3)
        return numbers

    def length(self, rig: Rig) -> Numbers:
        """Largest memory while a short and then a long recording are rendered, frames dropped as they come."""
        return {
            "short": self._streamed(rig, self.plan.short_s),
            "long": self._streamed(rig, self.plan.long_s),
        }

    def stages(self, rig: Rig) -> Numbers:
        """Milliseconds per frame of the parts."""
        stages = rig.stages(self.material.track(1.0))
        numbers: Numbers = {name: self._ms_per_frame(stage, rig.batch_size) for name, stage in stages.items()}
        track = self.material.track(5.0)
        seconds, _ = timed(lambda: track.rows(0, track.n_frames), self.device)
        numbers["coefficients"] = round(seconds * 1000 / track.n_frames, 4)
        numbers["convolutions"] = {name: round(value, 3) for name, value in rig.renderer.conv_times.items()}
        return numbers

    def _streamed(self, rig: Rig, duration_s: float) -> Numbers:
        track = self.material.track(duration_s)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds, rss_bytes = timed(lambda: _largest_rss(rig.stream(track)), self.device)
        return {
            "video_s": duration_s,
            "n_frames": track.n_frames,
            "fps": round(track.n_frames / seconds, 2),
            "rss_mib": round(rss_bytes / 2**20, 1),
            **self._gpu_peak(),
        }

    def _ms_per_frame(self, stage: Callable[[], object], batch_size: int) -> float:
        repeats = 1 if self.device.type == "cpu" else 5
        stage()
        seconds, _ = timed(lambda: [stage() for _ in range(repeats)], self.device)
        return round(seconds * 1000 / repeats / batch_size, 4)

    def _rig_for(self, case: Case) -> Rig:
        if self.rig is None or (self.rig.size, self.rig.precision) != (case.size, case.precision):
            self.rig = None
            gc.collect()
            if self.plan.compiled:
                torch.compiler.reset()
            self.rig = Rig(self.material, case.size, case.precision, compiled=self.plan.compiled)
        return self.rig

    def _error(self, rig: Rig) -> float | None:
        """Mean difference on the 0..1 picture to the float32 renderer, if that ran before."""
        frame = rig.first_frame(self.material.track(1 / FPS))
        if rig.precision == "float32":
            self.exact[rig.size] = frame
        return float((frame - self.exact[rig.size]).abs().mean()) if rig.size in self.exact else None

    def _gpu_peak(self) -> Numbers:
        if self.device.type != "cuda":
            return {}
        return {
            "peak_gpu_gib": round(torch.cuda.max_memory_allocated() / _GIB, 3),
            "peak_gpu_reserved_gib": round(torch.cuda.max_memory_reserved() / _GIB, 3),
        }


class Report:
    """Sections by name, on disk as soon as they are known."""

    def __init__(self, path: Path | None, budget_s: float) -> None:
        self.path, self.ends_at = path, time.monotonic() + budget_s
        self.numbers: Numbers = {}

    def section(self, name: str, measure: Callable[[], object]) -> None:
        if time.monotonic() > self.ends_at:
            self.numbers[name] = {"left_out": "the time was used up"}
        else:
            started = time.perf_counter()
            try:
                self.numbers[name] = measure()
            except Exception as error:  # the other sections still count
                self.numbers[name] = {"failed": f"{type(error).__name__}: {str(error)[:500]}"}
            self.numbers[f"{name}, took s"] = round(time.perf_counter() - started, 1)
        sys.stderr.write(f"{name}: {json.dumps(self.numbers[name])}\n")
        if self.path is not None:
            self.path.write_text(json.dumps(self.numbers, indent=1) + "\n", encoding="utf-8")


@contextmanager
def memory_cap(device: torch.device, gib: float) -> Iterator[None]:
    """Count GPU memory anew; while a cap is given the process may have no more than that."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(gib * _GIB / total if gib else 1.0)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def timed(work: Callable[[], _T], device: torch.device) -> tuple[float, _T]:
    """Seconds until `work` and all that it has launched are done, and its result."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def convolution_rate(device: torch.device, precision: Precision) -> float:
    """TFLOP/s of this device in the renderer's commonest convolution, 512 to 512 channels, 3x3 on 64 x 64."""
    dtype, batch = DTYPES[precision], 16
    conv = channels_last(nn.Conv2d(512, 512, 3, padding=1, device=device, dtype=dtype))
    x = torch.randn(batch, 512, 64, 64, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    repeats = 50
    with torch.inference_mode():
        conv(x)
        seconds, _ = timed(lambda: [conv(x) for _ in range(repeats)], device)
    return 2 * 9 * 512 * 512 * 64 * 64 * batch * repeats / seconds / 1e12


def machine(device: torch.device) -> Numbers:
    """What the figures were measured on, and with what."""
    installed = {name: _version(name) for name in PACKAGES}
    found: Numbers = {
        "device": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        **{name: version for name, version in installed.items() if version},
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        found |= {
            "device": torch.cuda.get_device_name(device),
            "gpu_memory_gib": round(torch.cuda.get_device_properties(device).total_memory / _GIB, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _largest_rss(stream: Iterator[int]) -> int:
    """The process's largest resident memory while a stream goes by, in bytes."""
    largest = 0
    for _ in stream:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        largest = max(largest, pages * resource.getpagesize())
    return largest


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure the sadtalker renderer with random weights.")
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 256], choices=official.SIZES)
    default_precisions: list[Precision] = ["float16"] if on_gpu else ["float32", "bfloat16"]
    parser.add_argument("--precisions", nargs="+", default=default_precisions, choices=list(DTYPES))
    parser.add_argument("--frames", type=int, default=200 if on_gpu else 5, help="frames of a speed measurement")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=on_gpu)
    parser.add_argument("--short-s", type=float, default=10.0, help="seconds of video of the first memory measurement")
    parser.add_argument("--long-s", type=float, default=300.0 if on_gpu else 0.0, help="and of the second; 0: neither")
    parser.add_argument(
        "--memory-cap-gib",
        type=float,
        default=5.0 if on_gpu else 0.0,
        help="repeat speeds with so much GPU memory; 5 is what a 6 GB card leaves beside CUDA itself; 0: do not",
    )
    parser.add_argument("--stages", action="store_true", help="also the milliseconds of every part")
    parser.add_argument("--only", default="", help="sections whose name contains this")
    parser.add_argument("--budget-s", type=float, default=1e6, help="begin no section after so many seconds")
    parser.add_argument("--tiny", action="store_true", help="tiny networks: tries this program, measures nothing")
    parser.add_argument("--json", type=Path, default=None, help="write the report here, section by section")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    device = torch.device(given.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = False
    report = Report(given.json, given.budget_s)
    report.section("machine", lambda: machine(device))
    plan = Plan(
        sizes=given.sizes,
        precisions=given.precisions,
        compiled=given.compile,
        n_frames=given.frames,
        short_s=given.short_s,
        long_s=given.long_s,
        cap_gib=given.memory_cap_gib,
        stages=given.stages,
    )
    bench = Bench(Material(device, TINY if given.tiny else official.PUBLISHED), plan)
    if device.type == "cuda":  # a CPU is shared, and what it reaches changes from second to second
        bench.rates = {precision: convolution_rate(device, precision) for precision in plan.precisions}
        report.section("convolution TFLOP/s", lambda: {name: round(rate, 3) for name, rate in bench.rates.items()})
    for case in plan.cases():
        if given.only in case.name:
            report.section(case.name, partial(bench.measure, case))
    sys.stdout.write(json.dumps(report.numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
