"""How fast the engine renders on this machine, with random weights at the published size; prints JSON.

python -m lipsync_server.engines.sadtalker.bench [--device cuda] [--sizes 256 512] [--frames 200] ...

Speed does not depend on what the weights say. Runs where only torch, numpy, scipy, cv2, Pillow and safetensors are:
it goes round the engine interface and the face detector, and drives the same track, renderer and paste-back.
"""

import argparse
import json
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lipsync_server.engines.sadtalker import official
from lipsync_server.engines.sadtalker.arrays import Speech
from lipsync_server.engines.sadtalker.audio_nets import ExpNet
from lipsync_server.engines.sadtalker.checkpoint import build
from lipsync_server.engines.sadtalker.coefficients import CoefficientTrack, TrackOptions, source_semantics
from lipsync_server.engines.sadtalker.generator import Generator
from lipsync_server.engines.sadtalker.keypoints import KeypointDetector
from lipsync_server.engines.sadtalker.mapping import MappingNet
from lipsync_server.engines.sadtalker.paste import FeatherPaste
from lipsync_server.engines.sadtalker.pose_vae import PoseVAE
from lipsync_server.engines.sadtalker.random_weights import random_tensors
from lipsync_server.engines.sadtalker.renderer import DTYPES, Precision, Renderer, RenderSource, channels_last, delayed
from lipsync_server.engines.sadtalker.tiny_checkpoint import TINY

TFLOP_PER_FRAME = {256: 1.203, 512: 4.813}  # of the whole generator, as the reference computes it, per frame
_GIB = 2**30
_T = TypeVar("_T")


class Result(TypedDict):
    """One configuration. Stage times are milliseconds per frame; fps counts everything but encoding."""

    size: int
    precision: str
    batch_size: int
    compiled: bool
    fps: float
    seconds_per_second: float
    cpu_s_per_frame: float
    tflops: float
    floor_fps: float
    of_floor: float
    prepare_s: float
    first_batch_s: float
    stages_ms: dict[str, float]
    conv_ms: dict[str, float]
    peak_gpu_gib: float
    peak_gpu_reserved_gib: float
    peak_rss_gib: float
    mean_error_to_float32: float | None


