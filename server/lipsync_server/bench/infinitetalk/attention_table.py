"""Measures self-attention at the length of a window in every kernel: ours, torch's, and other packages'.

Each kernel attends to six kinds of random input (attention_design.py). The error is relative (L2) to float64 on the
same bf16 inputs, over ROWS query rows of every head. The clock runs from bf16 queries, keys and values to the output,
so a kernel in 8 bits pays for its rounding. On a GPU a profile also gives the time of our attention kernel alone.

A kernel that cannot run here is listed with the reason. Knows how each package is called. Does not know the
transformer.
"""

import importlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lipsync_server.bench.clock import Clock, median, relative_error
from lipsync_server.bench.infinitetalk.attention_design import KINDS, Sizes
from lipsync_server.bench.infinitetalk.bench import Bench
from lipsync_server.bench.record import Numbers, say
from lipsync_server.models.kernels import attention
from lipsync_server.models.kernels.attention import Kernel

ROWS = 64
"""Query rows of each head whose error is computed."""
_TIMED_RUNS, _FEW_RUNS, _PROFILED_RUNS = 10, 3, 5
"""Timed runs on normal values, on the other kinds of input, and in a profile. One more run before them warms up."""
_NORMAL = next(iter(KINDS))
COMFY = "comfy"
Inputs = tuple[Tensor, Tensor, Tensor]


def kernels(bench: Bench, found: Numbers) -> None:
    """Fill in a part for each kernel: `s` on normal values, `s_by_input`, `errors` by kind of input, `alone_s`."""
    heads, dim = bench.config.num_heads, bench.config.head_dim
    height, width = bench.scale.picture
    n = bench.scale.n_latents * height * width // 256
    found |= {"tokens": n, "heads": heads, "head_dim": dim, "rows": heads * min(n, ROWS)}
    candidates: dict[str, Kernel] = {**attention.KERNELS, COMFY: _comfy}
    able: dict[str, Kernel] = {}
    for name, kernel in candidates.items():
        why_not = _why_not(name, bench.device, dim)
        if why_not is None:
            able[name] = kernel
            found[name] = {"errors": {}, "s_by_input": {}}
        else:
            found[name] = {"missing": why_not}
    for kind in KINDS:
        inputs = _inputs(kind, n, Sizes(heads, n, dim, torch.float32), bench.device)
        wanted = _exact(inputs)
        for name, kernel in able.items():
            one = found[name]
            try:
                _measure(bench, one, kind, partial(kernel, *inputs), wanted)
                if kind == _NORMAL and bench.cuda and name in attention.OURS:
                    one["alone_s"] = _alone_s(partial(kernel, *inputs), bench.clock)
            except Exception as error:  # a package may raise any error; the other kernels are measured all the same
                one["failed"] = f"{kind}: {type(error).__name__}: {str(error)[:300]}"
        bench.record.save()
        bench.free()
        say(f"attention, {kind}: " + ", ".join(_line(name, found[name], kind) for name in able))


def _measure(bench: Bench, one: Numbers, kind: str, run: Callable[[], Tensor], wanted: Tensor) -> None:
    """Time `run` and compare the rows of its output with `wanted`."""
    runs = _TIMED_RUNS if kind == _NORMAL else _FEW_RUNS
    s = median(Clock(bench.device, runs if bench.cuda else 1).seconds(run))
    one["s_by_input"][kind] = s
    if kind == _NORMAL:
        one["s"] = s
    one["errors"][kind] = relative_error(_rows(run()), wanted)


def _inputs(kind: str, n: int, sizes: Sizes, device: torch.device) -> Inputs:
    """Random queries, keys and values of one kind: (1, n, H, d) bf16 each."""
    random = torch.Generator(device).manual_seed(3)
    made = KINDS[kind][0](random, n, sizes)
    q, k, v = (x.bfloat16().transpose(0, 1).contiguous()[None] for x in made)
    return q, k, v


def _rows(x: Tensor) -> Tensor:
    """ROWS rows of each head, evenly spread: (1, N, H, d) -> (H, rows, d)."""
    n = x.shape[1]
    some = torch.arange(min(n, ROWS), device=x.device) * n // min(n, ROWS)
    rows: Tensor = x[0, some].transpose(0, 1)
    return rows


def _exact(inputs: Inputs) -> Tensor:
    """softmax(q k^T / sqrt(d)) v in float64 for the rows of `_rows`, one head at a time: (H, rows, d)."""
    queries, (k, v) = _rows(inputs[0]), (x[0].transpose(0, 1) for x in inputs[1:])
    heads = []
    for head in range(queries.shape[0]):
        scores = queries[head].double() @ k[head].double().t() * queries.shape[-1] ** -0.5
        heads.append(scores.softmax(dim=-1) @ v[head].double())
    return torch.stack(heads)


def _alone_s(run: Callable[[], object], clock: Clock) -> float | None:
    """Seconds of our attention kernel in one run, without the rounding before it: the mean of a profile's runs."""
    from torch.profiler import ProfilerActivity, profile

    run()
    clock.wait()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(_PROFILED_RUNS):
            run()
        clock.wait()
    ours = [event for event in recorded.key_averages() if event.key.startswith("attention_")]
    microseconds = sum(event.self_device_time_total for event in ours)
    return round(microseconds / _PROFILED_RUNS / 1e6, 6) if ours else None


def _comfy(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Package comfy-kitchen: both products in int8. It takes and returns (B, H, N, d)."""
    kernel = importlib.import_module("comfy_kitchen").int8_attention
    out: Tensor = kernel(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2)


def _why_not(name: str, device: torch.device, head_dim: int) -> str | None:
    """The reason why a kernel is not measured here, with the error of a package that does not load; None if it runs."""
    if name == "math":
        return "too slow and large for this many tokens"
    if name in attention.OURS and head_dim != attention.OUR_HEAD_DIM:
        return f"it computes heads of {attention.OUR_HEAD_DIM} numbers, and this model's have {head_dim}"
    if name == COMFY:
        return _why_not_comfy(device)
    why_not = attention.why_not(name, device)
    package = attention._PACKAGES.get(name)
    if why_not is None or package is None:
        return why_not
    fault = _import_fault(package)
    return why_not if fault is None else f"{why_not} ({fault})"


def _why_not_comfy(device: torch.device) -> str | None:
    """The reason why comfy-kitchen's int8 attention does not run here; None if it does."""
    if device.type != "cuda":
        return "it needs an NVIDIA GPU"
    fault = _import_fault("comfy_kitchen")
    if fault is not None:
        return f"the package comfy-kitchen is not installed or does not load ({fault})"
    if not importlib.import_module("comfy_kitchen").int8_attention_is_available(device):
        extension_error = importlib.import_module("comfy_kitchen.backends.cuda")._EXT_ERROR
        return f"its CUDA extension is not available: {extension_error or 'this GPU is too old'}"
    return None


def _import_fault(module: str) -> str | None:
    """The error of importing `module`; None if the import works."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken installation raises far more than ImportError
        return f"{type(error).__name__}: {str(error)[:300]}"
    return None


def _line(name: str, one: Numbers, kind: str) -> str:
    """A kernel's numbers on one kind of input, for the progress of the run."""
    if kind not in one["errors"]:
        return f"{name} failed"
    return f"{name} {one['s_by_input'][kind] * 1000:.1f} ms {one['errors'][kind]:.4f}"
