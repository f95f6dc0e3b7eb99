"""Write FlashHead's model files with random weights, in the published layout, tiny or at full size.

    python -m lipsync_server.random_models.flashhead FOLDER                      tiny, both variants
    python -m lipsync_server.random_models.flashhead FOLDER --full --device cuda full size, 16 GB

Use FOLDER as LIPSYNC_WEIGHTS_DIR. The videos are noise, but all code of the engine runs: with tiny files in seconds on
a CPU, and with full-size files at the same cost on a GPU as with the published files. Knows the layout; the names come
from the loaders' own mappings.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Wav2Vec2Config

from lipsync_server.engines.flashhead import published
from lipsync_server.engines.flashhead.loading.transformer_files import official_shapes
from lipsync_server.engines.flashhead.model.config import LITE, HeadConfig
from lipsync_server.engines.flashhead.options import Variant
from lipsync_server.models import ltx_vae
from lipsync_server.models.tensor_files.writer import write_tensors
from lipsync_server.random_models.networks import tensors_of, vae_tensors, write_json, write_wav2vec
from lipsync_server.random_models.numbers import random_tensors

_WEIGHTS = "diffusion_pytorch_model.safetensors"
# Fields of the published config.json. The sizes of the sound's layers are only in the shapes of the tensors.
_PUBLISHED_FIELDS = (
    "dim", "ffn_dim", "text_dim", "freq_dim", "eps", "num_heads", "num_layers", "in_dim", "out_dim", "vae_stride",
    "patch_size",
)  # fmt: skip
_LTX: dict[str, object] = {
    "_class_name": "AutoencoderKLLTXVideo", "block_out_channels": [128, 256, 512, 512], "decoder_causal": False,
    "encoder_causal": True, "in_channels": 3, "latent_channels": 128, "layers_per_block": [4, 3, 3, 3, 4],
    "out_channels": 3, "patch_size": 4, "patch_size_t": 1, "resnet_norm_eps": 1e-6, "scaling_factor": 1.0,
    "spatio_temporal_scaling": [True, True, True, False],
}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """The size of each model. wan_width: channels of the first layer of Wan's VAE. ltx: config.json of LTX's VAE."""

    transformers: dict[Variant, HeadConfig]
    sound: Wav2Vec2Config
    wan_width: int
    ltx: dict[str, object]


FULL = Sizes({"pro": HeadConfig(), "lite": LITE}, Wav2Vec2Config(), 96, _LTX)
_TINY_PRO = HeadConfig(
    dim=64, ffn_dim=96, num_heads=2, num_layers=2, freq_dim=32, text_dim=32, audio_channels=32, intermediate_dim=8,
    context_tokens=4,
)  # fmt: skip
_TINY_LITE = replace(_TINY_PRO, in_dim=16, out_dim=8, patch_size=(1, 1, 1), vae_stride=(8, 32, 32))
TINY = Sizes(
    transformers={"pro": _TINY_PRO, "lite": _TINY_LITE},
    sound=Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=12, num_attention_heads=2, intermediate_size=48, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    ),
    wan_width=1,
    ltx={
        **_LTX, "block_out_channels": [4, 4, 4, 4], "latent_channels": 8, "layers_per_block": [1, 1, 1, 1, 1],
        "decoder_block_out_channels": [4, 4, 4, 4], "decoder_layers_per_block": [1, 1, 1, 1, 1],
    },
)  # fmt: skip


def write(
    folder: Path,
    sizes: Sizes = TINY,
    variants: tuple[Variant, ...] = ("pro", "lite"),
    *,
    device: torch.device | str = "cpu",
) -> None:
    """Write the files of `variants` below `folder`, which is made if missing. device: on which weights are made."""
    device = torch.device(device)
    home, sound = folder / published.FOLDER, folder / published.SOUND
    for seed, variant in enumerate(variants):
        config, place = sizes.transformers[variant], home / published.MODEL_FOLDERS[variant]
        place.mkdir(parents=True, exist_ok=True)
        written: dict[str, object] = {name: getattr(config, name) for name in _PUBLISHED_FIELDS}
        write_json(place / "config.json", {"_class_name": "WanModelAudioProject", "has_image_input": False, **written})
        layout = {name: torch.empty(shape, device="meta") for name, shape in published_shapes(config).items()}
        write_tensors(place / _WEIGHTS, layout, random_parameters(config, seed=seed, device=device))
    if "pro" in variants:
        (home / "VAE_Wan").mkdir(exist_ok=True)
        torch.save(vae_tensors(sizes.wan_width, device), home / "VAE_Wan" / published.WAN_VAE)
    if "lite" in variants:
        (home / published.LTX_VAE).mkdir(exist_ok=True)
        write_json(home / published.LTX_VAE / "config.json", sizes.ltx)
        save_file(tensors_of(ltx_vae.build(sizes.ltx), device), home / published.LTX_VAE / _WEIGHTS)
    sound.mkdir(exist_ok=True)
    # In the published file, names begin with wav2vec2., and the file also has a head for text.
    head = {"lm_head.weight": torch.zeros(32, sizes.sound.hidden_size), "lm_head.bias": torch.zeros(32)}
    write_wav2vec(sound, sizes.sound, device, prefix="wav2vec2.", more=head)


def published_shapes(config: HeadConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in the published file, also of the tensors that no code reads."""
    dim, channels = config.dim, config.audio_channels
    unused: dict[str, tuple[int, ...]] = {
        "text_embedding.0.weight": (dim, config.text_dim), "text_embedding.0.bias": (dim,),
        "text_embedding.2.weight": (dim, dim), "text_embedding.2.bias": (dim,),
        "audio_emb.proj.0.weight": (channels,), "audio_emb.proj.0.bias": (channels,),
        "audio_emb.proj.1.weight": (channels, channels), "audio_emb.proj.1.bias": (channels,),
        "audio_emb.proj.3.weight": (dim, channels), "audio_emb.proj.3.bias": (dim,),
        "audio_emb.proj.4.weight": (dim,), "audio_emb.proj.4.bias": (dim,),
    }  # fmt: skip
    return {**official_shapes(config), **unused}


def random_parameters(
    config: HeadConfig, *, seed: int = 0, device: torch.device | str = "cpu"
) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of the published file as (name, float32). Their scale keeps activations near their size."""
    return random_tensors(published_shapes(config), seed=seed, device=device)


def main() -> None:
    """Write the files into the folder on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--full", action="store_true", help="the published sizes")
    parser.add_argument("--variant", choices=("pro", "lite"), help="one variant in place of both")
    parser.add_argument("--device", default="cpu", help="where the weights are made: cpu or cuda")
    given = parser.parse_args()
    variants: tuple[Variant, ...] = ("pro", "lite") if given.variant is None else (given.variant,)
    write(given.folder, FULL if given.full else TINY, variants, device=given.device)


if __name__ == "__main__":
    main()