class Bench:
    """Networks are made once on the CPU; every configuration gets its own copies."""

    def __init__(
        self, device: torch.device, n_frames: int, dimensions: official.Dimensions = official.PUBLISHED
    ) -> None:
        self.device, self.n_frames = device, n_frames
        tensors = random_tensors(official.combined(dimensions))
        self.parts = {
            prefix: {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(prefix + ".")}
            for prefix in ("kp_extractor", "generator", "audio2exp")
        }
        unused = official.UNUSED_PREFIXES
        self.parts["audio2pose"] = {
            name.removeprefix("audio2pose."): value
            for name, value in tensors.items()
            if name.startswith("audio2pose.") and not name.startswith(unused)
        }
        self.exp_net = build(ExpNet, self.parts["audio2exp"], "audio2exp", "bench").to(device)
        self.pose_vae = build(PoseVAE, self.parts["audio2pose"], "audio2pose", "bench").to(device)
        mapping = random_tensors(official.mapping(73, dimensions), seed=73)
        self.mapping = build(MappingNet, mapping, "mapping", "bench").to(device)
        rng = np.random.default_rng(0)
        self.coefficients = (0.1 * rng.standard_normal(73)).astype(np.float32)
        self.photo = rng.integers(0, 255, (1080, 1920, 3), dtype=np.uint8)
        self.squares = {size: rng.integers(0, 255, (size, size, 3), dtype=np.uint8) for size in official.SIZES}
        self.exact: dict[int, Tensor] = {}

    def run(self, size: int, precision: Precision, batch_size: int, compiled: bool, rate_tflops: float) -> Result:
        self._reset()
        renderer = Renderer(
            build(KeypointDetector, self.parts["kp_extractor"], "kp_extractor", "bench"),
            build(Generator, self._copy("generator"), "generator", "bench"),
            device=self.device,
            precision=precision,
            compile_generator=compiled,
        )
        track = self._track()
        paste = FeatherPaste(self.photo, (560, 140, 1360, 940), self.device)
        semantics = torch.from_numpy(source_semantics(self.coefficients))[None]
        square = torch.from_numpy(self.squares[size])
        renderer.prepare(square, semantics, self.mapping)
        prepare_s, source = _timed(lambda: renderer.prepare(square, semantics, self.mapping), self.device)

        def launch(first: int) -> Tensor:
            windows = torch.from_numpy(track.semantics(first, min(first + batch_size, self.n_frames)))
            with torch.inference_mode():
                return paste.blend(renderer.frames(source, windows, self.mapping, batch_size=batch_size))

        def render(n_frames: int) -> None:
            for patches in delayed(map(launch, range(0, n_frames, batch_size)), int(self.device.type == "cuda")):
                paste.place(patches)

        first_batch_s, _ = _timed(lambda: render(batch_size), self.device)
        error = self._error(renderer, source, track, size, precision)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            render(batch_size)
        track = self._track()
        cpu_before_s = time.process_time()
        loop_s, _ = _timed(lambda: render(self.n_frames), self.device)
        cpu_s = time.process_time() - cpu_before_s
        fps = self.n_frames / loop_s
        stages = self._stages(renderer, source, track, paste, batch_size)
        on_gpu = self.device.type == "cuda"
        return Result(
            size=size,
            precision=precision,
            batch_size=batch_size,
            compiled=compiled,
            fps=round(fps, 3),
            seconds_per_second=round(25 / fps, 4),
            cpu_s_per_frame=round(cpu_s / self.n_frames, 3),
            tflops=round(fps * TFLOP_PER_FRAME[size], 2),
            floor_fps=round(rate_tflops / TFLOP_PER_FRAME[size], 2),
            of_floor=round(fps * TFLOP_PER_FRAME[size] / rate_tflops, 3),
            prepare_s=round(prepare_s, 3),
            first_batch_s=round(first_batch_s, 2),
            stages_ms=stages,
            conv_ms={name: round(value, 3) for name, value in renderer.conv_times.items()},
            peak_gpu_gib=round(torch.cuda.max_memory_allocated() / _GIB, 3) if on_gpu else 0.0,
            peak_gpu_reserved_gib=round(torch.cuda.max_memory_reserved() / _GIB, 3) if on_gpu else 0.0,
            peak_rss_gib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GIB, 3),
            mean_error_to_float32=error,
        )

    def _copy(self, part: str) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.parts[part].items()}

    def _track(self) -> CoefficientTrack:
        speech: Speech = (0.1 * np.random.default_rng(1).standard_normal(640 * self.n_frames)).astype(np.float32)
        return CoefficientTrack(
            self.exp_net, self.pose_vae, speech, self.n_frames, self.coefficients, TrackOptions(seed=1)
        )

    def _reset(self) -> None:
        torch.compiler.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    @torch.inference_mode()
    def _error(
        self, renderer: Renderer, source: RenderSource, track: CoefficientTrack, size: int, precision: Precision
    ) -> float | None:
        """Mean difference on the 0..1 picture to the float32 configuration, if that ran before."""
        frame = renderer.frames(source, torch.from_numpy(track.semantics(0, 1)), self.mapping).float().cpu()
        if precision == "float32":
            self.exact[size] = frame
        return float((frame - self.exact[size]).abs().mean()) if size in self.exact else None

    @torch.inference_mode()
    def _stages(
        self, renderer: Renderer, source: RenderSource, track: CoefficientTrack, paste: FeatherPaste, batch_size: int
    ) -> dict[str, float]:
        """Milliseconds per frame of the parts, each alone and not compiled; `render` as it runs."""
        network, n = renderer.generator, batch_size
        windows = torch.from_numpy(track.semantics(0, n)).to(self.device)
        keypoints = source.canonical.expand(n, -1, -1) + 0.01
        motion = network.dense_motion_network
        feature, moved = network.features(source.generator, keypoints)
        hourglass_out = motion.hourglass(moved.hourglass_input)
        squares = network.decoder(feature)
        fresh = self._track()
        stages: dict[str, Callable[[], object]] = {
            "mapping": lambda: self.mapping(windows),
            "dense_motion": lambda: motion(source.generator.motion, keypoints),
            "dense_motion.hourglass": lambda: motion.hourglass(moved.hourglass_input),
            "dense_motion.mask": lambda: motion.mask(hourglass_out),
            "features": lambda: network.features(source.generator, keypoints),
            "decoder": lambda: network.decoder(feature),
            "render": lambda: renderer._render(source.generator, keypoints),
            "paste_and_fetch": lambda: paste.place(paste.blend(squares)),
        }
        repeats = 1 if self.device.type == "cpu" else 5
        result = {name: self._per_frame(stage, n, repeats) for name, stage in stages.items()}
        heard = min(self.n_frames, 128)
        coefficients_s, _ = _timed(lambda: fresh.rows(0, heard), self.device)
        result["coefficients"] = round(coefficients_s * 1000 / heard, 4)
        return result

    def _per_frame(self, stage: Callable[[], object], n: int, repeats: int) -> float:
        stage()
        seconds, _ = _timed(lambda: [stage() for _ in range(repeats)], self.device)
        return round(seconds * 1000 / repeats / n, 4)


