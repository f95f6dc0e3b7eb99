"""Seconds of a forward on one GPU and on several, and whether the results are equal. Random weights at full size.

    torchrun --nproc-per-node 2 -m lipsync_server.engines.infinitetalk.parallel_bench [--quant fp8] [--json FILE]

A window is the forwards of its steps and little else, so their ratio is the window's. Knows how to time; what is timed
is parallel.py.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from .checkpoint import Quant
from .parallel import SequenceParallel
from .random_weights import random_transformer
from .transformer import Conditioning, InfiniteTalkTransformer
from .transformer_config import TransformerConfig

Numbers = dict[str, object]
_SIZES = {"480p": (640, 640), "720p": (960, 960)}
_N_LATENTS = 21


def measure(
    config: TransformerConfig, device: torch.device, size: tuple[int, int], quant: Quant, repeats: int
) -> Numbers:
    """Times and the difference, the same on every process but for the times."""
    model = random_transformer(config, device=device, dtype=torch.bfloat16, quant=quant)
    if device.type == "cuda":
        model.compile_blocks()
        model.use_fast_blocks()
    latent, timestep, conditioning = _inputs(model, size)

    def forward() -> Tensor:
        velocity: Tensor = model(latent, timestep, conditioning)
        return velocity

    alone, alone_s = forward(), _seconds(forward, device, repeats)
    SequenceParallel(model)
    together, together_s = forward(), _seconds(forward, device, repeats)
    difference = float((together.double() - alone.double()).norm() / alone.double().norm())
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "n_processes": dist.get_world_size(),
        "size": list(size),
        "quant": quant,
        "attention": model.attention_line,
        "fast_blocks": model.fast_blocks,
        "forward_s_alone": round(alone_s, 4),
        "forward_s_together": round(together_s, 4),
        "times_as_fast": round(alone_s / together_s, 2),
        "relative_difference": difference,
    }


def _inputs(model: InfiniteTalkTransformer, size: tuple[int, int]) -> tuple[Tensor, Tensor, Conditioning]:
    config = model.config
    # Made on the CPU: every process must have the same.
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(model.device)

    n_video = (_N_LATENTS - 1) * config.vae_scale + 1
    conditioning = model.condition(
        text=normal(min(300, config.text_len), config.text_dim),
        image_tokens=normal(257, config.image_dim),
        audio=normal(1, n_video, config.audio_window, config.audio_blocks, config.audio_channels),
    )
    latent = normal(config.in_dim, _N_LATENTS, size[0] // 8, size[1] // 8)
    return latent, torch.tensor([700.0], device=model.device), conditioning


def _seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median wall seconds between two waits for the device and all processes."""
    taken = []
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        run()
        _wait(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    dist.barrier()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", choices=_SIZES, default="480p")
    parser.add_argument("--quant", choices=("none", "fp8", "int8"), default="none")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--layers", type=int, default=TransformerConfig().num_layers, help="fewer for a quick look")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    device = torch.device("cuda", dist.get_rank()) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    config = TransformerConfig(num_layers=arguments.layers)
    found = measure(config, device, _SIZES[arguments.resolution], arguments.quant, arguments.repeats)
    if dist.get_rank() == 0:
        text = json.dumps(found, indent=1)
        sys.stdout.write(text + "\n")
        if arguments.json is not None:
            arguments.json.write_text(text + "\n", encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
