"""Seconds of a forward and of a whole `fast` window on one GPU and on several, and how equal the results are.

    torchrun --nproc-per-node 2 -m lipsync_server.bench.infinitetalk.parallel [--quant fp8] [--json FILE]

The weights are random, at full size. A window is its conditioning (the picture through the VAE, the embeddings), the
denoising steps and the decoding. The outputs of text encoder, CLIP and wav2vec are noise here, because they are made
once for a job and not for a window. Every process first computes alone on its own GPU, then all compute together. All
numbers so far are written after each measurement. Measures engines/infinitetalk/model/sequence_parallel.py.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lipsync_server.bench.clock import relative_error
from lipsync_server.bench.machine import HEADER, Machine
from lipsync_server.bench.record import Numbers, say
from lipsync_server.bench.record import write as write_numbers
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.engines.infinitetalk.model.sequence_parallel import (
    SequenceParallel,
    Share,
    heads_to_tokens,
    tokens_to_heads,
)
from lipsync_server.engines.infinitetalk.model.transformer import EmbeddedCondition, InfiniteTalkTransformer
from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.engines.infinitetalk.video.conditions import WindowCondition
from lipsync_server.engines.infinitetalk.video.guidance import GuidanceScales
from lipsync_server.engines.infinitetalk.video.images import condition_mask
from lipsync_server.engines.infinitetalk.video.run_window import consume, run_window
from lipsync_server.engines.infinitetalk.video.window_loop import LoopSettings, Prompts, WindowLoop
from lipsync_server.models.sampling.windows import Window, schedule
from lipsync_server.models.wan_vae.vae import WanVae
from lipsync_server.quantization import Quantization
from lipsync_server.random_models.infinitetalk_transformer import random_transformer
from lipsync_server.random_models.networks import random_vae

T = TypeVar("T")
_SIZES = {"480p": (640, 640), "720p": (960, 960)}
_PIXELS_PER_LATENT = 8


@dataclass(frozen=True)
class Comparison:
    """The measurement of one model on this process's GPU, alone and together with the other processes.

    size: height and width in pixels. n_frames: of the window, 4n + 1. repeats: timed forwards.
    """

    config: TransformerConfig
    device: torch.device
    size: tuple[int, int]
    n_frames: int
    quant: Quantization
    repeats: int

    def run(self, write: Callable[[Numbers], None]) -> None:
        """Measure everything. `write` is called with all numbers so far. Only the times differ between processes."""
        cuda = self.device.type == "cuda"
        found: Numbers = {
            HEADER: _header(self.device),
            "size": list(self.size),
            "n_frames": self.n_frames,
            "layers": self.config.num_layers,
            "quant": self.quant,
        }
        model = random_transformer(self.config, device=self.device, quant=self.quant)
        if cuda:
            model.compile_blocks()
        plain_blocks = model.use_fast_blocks()
        vae = random_vae(
            device=self.device, dtype=torch.bfloat16 if cuda else torch.float32, base_dim=96 if cuda else 1,
            kernels=cuda,
        )  # fmt: skip
        work = _Work(model, vae, self)
        work.warm_up()

        results: dict[str, tuple[Tensor, Tensor]] = {}
        for mode in ("alone", "together"):
            if mode == "together":
                model.share_tokens(SequenceParallel(self.config.num_heads))
            forward, first_s = _timed(work.forward, self.device)
            samples = [_timed(work.forward, self.device)[1] for _ in range(self.repeats)]
            ran: Numbers = {
                "attention": model.attention_line,
                "blocks": "fast" if plain_blocks is None else f"plain: {plain_blocks}",
                "forward_s": statistics.median(samples),
                "forward_samples_s": samples,
                "first_forward_s": first_s,
            }
            found[mode] = ran
            write(found)
            latents, ran["window_s"] = work.window()
            results[mode] = forward, latents
            write(found)
        found["exchange_s"] = _timed(work.exchanges, self.device)[1]
        found["relative_l2"] = {
            part: relative_error(together, alone)
            for part, alone, together in zip(("forward", "latents"), *results.values(), strict=True)
        }
        write(found)


class _Work:
    """The work that is timed, with the same inputs on every process."""

    def __init__(self, model: InfiniteTalkTransformer, vae: WanVae, bench: Comparison) -> None:
        self._model, self._vae, self._bench = model, vae, bench
        self._config = config = model.config
        [self._window] = schedule(bench.n_frames, window_frames=bench.n_frames, motion_frames=1).windows
        self._latent_size = bench.size[0] // _PIXELS_PER_LATENT, bench.size[1] // _PIXELS_PER_LATENT
        # The numbers are drawn on the CPU, because every process must draw the same.
        self._generator = torch.Generator().manual_seed(1)
        self._text = self._noise(min(300, config.text_len), config.text_dim)
        self._tokens = self._noise(257, config.image_dim)
        n_heard = (config.audio_window, config.audio_blocks, config.audio_channels)
        self._audio = self._noise(1, bench.n_frames, *n_heard)
        self._picture = self._noise(3, *bench.size).clamp(-1, 1)
        self._latent = self._noise(config.in_dim, self._window.n_latents, *self._latent_size)
        self._context = self._conditioned()

    def warm_up(self) -> None:
        """Use the VAE once, so that it compiles and chooses its kernels before the clock runs."""
        with torch.inference_mode():
            latents = self._vae.encode_picture(self._picture, 3)
        for _ in self._loop().decode(latents):
            pass

    @torch.inference_mode()
    def forward(self) -> Tensor:
        """One forward of the model on a whole window."""
        velocity: Tensor = self._model(self._latent, torch.tensor([700.0], device=self._model.device), self._context)
        return velocity

    def window(self) -> tuple[Tensor, dict[str, float]]:
        """The latents of one `fast` window, and its seconds by part."""
        parts: dict[str, float] = {}

        @contextmanager
        def clock(part: str) -> Iterator[None]:
            _wait(self._bench.device)
            started = time.perf_counter()
            yield
            _wait(self._bench.device)
            parts[part] = round(parts.get(part, 0.0) + time.perf_counter() - started, 4)

        frames = run_window(self._loop(), self._window, self, None, is_last=True, clock=clock)
        latents = consume(frames, lambda batch: None).latents
        return latents, parts | {"all": round(sum(parts.values()), 4)}

    def exchanges(self) -> None:
        """Exchange the tensors of a forward's self-attentions between the processes, without computing attention."""
        config, rows = self._config, self._latent_size
        grid = self._window.n_latents, rows[0] // config.patch_size[1], rows[1] // config.patch_size[2]
        share = Share.of(grid, dist.get_rank(), dist.get_world_size())
        shape = share.counts[share.rank], config.num_heads, config.head_dim
        x = torch.zeros(shape, dtype=self._model.dtype, device=self._model.device)
        for _ in range(config.num_layers):
            heads_to_tokens(tokens_to_heads([x, x, x], share.counts)[:, 0], share.counts, share.rank)

    def _loop(self) -> WindowLoop:
        """The window loop of the preset `fast`."""
        sampling = Options(preset="fast").sampling
        scales = GuidanceScales(sampling.text_guidance, sampling.audio_guidance)
        return WindowLoop(
            self._model, self._vae, Prompts(self._text, self._text),
            LoopSettings(sampling.steps, sampling.shift, scales),
            colours=self._picture, generator=torch.Generator().manual_seed(0),
        )  # fmt: skip

    @torch.inference_mode()
    def at(self, window: Window) -> WindowCondition:
        """The conditioning of the only window. The picture is encoded again at each call."""
        latents = self._vae.encode_picture(self._picture, self._window.n_latents)
        mask = condition_mask(self._window.n_latents, *self._latent_size).to(latents.device)
        return WindowCondition(self._picture, self._tokens, torch.cat([mask, latents]), self._audio, None)

    def prefetch(self, window: Window) -> None:
        """There is no next window."""

    @torch.inference_mode()
    def _conditioned(self) -> EmbeddedCondition:
        return self._model.embed_condition(text=self._text, image_tokens=self._tokens, audio=self._audio)

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator).to(self._bench.device)


