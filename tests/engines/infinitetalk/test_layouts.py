"""The transformer from the files of other programs computes the result of the same weights in float32."""

from pathlib import Path

import pytest
import torch
from lipsync_server.bench.clock import relative_error
from lipsync_server.engines.infinitetalk.loading.transformer_files import (
    fill_transformer,
    is_adapter,
    load_transformer,
)
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.errors import WeightsError
from lipsync_server.models.layers.linear_8bit import QuantizedLinear
from lipsync_server.models.tensor_files.rotation import is_group_size, turned_back
from lipsync_server.quantization import Quantization
from lipsync_server.random_models.infinitetalk_transformer import random_parameters, save_shards
from lipsync_server.random_models.other_layouts import save_gguf, save_int8, save_scaled_fp8
from model_layouts import LAYOUTS, TABLE
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformer_golden import inputs_for, run

# Rows of 256 numbers, so that GGUF's K blocks fit, and heads of 128, from which the loader reads their number.
CONFIG = TransformerConfig(
    dim=256, ffn_dim=512, num_heads=2, num_layers=2, freq_dim=256, text_dim=256, image_dim=256,
    audio_channels=16, intermediate_dim=256, output_dim=256, context_tokens=2,
)  # fmt: skip
PARAMETERS = dict(random_parameters(CONFIG))
BASE = {name: value for name, value in PARAMETERS.items() if not is_adapter(name)}
PATCH = {name: value for name, value in PARAMETERS.items() if is_adapter(name)}
INPUTS = inputs_for(CONFIG)


@pytest.fixture(scope="module")
def wanted() -> Tensor:
    """The output of the weights in float32."""
    return run(fill_transformer(PARAMETERS.items(), CONFIG, dtype=torch.float32), INPUTS)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("quant", ["none", "int8", "fp8"])
def test_a_base_file_with_a_patch_file_computes_what_float32_computes(
    layout: str, quant: Quantization, wanted: Tensor, tmp_path: Path
) -> None:
    """The sizes are read from the shapes; rounding to our own 8 bits while loading adds at most 0.08."""
    save, ending, bound = LAYOUTS[layout]
    base, patch = tmp_path / f"base.{ending}", tmp_path / f"patch.{ending}"
    save(BASE, base)
    save(PATCH, patch)
    model = load_transformer(base, patch, dtype=torch.float32, quant=quant)
    assert model.config == CONFIG
    error = relative_error(run(model, INPUTS), wanted)
    assert error > 0
    computed = "float32" if quant == "none" else quant
    TABLE.note(f"one forward, {layout}, computed in {computed}", bound + (0.0 if quant == "none" else 0.08), error)


def test_scaled_fp8_is_kept_to_the_bit_where_the_model_computes_in_fp8(tmp_path: Path) -> None:
    for part, parameters in (("base", BASE), ("patch", PATCH)):
        save_scaled_fp8(parameters, tmp_path / f"{part}.safetensors")
    model = load_transformer(
        tmp_path / "base.safetensors", tmp_path / "patch.safetensors", dtype=torch.float32, quant="fp8"
    )
    stored = load_file(tmp_path / "base.safetensors")
    name = "blocks.1.ffn.0"
    layer = model.get_submodule(name)
    assert isinstance(layer, QuantizedLinear)
    assert torch.equal(layer.data.view(torch.uint8), stored[f"{name}.weight"].view(torch.uint8))
    assert torch.equal(layer.scale, stored[f"{name}.scale_weight"].expand(len(layer.scale), 1))


def test_int8_rows_are_kept_to_the_bit_where_the_model_computes_in_int8(tmp_path: Path) -> None:
    for part, parameters in (("base", BASE), ("patch", PATCH)):
        save_int8(parameters, tmp_path / f"{part}.safetensors")
    paths = (tmp_path / "base.safetensors", tmp_path / "patch.safetensors")
    model = load_transformer(*paths, dtype=torch.float32, quant="int8")
    stored = load_file(paths[0])
    layer = model.get_submodule("blocks.1.ffn.0")
    assert isinstance(layer, QuantizedLinear)
    assert torch.equal(layer.data, stored["blocks.1.ffn.0.weight"])
    assert torch.equal(layer.scale, stored["blocks.1.ffn.0.weight_scale"])


