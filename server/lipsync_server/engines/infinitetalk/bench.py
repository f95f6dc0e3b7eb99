"""Measure InfiniteTalk with random weights at full size: forwards, errors, windows, a 24 GB card, loading.

    python -m lipsync_server.engines.infinitetalk.bench --json result.json [--only forward,window]

Knows how to time and what to compare. Does not know quality: random weights cost what real ones do and show noise.
Every section writes its numbers as soon as it has them, and one that fails says why and leaves the others alone.
"""

import argparse
import gc
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .bench_errors import error_table
from .bench_windows import capped_window, preset_windows
from .checkpoint import load_transformer, set_activations
from .quant import replace_linears
from .random_weights import random_parameters, random_transformer, save_quantized
from .transformer import Conditioning, InfiniteTalkTransformer
from .transformer_config import TransformerConfig

Numbers = dict[str, object]


@dataclass
class Bench:
    """What every section needs, and where its numbers go."""

    config: TransformerConfig
    device: torch.device
    size: tuple[int, int]
    path: Path | None
    scratch: Path
    repeats: int = 4
    numbers: Numbers = field(default_factory=dict)

    def section(self, name: str, measure: Callable[[], object]) -> None:
        started = time.perf_counter()
        try:
            found = measure()
        except Exception as error:  # the other sections still count
            found = {"failed": f"{type(error).__name__}: {str(error)[:500]}"}
        self.numbers[name] = found
        self.numbers[f"{name}_took_s"] = round(time.perf_counter() - started, 1)
        self.say(f"{name}: {json.dumps(found)}")
        if self.path is not None:
            self.path.write_text(json.dumps(self.numbers, indent=1) + "\n", encoding="utf-8")
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @staticmethod
    def say(line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def inputs(self, n_latents: int = 21) -> dict[str, Tensor]:
        g = torch.Generator(self.device).manual_seed(1)
        c = self.config

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, device=self.device, generator=g)

        height, width = self.size[0] // 8, self.size[1] // 8
        n_video = (n_latents - 1) * c.vae_scale + 1
        return {
            "text": normal(min(300, c.text_len), c.text_dim),
            "image_tokens": normal(257, c.image_dim),
            "audio": normal(1, n_video, c.audio_window, c.audio_blocks, c.audio_channels),
            "latent": normal(c.in_dim, n_latents, height, width),
            "timestep": torch.tensor([700.0], device=self.device),
        }


def environment(device: torch.device) -> Numbers:
    found: Numbers = {"python": platform.python_version(), "torch": torch.__version__, "device": str(device)}
    if device.type == "cuda":
        cudnn = torch.backends.cudnn.version()
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": properties.name,
            "gpu_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": cudnn,
        }
    for package in ("triton", "diffusers", "transformers", "xformers", "flash_attn", "sageattention"):
        try:
            found[package] = __import__(package).__version__
        except Exception:  # whatever a broken or missing package raises
            found[package] = None
    return found


