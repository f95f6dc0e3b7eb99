"""Every published file, damaged in every way: one sentence that names the file and the tensor, and nothing loaded."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from infinitetalk_golden import CPU
from lipsync_server.engines.infinitetalk.loading.transformer_files import load_transformer
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.errors import WeightsError
from lipsync_server.models.encoders import text
from lipsync_server.models.encoders.clip import ImageEncoder
from lipsync_server.models.encoders.text_files import TextFiles
from lipsync_server.models.encoders.wav2vec import Wav2Vec
from lipsync_server.models.wan_vae.vae import WanVae
from safetensors.torch import load_file, save_file
from torch import Tensor

BASE, QUANT = "Wan2.1-I2V-14B-480P", "InfiniteTalk/quant_models"


def _text(root: Path, weights: str, quant_map: str | None = None) -> None:
    files = TextFiles(
        root / weights, root / BASE / "google" / "umt5-xxl", root / quant_map if quant_map is not None else None
    )
    text.TextEncoder(files, device=CPU, dtype=torch.float32).encode(["a"])


def _config(root: Path) -> TransformerConfig:
    return TransformerConfig.from_json(root / BASE / "config.json")


# File -> how it is loaded.
LOADERS: dict[str, Callable[[Path], object]] = {
    f"{BASE}/Wan2.1_VAE.pth": lambda root: WanVae.load(root / BASE / "Wan2.1_VAE.pth", device=CPU),
    f"{BASE}/models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth": lambda root: ImageEncoder.load(
        root / BASE / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth", device=CPU, dtype=torch.float32
    ),
    f"{BASE}/models_t5_umt5-xxl-enc-bf16.pth": lambda root: _text(root, f"{BASE}/models_t5_umt5-xxl-enc-bf16.pth"),
    f"{QUANT}/t5_fp8.safetensors": lambda root: _text(root, f"{QUANT}/t5_fp8.safetensors", f"{QUANT}/t5_map_fp8.json"),
    "chinese-wav2vec2-base/model.safetensors": lambda root: Wav2Vec.load(root / "chinese-wav2vec2-base", device=CPU),
    f"{QUANT}/infinitetalk_single_int8.safetensors": lambda root: load_transformer(
        root / QUANT / "infinitetalk_single_int8.safetensors", config=_config(root), dtype=torch.float32
    ),
    "InfiniteTalk/single/infinitetalk.safetensors": lambda root: load_transformer(
        root / BASE, root / "InfiniteTalk/single/infinitetalk.safetensors", dtype=torch.float32
    ),
}
# Tensors that no loader reads: unused scalars of quantised files, the text tower, and the vision tower's last layers.
UNUSED = ("input_scale", "output_scale", "textual.", "log_scale", "visual.transformer.2.", "masked_spec_embed")
# The loader reads a model size from these tensors alone. With a wrong size here, other tensors are reported (or none).
SIZED_BY = ("token_embedding.weight",)


def _read(path: Path) -> dict[str, Tensor]:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)


def _refusal(name: str, folder: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        LOADERS[name](folder)
    assert Path(name).name in caught.value.detail
    return caught.value.detail


def _keys(tensors: dict[str, Tensor]) -> list[str]:
    """A dozen tensors from the whole file, and all of its first block, from which sizes are read."""
    used = [key for key in tensors if not any(part in key for part in UNUSED)]
    first_block = [key for key in used if key.startswith(("blocks.0.", "visual.transformer.0.", "encoder.layers.0."))]
    return sorted({*used[:: max(1, len(used) // 12)], *first_block[:20]})


@pytest.mark.parametrize("name", LOADERS)
def test_a_missing_a_surplus_and_a_wrongly_shaped_tensor_are_named(folder: Path, name: str) -> None:
    path = folder / name
    good = _read(path)
    for key in _keys(good):
        # Joined products are split at load: q, k and v then have names of their own; a weight and its scale share one.
        known_as = key.partition(".to_qkv")[0].removesuffix("._data").removesuffix("._scale")
        _write(path, {other: tensor for other, tensor in good.items() if other != key})
        assert known_as in _refusal(name, folder), f"{key} is missing"
        grown = torch.zeros((good[key].shape[0] + 3, *good[key].shape[1:])).to(good[key].dtype)
        if key not in SIZED_BY:
            _write(path, good | {key: grown})
            assert known_as in _refusal(name, folder), f"{key} is wrongly shaped"
    for surplus in ("surplus.tensor", f"{key}.more"):
        _write(path, good | {surplus: torch.zeros(3)})
        assert surplus in _refusal(name, folder)
    _write(path, good)
    LOADERS[name](folder)


@pytest.mark.parametrize("name", LOADERS)
def test_a_truncated_file_is_refused(folder: Path, name: str) -> None:
    path = folder / name
    content = path.read_bytes()
    for length in (0, 7, 200, len(content) // 2, len(content) - 9):
        path.write_bytes(content[:length])
        said = _refusal(name, folder)
        assert "download it again" in said.lower()
        if path.suffix == ".safetensors" and length > len(content) // 3:
            assert any(key in said for key in ("weight", "bias", "embed", "modulation")), "which tensor is cut"


def test_a_quantised_text_encoder_and_its_map_must_agree(folder: Path) -> None:
    name = f"{QUANT}/t5_fp8.safetensors"
    quant_map = folder / QUANT / "t5_map_fp8.json"
    said = quant_map.read_text()
    quant_map.write_text(said.replace("blocks.0.attn.q", "blocks.0.attn.qq"))
    assert "blocks.0.attn.q" in _refusal(name, folder)
    for damaged in ("[]", "{", '{"blocks.0.attn.q": 3}'):
        quant_map.write_text(damaged)
        with pytest.raises(WeightsError, match=r"t5_map_fp8\.json"):
            LOADERS[name](folder)


def test_a_shard_that_lacks_a_tensor_is_named_when_the_index_tells(folder: Path) -> None:
    base = folder / BASE
    shard = base / "diffusion_pytorch_model-00007-of-00007.safetensors"
    tensors = load_file(shard)
    key, *others = sorted(tensors)
    index = {"weight_map": dict.fromkeys(tensors, shard.name)}
    (base / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    save_file({other: tensors[other] for other in others}, shard)
    adapter = folder / "InfiniteTalk/single/infinitetalk.safetensors"
    with pytest.raises(WeightsError, match=rf"{shard.name} lacks {key}"):
        load_transformer(base, adapter, dtype=torch.float32)
