"""LoRA files: every spelling merges to the same weights, the reference's files to the reference's weights."""

import json
from pathlib import Path

import pytest
import torch
from infinitetalk_golden import golden_path, meets, within
from lipsync_server.engines.infinitetalk.loading.lora import merge_all, read_lora
from lipsync_server.engines.infinitetalk.loading.transformer_files import load_transformer, official_shapes
from lipsync_server.errors import WeightsError
from lipsync_server.models.tensor_files.quanto import quantized_tensors
from lipsync_server.random_models.infinitetalk_transformer import random_parameters, save_shards
from safetensors.torch import load_file, save_file
from transformer_golden import (
    SMALL,
    TINY,
    golden_case,
    golden_config,
    golden_parameters,
    inputs_for,
    relative_error,
    run,
)

LORA = SMALL / "lora"
AFTER = load_file(LORA / "weights_after.safetensors")
SHAPES = official_shapes(TINY)


@pytest.mark.parametrize("key", AFTER)
def test_merged_weights_match_the_reference(key: str) -> None:
    setting, name = key.split(":")
    style, _, scale = setting.removeprefix("bf16.").partition(".scale")
    lora = read_lora(LORA / f"{style}.safetensors", float(scale), official_shapes(golden_config()))
    weight = golden_parameters()[name]
    if setting.startswith("bf16."):
        merged = merge_all([lora], name, weight.bfloat16())
        steps = merged.view(torch.int16).int() - AFTER[key].view(torch.int16).int()
        assert merged.dtype == torch.bfloat16
        within(f"G {key}, last bits", float(steps.abs().max()), 1)
    else:
        meets(f"G {key}", merge_all([lora], name, weight), AFTER[key], 1e-6)


@pytest.mark.parametrize("files", ["lora_down_up", "diff", "mixed", "with_alpha_key", "lora_down_up@0.7+diff@1.0"])
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_outputs_with_lora_match_the_reference(tmp_path: Path, files: str, scale: float) -> None:
    save_shards(golden_parameters(), tmp_path, tmp_path / "adapter.safetensors", n_shards=2)
    if "@" in files:
        name, pairs = files, [part.split("@") for part in files.split("+")]
        loras = [(LORA / f"{style}.safetensors", float(factor)) for style, factor in pairs]
    else:
        name, loras = f"{files}.scale{scale}", [(LORA / f"{files}.safetensors", scale)]
    (tmp_path / "base").mkdir()
    for shard in tmp_path.glob("diffusion*.safetensors"):
        shard.rename(tmp_path / "base" / shard.name)
    model = load_transformer(
        tmp_path / "base", tmp_path / "adapter.safetensors", config=golden_config(), dtype=torch.float32, loras=loras
    )
    _, given = golden_case(0, 1)
    wanted = load_file(golden_path("G_lora/outputs.safetensors"))[f"{name}.output"][0]
    meets(f"G output {name}", run(model, given), wanted, 2e-4)