def _timed(work: Callable[[], _T], device: torch.device) -> tuple[float, _T]:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def convolution_rate(device: torch.device, precision: Precision) -> float:
    """TFLOP/s of this device in the renderer's commonest convolution, 512 to 512 channels, 3x3 on 64 x 64."""
    dtype, batch = DTYPES[precision], 1 if device.type == "cpu" else 16
    conv = channels_last(nn.Conv2d(512, 512, 3, padding=1, device=device, dtype=dtype))
    x = torch.randn(batch, 512, 64, 64, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    repeats = 3 if device.type == "cpu" else 50
    with torch.inference_mode():
        conv(x)
        seconds, _ = _timed(lambda: [conv(x) for _ in range(repeats)], device)
    return 2 * 9 * 512 * 512 * 64 * 64 * batch * repeats / seconds / 1e12


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the sadtalker renderer with random weights.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512], choices=official.SIZES)
    parser.add_argument("--precisions", nargs="+", default=["float32", "float16", "bfloat16"], choices=list(DTYPES))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8])
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--memory-cap-gib", type=float, default=0.0, help="give the process only so much GPU memory")
    parser.add_argument("--tiny", action="store_true", help="tiny networks: tries this program, measures nothing")
    parser.add_argument("--out", type=Path, default=None, help="also write the JSON here")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        name = torch.cuda.get_device_name(device)
        if arguments.memory_cap_gib:
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(arguments.memory_cap_gib * _GIB / total)
    bench = Bench(device, arguments.frames, TINY if arguments.tiny else official.PUBLISHED)
    rates = {precision: convolution_rate(device, precision) for precision in arguments.precisions}
    results: list[Result] = []
    report = {
        "device": name,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "memory_cap_gib": arguments.memory_cap_gib,
        "convolution_tflops": {precision: round(rate, 2) for precision, rate in rates.items()},
        "results": results,
    }
    compile_modes = [False] if arguments.no_compile or device.type == "cpu" else [False, True]
    for size in arguments.sizes:
        for precision in arguments.precisions:
            for batch_size in arguments.batch_sizes:
                for compiled in compile_modes if precision != "float32" else [False]:
                    try:
                        results.append(bench.run(size, precision, batch_size, compiled, rates[precision]))
                        line = json.dumps(results[-1])
                    except torch.OutOfMemoryError:
                        line = f"{size} {precision} batch {batch_size}: out of GPU memory"
                    sys.stderr.write(f"{line}\n")
                    if arguments.out:
                        arguments.out.write_text(json.dumps(report, indent=1))
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