def _timed(run: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """The result of `run`, and its wall seconds. Before and after `run`, all processes wait for each other."""
    _wait(device)
    started = time.perf_counter()
    result = run()
    _wait(device)
    return result, round(time.perf_counter() - started, 4)


def _wait(device: torch.device) -> None:
    """Wait for the device and for all processes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    dist.all_reduce(torch.zeros(1))  # on the CPU's side of the group


def _header(device: torch.device) -> Numbers:
    """The machine, with the card of every process."""
    machine = Machine.here(str(device)).with_torch()
    if device.type != "cuda":
        return machine.numbers
    names: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(names, torch.cuda.get_device_name(device))
    return replace(machine, gpus=tuple(names)).numbers


def main() -> None:
    """Measure on every process that torchrun has started. Process 0 prints and writes the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", choices=_SIZES, default="480p")
    parser.add_argument("--quant", choices=("none", "fp8", "int8"), default="none")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    dry = parser.add_argument_group("for a dry run")
    dry.add_argument("--config", type=Path, help="config.json of another size than the 14B's")
    dry.add_argument("--size", type=int, nargs=2, help="height and width in pixels")
    dry.add_argument("--frames", type=int, default=81, help="of the window, 4n + 1")
    given = parser.parse_args()
    cuda = torch.cuda.is_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    rank = dist.get_rank()
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    config = TransformerConfig() if given.config is None else TransformerConfig.from_json(given.config)
    size = _SIZES[given.resolution] if given.size is None else tuple(given.size)

    def write(found: Numbers) -> None:
        if rank == 0:
            say(json.dumps(found, indent=1))
            if given.json is not None:
                write_numbers(given.json, found)

    Comparison(config, device, size, given.frames, given.quant, given.repeats).run(write)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
