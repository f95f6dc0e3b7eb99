"""The golden FlashHead models, the public reference's way through a recording, and small requests for the engine."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from flash_golden import FLASHHEAD
from lipsync_server.engines.base import Frames, RenderRequest, Speech
from lipsync_server.engines.flashhead.loading.transformer_files import fill_transformer
from lipsync_server.engines.flashhead.model.config import HeadConfig
from lipsync_server.engines.flashhead.model.transformer import FlashHeadTransformer
from lipsync_server.engines.flashhead.options import Options
from lipsync_server.models import ltx_vae
from lipsync_server.models.encoders.speech import SpeechEmbedding, Track
from lipsync_server.models.encoders.wav2vec import Wav2Vec
from lipsync_server.models.tensor_files import into_modules
from lipsync_server.models.wan_vae import vae as wan
from safetensors.torch import load_file
from torch import Tensor

CPU = torch.device("cpu")
WINDOW = 33
NEW = {"pro": 28, "lite": 24}
STREAM_FRAMES = 200
_FRAME = 640


def transformer(variant: str) -> FlashHeadTransformer:
    """The golden tiny transformer of a variant, float32."""
    folder = FLASHHEAD.path(f"A_dit_{variant}")
    tensors = FLASHHEAD.tensors(f"A_dit_{variant}/dit_tiny.safetensors")
    config = HeadConfig.from_json(folder / "config.json").with_sound_of({n: tuple(t.shape) for n, t in tensors.items()})
    return fill_transformer(tensors.items(), config, dtype=torch.float32)


def wan_vae() -> wan.WanVae:
    tensors = FLASHHEAD.tensors("E_vae_wan/vae_tiny.safetensors")
    model = wan.build(FLASHHEAD.json("E_vae_wan/config.json")["dim"])
    into_modules.fill(model, tensors, wan.official_name, source="golden", device=CPU, dtype=torch.float32)
    return wan.WanVae(model, CPU, torch.float32)


class DrawingLtxVae(ltx_vae.LtxVae):
    """The golden LTX VAE, which samples with the draws that the reference made, in order."""

    draws: Iterator[Tensor] = iter(())

    def encode(self, video: Tensor, noise: Tensor | None = None) -> Tensor:
        drawn = next(self.draws, None)
        return super().encode(video, noise if drawn is None else drawn[0])


def golden_ltx_vae() -> DrawingLtxVae:
    tensors = FLASHHEAD.tensors("E_vae_ltx/vae_tiny.safetensors")
    config = {name: value for name, value in FLASHHEAD.json("E_vae_ltx/config.json").items() if name != "note"}
    model = ltx_vae.build(config)
    into_modules.fill(model, tensors, lambda name: name, source="golden", device=CPU, dtype=torch.float32)
    return DrawingLtxVae(model, tensors["latents_mean"], tensors["latents_std"], torch.float32)


def sound_encoder() -> Wav2Vec:
    return Wav2Vec.load(FLASHHEAD.path("D_audio/wav2vec2_tiny"), device=CPU)


def embed(encoder: Wav2Vec, speech: Speech) -> Tensor:
    """All frames of a recording as the reference counts them: (frames, 12, width)."""
    n_frames = len(speech) * 25 // 16_000
    whole = SpeechEmbedding(encoder, Track(speech, len(speech), levelled=False), n_frames)
    return whole.gather(np.arange(n_frames))


def pad_once(n_samples: int, variant: str) -> int:
    """Samples after the reference's padding in mode once."""
    slice_samples = NEW[variant] * _FRAME
    rest = (n_samples - WINDOW * _FRAME) % slice_samples
    return n_samples + (slice_samples - rest if rest else 0)


def n_windows(n_samples: int, variant: str, mode: str) -> int:
    """Windows that the reference makes, one too few in mode once."""
    if mode == "stream":
        return -(-n_samples // (NEW[variant] * _FRAME))
    return max(0, (pad_once(n_samples, variant) * 25 // 16_000 - WINDOW) // NEW[variant])


def stream_buffers(speech: Speech, variant: str) -> Iterator[Speech]:
    """The eight seconds that the reference encodes for each window of mode stream."""
    slice_samples = NEW[variant] * _FRAME
    n = n_windows(len(speech), variant, "stream") * slice_samples
    padded = np.concatenate(
        [np.zeros(STREAM_FRAMES * _FRAME, np.float32), speech, np.zeros(n - len(speech), np.float32)]
    )
    for stop in range(slice_samples, n + 1, slice_samples):
        yield padded[stop : stop + STREAM_FRAMES * _FRAME]


def windowed(centres: Tensor, first: int, end: int, n: int = WINDOW) -> Tensor:
    """Frames first .. first + n of `centres` (end, 12, width), each with two neighbours: (n, 5, 12, width)."""
    at = np.clip(np.arange(first, first + n)[:, None] + np.arange(-2, 3), 0, end - 1)
    return centres[torch.from_numpy(at)]


def load_exact(name: str) -> dict[str, Tensor]:
    """A golden file in its own types."""
    return load_file(FLASHHEAD.path(name))


def request_for(duration_s: float, picture: Frames | None = None, **options: object) -> RenderRequest:
    rng = np.random.default_rng(5)
    return RenderRequest(
        picture=rng.integers(0, 255, (96, 128, 3), dtype=np.uint8) if picture is None else picture,
        speech=(rng.standard_normal(round(duration_s * 16000)) * 0.1).astype(np.float32),
        duration_s=duration_s,
        options=Options(**{"steps": 2, "framing": "centre", **options}),
    )


PORTRAITS = Path(__file__).parents[2] / "docs" / "contact-sheets" / "portraits"
