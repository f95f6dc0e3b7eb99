"""Whole windows with random weights: picture, sound, denoising, decoding and H.264, as the engine runs them.

Knows the pipeline's parts and how the engine strings them together. Does not know HTTP, files of weights or jobs.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lipsync_server.engines.base import FPS, SPEECH_RATE_HZ
from lipsync_server.media.encoder import FrameEncoder

from . import memory
from .audio import SAMPLES_PER_FRAME, SpeechEmbedding, Track
from .clip import ImageEncoder
from .conditions import Conditions, still_picture
from .guidance import GuidanceScales
from .images import to_uint8
from .options import Options
from .pipeline import LoopSettings, Prompts, WindowLoop
from .random_weights import random_transformer
from .transformer import InfiniteTalkTransformer
from .transformer_config import TransformerConfig
from .vae import WanVae
from .wav2vec import Wav2Vec
from .windows import Schedule, Window, schedule

Say = Callable[[str], None]
_MOTION_FRAMES = 9
_CAP_BYTES = 24 * 10**9


class _Clock:
    """Seconds by part, with the device waited for at both ends."""

    def __init__(self, device: torch.device) -> None:
        self._device, self.parts = device, {}  # type: torch.device, dict[str, float]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._wait()
        started = time.perf_counter()
        yield
        self._wait()
        self.parts[name] = round(self.parts.get(name, 0.0) + time.perf_counter() - started, 3)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class _Rig:
    """Everything beside the transformer, random, for one picture and a few windows of noise as speech."""

    def __init__(self, config: TransformerConfig, device: torch.device, size: tuple[int, int], n_windows: int) -> None:
        self.device, self.config = device, config
        cuda = device.type == "cuda"
        dtype = torch.bfloat16 if cuda else torch.float32
        self.vae = WanVae.random(device=device, dtype=dtype, base_dim=96 if cuda else 8, compile_norms=cuda)
        self.clip = ImageEncoder.random(device=device, dtype=torch.float16 if cuda else torch.float32)
        self.wav2vec = Wav2Vec.random(device=device)
        self.schedule: Schedule = schedule(81 + 72 * (n_windows - 1), n_people=1, window_frames=81, motion_frames=9)
        samples = np.random.default_rng(0).standard_normal(self.schedule.heard[0] * SAMPLES_PER_FRAME) * 0.05
        track = Track(samples.astype(np.float32), len(samples))
        self.speech = SpeechEmbedding(self.wav2vec, track, self.schedule.heard[0])
        picture = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
        self.conditions = Conditions(
            still_picture(picture, None), (self.speech,), self.schedule,
            size=size, vae=self.vae, tokens_of=self.clip.encode,
        )  # fmt: skip
        assert FPS * SAMPLES_PER_FRAME == SPEECH_RATE_HZ

    def loop(self, transformer: InfiniteTalkTransformer, preset: str) -> WindowLoop:
        sampling = Options(preset=preset).sampling
        text = torch.randn(120, self.config.text_dim, device=self.device)
        scales = GuidanceScales(sampling.text_guidance, sampling.audio_guidance, sampling.guidance_interval)
        return WindowLoop(
            transformer, self.vae, Prompts(text, text), LoopSettings(sampling.steps, sampling.shift, scales),
            colours=self.conditions.colours(), generator=torch.Generator().manual_seed(0),
        )  # fmt: skip

    def window(
        self, loop: WindowLoop, window: Window, known: Tensor | None, encoder: FrameEncoder
    ) -> tuple[Tensor, dict[str, float]]:
        """One window from picture and sound to durable H.264; what the next takes over, and seconds by part."""
        clock = _Clock(self.device)
        started = time.perf_counter()
        with clock.part("condition"):
            condition = self.conditions.at(window)
        with clock.part("denoise"):
            latents = loop.denoise(window, condition, known, lambda step: None)
        frames: list[Tensor] = []
        with clock.part("decode_and_h264"):
            position = 0
            for batch in loop.decode(latents):
                first = max(0, window.keep_first - position)
                position += batch.shape[1]
                if first < batch.shape[1]:
                    encoder.write(to_uint8(batch[:, first:]).cpu().numpy())
                frames.append(batch)
            encoder.end_segment()
        with clock.part("take_over"):
            tail = loop.take_over(torch.cat(frames[-4:], 1)[:, -_MOTION_FRAMES:])
        clock.parts["all"] = round(time.perf_counter() - started, 3)
        return tail, clock.parts


def preset_windows(
    config: TransformerConfig, device: torch.device, size: tuple[int, int], scratch: Path, say: Say
) -> dict[str, object]:
    """The third of three `fast` windows and one of `balanced`, fp8 and resident, with seconds per second of video."""
    rig = _Rig(config, device, size, n_windows=3)
    transformer = random_transformer(config, device=device, quant="fp8", attention="auto")
    transformer.use_fast_blocks()
    found: dict[str, object] = {"attention": transformer.attention_line, "fast_blocks": transformer.fast_blocks}
    _reset(device)
    found["fast"] = _windows(rig, transformer, "fast", 3, scratch, say)
    found["balanced"] = _windows(rig, transformer, "balanced", 1, scratch, say)
    found["peak_gib"] = _peak(device)
    transformer.close()
    return found


def capped_window(
    config: TransformerConfig, device: torch.device, size: tuple[int, int], scratch: Path, say: Say
) -> dict[str, object]:
    """Two `fast` windows with the process held to a card of 24 GB, blocks streamed as the engine would decide."""
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(_CAP_BYTES / total, device)
    try:
        plan = memory.plan(
            config, eight_bit=True, pixels=size[0] * size[1], passes=1, compiled=True, free_bytes=int(_CAP_BYTES * 0.97)
        )
        say(plan.line)
        rig = _Rig(config, device, size, n_windows=2)
        rig.conditions.at(rig.schedule.windows[0])
        if not plan.keep_encoders:
            rig.clip.to(torch.device("cpu"))
        transformer = random_transformer(
            config, device=device, quant="fp8", attention="auto",
            offload="none" if plan.resident_blocks == plan.n_blocks else plan.resident_blocks,
        )  # fmt: skip
        transformer.use_fast_blocks()
        transformer.cache_context = plan.cache_context
        _reset(device)
        found: dict[str, object] = {"plan": plan.line, "fast": _windows(rig, transformer, "fast", 2, scratch, say)}
        found["peak_reserved_gib"] = round(torch.cuda.max_memory_reserved(device) / 2**30, 2)
        found["peak_gib"] = _peak(device)
        transformer.close()
        return found
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def _windows(
    rig: _Rig, transformer: InfiniteTalkTransformer, preset: str, n: int, scratch: Path, say: Say
) -> dict[str, object]:
    loop, known = rig.loop(transformer, preset), None
    folder = scratch / f"frames-{preset}-{time.monotonic_ns()}"
    folder.mkdir(parents=True)
    encoder = FrameEncoder(folder)
    windows = []
    for window in rig.schedule.windows[:n]:
        known, parts = rig.window(loop, window, known, encoder)
        windows.append(parts)
        say(f"{preset} window {window.index}: {parts}")
    encoder.close()
    new_s = (rig.schedule.windows[0].n_frames - _MOTION_FRAMES) / FPS
    return {"windows": windows, "s_per_s": round(windows[-1]["all"] / new_s, 3), "new_video_s": new_s}


def _reset(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> float | None:
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if device.type == "cuda" else None