def test_a_rotated_weight_is_the_one_that_was_rotated() -> None:
    """The matrix of 4 written out: each column of a group is the sum of the other three less its own, halved."""
    values = torch.randn(3, 8, dtype=torch.float64)
    parts = values.reshape(3, 2, 4)
    places = (3, 2, 1, 0)
    rotated = torch.stack([(parts.sum(-1) - 2 * parts[..., places[i]]) / 2 for i in range(4)], dim=-1).reshape(3, 8)
    torch.testing.assert_close(turned_back(rotated, 4), values)
    for group in (16, 64, 256):
        wide = torch.randn(2, 2 * group, dtype=torch.float64)
        once = turned_back(wide, group)
        torch.testing.assert_close(turned_back(once, group), wide)
        torch.testing.assert_close(once.norm(dim=1), wide.norm(dim=1))
    assert [size for size in (2, 4, 8, 16, 60, 64, 100, 256) if is_group_size(size, 256)] == [4, 16, 64, 256]


def test_official_shards_take_a_patch_file_of_another_layout(wanted: Tensor, tmp_path: Path) -> None:
    save_shards(PARAMETERS, tmp_path / "base", tmp_path / "unused.safetensors", n_shards=2)
    save_gguf(PATCH, tmp_path / "patch.gguf", "Q8_0")
    model = load_transformer(tmp_path / "base", tmp_path / "patch.gguf", config=CONFIG, dtype=torch.float32)
    assert relative_error(run(model, INPUTS), wanted) < 0.01


def _refusal(base: Path, patch: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        load_transformer(base, patch, dtype=torch.float32)
    return caught.value.detail


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K"])
def test_a_truncated_gguf_file_is_named_with_the_tensor_at_which_it_ends(kind: str, tmp_path: Path) -> None:
    base, patch = tmp_path / "base.gguf", tmp_path / "patch.gguf"
    save_gguf(BASE, base, kind)
    save_gguf(PATCH, patch, kind)
    base.write_bytes(base.read_bytes()[:-4096])
    detail = _refusal(base, patch)
    assert "base.gguf is truncated: head.head.weight should end at byte" in detail
    base.write_bytes(b"GGUF")
    assert "base.gguf is no complete GGUF file" in _refusal(base, patch)


def test_a_file_that_does_not_fit_is_named_with_the_tensor(tmp_path: Path) -> None:
    base, patch = tmp_path / "base.safetensors", tmp_path / "patch.safetensors"
    save_scaled_fp8(BASE, base)
    save_scaled_fp8(PATCH, patch)
    good, key = load_file(patch), "blocks.1.audio_cross_attn.proj"
    save_file({name: value for name, value in good.items() if name != f"{key}.bias"}, patch)
    assert f"patch.safetensors lacks {key}.bias" in _refusal(base, patch)
    save_file(good | {f"{key}.scale_weight": torch.ones(7)}, patch)
    assert f"{key}.scale_weight has 7 numbers" in _refusal(base, patch)
    save_file(good | {f"{key}.weight": torch.zeros(256, 255)}, patch)
    assert f"patch.safetensors: {key}.weight is [256, 255]" in _refusal(base, patch)
    save_file(good | {"vace_blocks.0.weight": torch.zeros(1)}, patch)
    assert "patch.safetensors holds vace_blocks.0.weight" in _refusal(base, patch)
    rotated = b'{"format": "int8_tensorwise", "convrot": true}'
    save_file(good | {f"{key}.comfy_quant": torch.tensor(list(rotated), dtype=torch.uint8)}, patch)
    assert f"{key}.weight is stored as" in _refusal(base, patch)
    save_file(BASE | good, patch)
    assert "both hold" in _refusal(base, patch)