def write(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    return path


def pair(rank: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(9)
    return torch.randn(rank, TINY.dim, generator=g), torch.randn(TINY.dim, rank, generator=g)


@pytest.mark.parametrize(
    ("down_key", "up_key", "alpha_key", "factor"),
    [
        ("diffusion_model.{}.lora_down.weight", "diffusion_model.{}.lora_up.weight", None, 1.0),
        ("diffusion_model.{}.lora_A.weight", "diffusion_model.{}.lora_B.weight", None, 1.0),
        ("diffusion_model.{}.lora_A.default.weight", "diffusion_model.{}.lora_B.default.weight", None, 1.0),
        ("{}.lora_down.weight", "{}.lora_up.weight", None, 1.0),
        ("transformer.{}.lora_A.weight", "transformer.{}.lora_B.weight", "transformer.{}.alpha", 0.5),
        ("lora_unet_{}.lora_down.weight", "lora_unet_{}.lora_up.weight", "lora_unet_{}.alpha", 0.5),
        ("diffusion_model.{}.lora_down.weight", "diffusion_model.{}.lora_up.weight", "diffusion_model.{}.alpha", 1.0),
    ],
)
def test_every_spelling_changes_the_layer_alike(
    tmp_path: Path, down_key: str, up_key: str, alpha_key: str | None, factor: float
) -> None:
    """alpha / rank = 0.5 counts for kohya and PEFT files, and not, as in the reference, for its own style."""
    layer = "blocks.1.self_attn.q"
    spelled = layer.replace(".", "_") if down_key.startswith("lora_unet") else layer
    down, up = pair()
    tensors = {down_key.format(spelled): down, up_key.format(spelled): up}
    if alpha_key:
        tensors[alpha_key.format(spelled)] = torch.tensor(2.0)
    lora = read_lora(write(tmp_path / "l.safetensors", tensors), 0.8, SHAPES)
    assert lora.targets == {f"{layer}.weight"}
    weight = torch.randn(TINY.dim, TINY.dim)
    torch.testing.assert_close(lora.merge(f"{layer}.weight", weight), weight + 0.8 * factor * (up @ down))
    assert lora.merge("blocks.0.self_attn.q.weight", weight) is weight
    forced = read_lora(tmp_path / "l.safetensors", 0.8, SHAPES, use_alpha=True)
    applied = 0.5 if alpha_key else 1.0
    torch.testing.assert_close(forced.merge(f"{layer}.weight", weight), weight + 0.8 * applied * (up @ down))


def test_a_whole_file_as_published_changes_every_kind_of_layer(tmp_path: Path) -> None:
    """The kinds of keys in the public distillation files: pairs on linear layers and on the patch convolution,
    differences of biases and norms, inside and outside of the blocks; modulation differences are left out, as there."""
    g = torch.Generator().manual_seed(2)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    changed: dict[str, torch.Tensor] = {}
    tensors: dict[str, torch.Tensor] = {"diffusion_model.blocks.0.diff_m": random(1, 6, TINY.dim)}
    pairs = (
        "blocks.0.self_attn.k", "blocks.2.ffn.2", "blocks.1.cross_attn.v_img", "text_embedding.2", "time_projection.1",
        "img_emb.proj.1", "head.head", "patch_embedding",
    )  # fmt: skip
    for layer in pairs:
        rows, columns, *kernel = SHAPES[f"{layer}.weight"]
        down, up = random(4, columns, *kernel), random(rows, 4, *(1 for _ in kernel))
        tensors |= {f"diffusion_model.{layer}.lora_down.weight": down, f"diffusion_model.{layer}.lora_up.weight": up}
        tensors[f"diffusion_model.{layer}.diff_b"] = changed[f"{layer}.bias"] = random(rows)
        changed[f"{layer}.weight"] = (up.flatten(1) @ down.flatten(1)).view(SHAPES[f"{layer}.weight"])
    for layer in ("blocks.0.norm3", "blocks.0.cross_attn.norm_k_img", "blocks.2.self_attn.norm_q", "img_emb.proj.0"):
        tensors[f"diffusion_model.{layer}.diff"] = changed[f"{layer}.weight"] = random(*SHAPES[f"{layer}.weight"])
    lora = read_lora(write(tmp_path / "l.safetensors", tensors), 0.7, SHAPES)
    assert lora.ignored == ("diffusion_model.blocks.0.diff_m",)
    assert lora.targets == changed.keys()
    for name, difference in changed.items():
        weight = random(*SHAPES[name])
        torch.testing.assert_close(lora.merge(name, weight), weight + 0.7 * difference)


@pytest.mark.parametrize("quant", ["int8", "fp8"])
def test_a_lora_merges_into_8_bit_weights(tmp_path: Path, quant: str) -> None:
    """Near the plain model with the same LoRA, nearer by far than without it; also from a quantised file."""
    down, up = pair()
    path = write(
        tmp_path / "l.safetensors",
        {
            f"diffusion_model.blocks.{i}.{leaf}.lora_{half}.weight": tensor * 0.3
            for i in range(TINY.num_layers)
            for leaf in ("self_attn.q", "cross_attn.o")
            for half, tensor in (("down", down), ("up", up))
        },
    )
    parameters = dict(random_parameters(TINY))
    save_shards(parameters, tmp_path / "base", tmp_path / "adapter.safetensors", n_shards=2)
    tensors, quant_map = quantized_tensors(parameters, quant)
    save_file(tensors, tmp_path / "q.safetensors")
    (tmp_path / "q.json").write_text(json.dumps(quant_map))

    inputs = inputs_for(TINY)
    options = {"config": TINY, "dtype": torch.float32}
    base, adapter = tmp_path / "base", tmp_path / "adapter.safetensors"
    without = run(load_transformer(base, adapter, **options), inputs)
    wanted = run(load_transformer(base, adapter, **options, loras=[(path, 1.0)]), inputs)
    at_load = run(load_transformer(base, adapter, **options, quant=quant, loras=[(path, 1.0)]), inputs)
    from_file = run(load_transformer(tmp_path / "q.safetensors", **options, loras=[(path, 1.0)]), inputs)
    assert relative_error(without, wanted) > 0.3
    assert relative_error(at_load, wanted) < 0.15
    assert relative_error(from_file, wanted) < 0.15


def refused(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> str:
    with pytest.raises(WeightsError) as caught:
        read_lora(write(tmp_path / "bad.safetensors", tensors), 1.0, SHAPES)
    assert "bad.safetensors" in caught.value.detail
    return caught.value.detail


def test_files_that_do_not_fit_are_refused_by_name_and_key(tmp_path: Path) -> None:
    down, up = pair()
    q = "diffusion_model.blocks.0.self_attn.q"
    assert "changes nothing" in refused(tmp_path, {"blocks.0.modulation.diff_m": down})
    assert f"{q}.lora_down.weight without its up half" in refused(tmp_path, {f"{q}.lora_down.weight": down})
    assert "blocks.9.self_attn.q" in refused(tmp_path, {q.replace("0", "9", 1) + ".lora_down.weight": down})
    wrong = {f"{q}.lora_down.weight": down[:, :-1], f"{q}.lora_up.weight": up}
    assert "[64, 63]" in refused(tmp_path, wrong)
    mismatched = {f"{q}.lora_down.weight": down, f"{q}.lora_up.weight": up[:, :-1]}
    assert "another model" in refused(tmp_path, mismatched)
    assert "difference for blocks.0.self_attn.q.bias" in refused(tmp_path, {f"{q}.diff_b": down})
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_lora(tmp_path / "text.safetensors", 1.0, SHAPES)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_lora(tmp_path / "absent.safetensors", 1.0, SHAPES)


def test_styles_that_the_reference_ignores_are_read_or_refused() -> None:
    with pytest.raises(WeightsError, match=r"blocks\.0\.self_attn\.o\.lora_down\.weight without its up half"):
        read_lora(LORA / "ignored_styles.safetensors", 1.0, official_shapes(golden_config()))