def seconds(run: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Wall seconds of each run between two waits for the device; the first is a warm-up and not counted."""
    taken = []
    for _ in range(repeats + 1):
        _wait(device)
        started = time.perf_counter()
        run()
        _wait(device)
        taken.append(round(time.perf_counter() - started, 4))
    return taken[1:]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def relative(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


def forwards(bench: Bench) -> Numbers:
    """One forward in every form. The 8-bit forms use the bf16 model's own weights, rounded in place."""
    found: Numbers = {}
    inputs = bench.inputs()
    model = random_transformer(bench.config, device=bench.device, attention="auto")
    context = _condition(model, inputs)
    wanted = _forward(model, inputs, context)

    def note(name: str) -> None:
        _reset_peak(bench.device)
        started = time.perf_counter()
        got = _forward(model, inputs, context)
        _wait(bench.device)
        first = time.perf_counter() - started
        times = seconds(lambda: _forward(model, inputs, context), bench.device, bench.repeats)
        found[name] = {
            "s": sorted(times)[len(times) // 2],
            "samples_s": times,
            "first_s": round(first, 2),
            "peak_gib": _peak_gib(bench.device),
            "against_bf16_eager": relative(got, wanted),
            "attention": model.attention_line,
        }
        bench.say(f"{name}: {found[name]}")

    cuda = bench.device.type == "cuda"
    if cuda:
        model.compile_blocks()
        note("bf16_compiled")
        _use(model, "int8")
        note("bf16_compiled_int8_scores")
        for block in model.blocks:
            block._compiled_call_impl = None
    replace_linears(model, lambda name, _: "fp8" if name.startswith("blocks.") else None)
    set_activations(model, bench.device)
    context = _condition(model, inputs)
    if cuda:
        _use(model, "auto_bf16")
        model.use_fast_blocks()
        note("fp8_fused")
        _use(model, "int8")
    note("fp8_fused_int8_scores")
    if cuda:
        found["profile"] = _profile(lambda: _forward(model, inputs, context))
    model.close()
    return found


def _use(model: InfiniteTalkTransformer, attention: str) -> None:
    model.set_attention("cudnn" if attention == "auto_bf16" else attention)


def kernels(bench: Bench) -> Numbers:
    """Self-attention of the full token count in every kernel that runs here, and its error on normal values."""
    from . import attention

    heads, dim = bench.config.num_heads, bench.config.head_dim
    n = 21 * bench.size[0] * bench.size[1] // 256
    q, k, v = (torch.randn(1, n, heads, dim, device=bench.device).bfloat16() for _ in range(3))
    rows = torch.arange(0, n, max(1, n // 256), device=bench.device)
    weights = (q[0, rows, 0].double() @ k[0, :, 0].double().t() / dim**0.5).softmax(-1)
    wanted = weights @ v[0, :, 0].double()
    found: Numbers = {}
    for name in attention.KERNELS:
        why_not = attention.missing(name, bench.device) if name != "math" else "too slow and large for this many tokens"
        if why_not is not None:
            found[name] = {"missing": why_not}
            continue
        kernel = attention.KERNELS[name]
        times = seconds(lambda kernel=kernel: kernel(q, k, v), bench.device, bench.repeats)  # type: ignore[misc]
        found[name] = {"s": sorted(times)[len(times) // 2], "error": relative(kernel(q, k, v)[0, rows, 0], wanted)}
    return found


def loading(bench: Bench) -> Numbers:
    """Write a quantised file in the published layout, then load it from the page cache."""
    path = bench.scratch / "quantised.safetensors"
    dtype = torch.bfloat16
    save_quantized(random_parameters(bench.config, device=bench.device, dtype=dtype), "fp8", path)
    started = time.perf_counter()
    model = load_transformer(path, config=bench.config, device=bench.device)
    _wait(bench.device)
    taken = time.perf_counter() - started
    size = path.stat().st_size
    path.unlink()
    model.close()
    return {"s": round(taken, 2), "file_bytes": size, "gb_per_s": round(size / taken / 1e9, 2)}


def _condition(model: InfiniteTalkTransformer, inputs: dict[str, Tensor]) -> Conditioning:
    with torch.inference_mode():
        return model.condition(text=inputs["text"], image_tokens=inputs["image_tokens"], audio=inputs["audio"])


def _forward(model: InfiniteTalkTransformer, inputs: dict[str, Tensor], context: Conditioning) -> Tensor:
    with torch.inference_mode():
        out: Tensor = model(inputs["latent"], inputs["timestep"], context)
        return out


def _profile(run: Callable[[], object]) -> Numbers:
    """Seconds per kernel of one run, and how long the device was idle."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        wall = time.perf_counter() - started
    rows = [(event.self_device_time_total / 1e6, event.count, event.key[:120]) for event in recorded.key_averages()]
    rows.sort(reverse=True)
    busy = sum(row[0] for row in rows)
    top = [{"s": round(s, 4), "calls": calls, "kernel": key} for s, calls, key in rows[:20]]
    return {"wall_s": round(wall, 4), "busy_s": round(busy, 4), "kernels": top}


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak_gib(device: torch.device) -> float | None:
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if device.type == "cuda" else None


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=None, help="file for the numbers")
    parser.add_argument("--scratch", type=Path, default=Path("/tmp"), help="folder for the file of the loading test")  # noqa: S108
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--config", type=Path, default=None, help="config.json of another size, for a dry run")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 640), help="height and width")
    parser.add_argument("--only", default="", help="sections, separated by commas")
    given = parser.parse_args(arguments)
    config = TransformerConfig() if given.config is None else TransformerConfig.from_json(given.config)
    device = torch.device("cuda", torch.cuda.current_device()) if given.device == "cuda" else torch.device(given.device)
    bench = Bench(config, device, tuple(given.size), given.json, given.scratch)
    sections: dict[str, Callable[[], object]] = {
        "environment": lambda: environment(device),
        "kernels": lambda: kernels(bench),
        "forward": lambda: forwards(bench),
        "errors": lambda: error_table(config, device, bench.size, bench.say),
        "windows": lambda: preset_windows(config, device, bench.size, bench.scratch, bench.say),
        "capped": lambda: capped_window(config, device, bench.size, bench.scratch, bench.say),
        "loading": lambda: loading(bench),
    }
    wanted = [name for name in given.only.split(",") if name] or list(sections)
    for name in wanted:
        bench.section(name, sections[name])


if __name__ == "__main__":
    main()
