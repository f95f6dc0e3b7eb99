"""InfiniteTalk's transformer with random weights: in memory, or in the two published file layouts.

A model made here computes the real function at full cost, and its output is noise. Does not know how files are loaded
(engines/infinitetalk/loading).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lipsync_server.engines.infinitetalk.loading.transformer_files import (
    fill_transformer,
    is_adapter,
    official_shapes,
)
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.engines.infinitetalk.model.offload import Offload
from lipsync_server.engines.infinitetalk.model.transformer import InfiniteTalkTransformer
from lipsync_server.quantization import Quantization
from lipsync_server.random_models.numbers import random_tensors

# Layer norms whose names do not contain "norm".
_NORMS_OF_THE_PICTURE = ("img_emb.proj.0.weight", "img_emb.proj.4.weight")


def random_parameters(
    config: TransformerConfig,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter as (official name, tensor). Their scale keeps activations near their size."""
    return random_tensors(
        official_shapes(config), seed=seed, device=device, dtype=dtype,
        begins_at_one=lambda name: name.endswith("weight") and ("norm" in name or name in _NORMS_OF_THE_PICTURE),
    )  # fmt: skip


def random_transformer(
    config: TransformerConfig | None = None,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    quant: Quantization = "none",
    attention: str = "auto",
    offload: Offload = "none",
    exact: bool = False,
) -> InfiniteTalkTransformer:
    """A model of any size, by default the 14B, with random weights; options as in load_transformer."""
    config = config or TransformerConfig()
    parameters = random_parameters(config, seed=seed, device=device, dtype=dtype)
    return fill_transformer(
        parameters, config, device=device, dtype=dtype, quant=quant, attention=attention, offload=offload, exact=exact
    )


def save_shards(
    parameters: Mapping[str, Tensor],
    folder: Path,
    adapter: Path | None,
    *,
    n_shards: int = 7,
    stem: str = "diffusion_pytorch_model",
) -> None:
    """Write plain parameters as shards with their index in `folder`, and InfiniteTalk's own parameters to `adapter`.

    adapter: with None the shards contain all parameters, as FlashTalk's published shards do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    base = [name for name in parameters if adapter is None or not is_adapter(name)]
    places: dict[str, str] = {}
    for index in range(n_shards):
        part = base[index * len(base) // n_shards : (index + 1) * len(base) // n_shards]
        path = folder / f"{stem}-{index + 1:05d}-of-{n_shards:05d}.safetensors"
        save_file({name: parameters[name].contiguous() for name in part}, path)
        places |= dict.fromkeys(part, path.name)
    index_file = folder / f"{stem}.safetensors.index.json"
    index_file.write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")
    if adapter is not None:
        adapter.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in parameters.items() if is_adapter(name)}, adapter)


def layout_of(config: TransformerConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """The transformer's official names with tensors of the right type and shape, on the meta device."""
    return {n: torch.empty(shape, dtype=dtype, device="meta") for n, shape in official_shapes(config).items()}
