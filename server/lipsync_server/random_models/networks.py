"""Networks with random weights at any size, for tests and benchmarks, and the model files that several engines share.

Random weights cost as much time and memory as trained ones; random_models/numbers.py draws them. The tiny and the full
sizes are in random_models/infinitetalk.py.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, Wav2Vec2Config

from lipsync_server.models.encoders import clip, wav2vec
from lipsync_server.models.wan_vae import vae
from lipsync_server.random_models.numbers import randomise


def tensors_of(model: nn.Module, device: torch.device) -> dict[str, Tensor]:
    """The tensors of a model that was built on the meta device, filled with random float32 numbers, on the CPU."""
    randomise(model, device=device, dtype=torch.float32)
    return {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}


def vae_tensors(width: int, device: torch.device) -> dict[str, Tensor]:
    """The tensors of Wan's VAE by their official names. width: channels of its first layer, 96 in the published VAE."""
    return {vae.official_name(name): tensor for name, tensor in tensors_of(vae.build(width), device).items()}


def write_wav2vec(
    folder: Path, config: Wav2Vec2Config, device: torch.device, *, prefix: str = "", more: Mapping[str, Tensor] = {}
) -> None:
    """Write wav2vec 2.0 into `folder` in its published files.

    prefix: the beginning of every tensor's name. more: further tensors, which no code reads.
    """
    tensors = {prefix + name: tensor for name, tensor in tensors_of(wav2vec.build(config), device).items()}
    save_file({**tensors, **more}, folder / "model.safetensors")
    write_json(folder / "config.json", {k: v for k, v in config.to_dict().items() if k != "dtype"})
    write_json(folder / "preprocessor_config.json", {"do_normalize": True, "sampling_rate": 16000})


def write_json(path: Path, value: object) -> None:
    """Write `value` as a JSON file."""
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def random_vae(
    *, device: torch.device, dtype: torch.dtype = torch.bfloat16, base_dim: int = 96, **options: Any
) -> vae.WanVae:
    """Wan's VAE. base_dim: channels of its first layer, by default as published. options: keywords of WanVae."""
    model = vae.build(base_dim)
    randomise(model, device=device, dtype=dtype)
    return vae.WanVae(model, device, dtype, **options)


def random_clip(
    *, device: torch.device, dtype: torch.dtype = torch.float16, config: CLIPVisionConfig = clip.VIT_H
) -> clip.ImageEncoder:
    """CLIP's image tower, by default at the published size."""
    model = clip.build(config)
    randomise(model, device=device, dtype=dtype)
    n_tokens = (config.image_size // config.patch_size) ** 2 + 1
    # A buffer of integers, which randomise leaves empty.
    getattr(model, "vision_model", model).embeddings.position_ids = torch.arange(n_tokens, device=device)[None]
    return clip.ImageEncoder(model, config, device, dtype)


def random_wav2vec(*, device: torch.device, config: Wav2Vec2Config | None = None) -> wav2vec.Wav2Vec:
    """wav2vec 2.0, by default at the published size."""
    model = wav2vec.build(config or Wav2Vec2Config())
    randomise(model, device=device, dtype=torch.float32)
    return wav2vec.Wav2Vec(model, normalises=True, device=device)
