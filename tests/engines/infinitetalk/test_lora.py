"""LoRA files: every spelling merges to the same weights, the reference's files to the reference's weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitetalk_golden import golden_path, meets, within
from lipsync_server.bench.clock import relative_error
from lipsync_server.engines.infinitetalk.loading.lora import merge_all, read_lora
from lipsync_server.engines.infinitetalk.loading.transformer_files import load_transformer, official_shapes
from lipsync_server.errors import WeightsError
from lipsync_server.models.tensor_files.quanto import quantized_tensors
from lipsync_server.quantization import EightBit
from lipsync_server.random_models.infinitetalk_transformer import random_parameters, save_shards
from safetensors.torch import load_file, save_file
from transformer_golden import (
    SMALL,
    TINY,
    golden_case,
    golden_config,
    golden_parameters,
    inputs_for,
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
    differences of biases, norms and the blocks' modulation, inside and outside of the blocks."""
    g = torch.Generator().manual_seed(2)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    changed: dict[str, torch.Tensor] = {"blocks.0.modulation": random(1, 6, TINY.dim)}
    tensors: dict[str, torch.Tensor] = {"diffusion_model.blocks.0.diff_m": changed["blocks.0.modulation"]}
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
    assert lora.ignored == ()
    assert lora.targets == changed.keys()
    for name, difference in changed.items():
        weight = random(*SHAPES[name])
        torch.testing.assert_close(lora.merge(name, weight), weight + 0.7 * difference)


@pytest.mark.parametrize("quant", ["int8", "fp8"])
def test_a_lora_merges_into_8_bit_weights(tmp_path: Path, quant: EightBit) -> None:
    """Near the plain model with the same LoRA and far from the model without it; also from a quantised file."""
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
    options: dict[str, Any] = {"config": TINY, "dtype": torch.float32}
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
    assert "changes nothing" in refused(tmp_path, {"blocks.0.self_attn.q.unheard_of": down})
    assert f"{q}.lora_down.weight without its up half" in refused(tmp_path, {f"{q}.lora_down.weight": down})
    assert "blocks.9.self_attn.q" in refused(tmp_path, {q.replace("0", "9", 1) + ".lora_down.weight": down})
    wrong = {f"{q}.lora_down.weight": down[:, :-1], f"{q}.lora_up.weight": up}
    assert "[64, 63]" in refused(tmp_path, wrong)
    mismatched = {f"{q}.lora_down.weight": down, f"{q}.lora_up.weight": up[:, :-1]}
    assert "do not fit together" in refused(tmp_path, mismatched)
    assert "difference for blocks.0.self_attn.q.bias" in refused(tmp_path, {f"{q}.diff_b": down})
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(WeightsError, match=r"text\.safetensors is not a complete safetensors file"):
        read_lora(tmp_path / "text.safetensors", 1.0, SHAPES)
    with pytest.raises(WeightsError, match=r"absent\.safetensors is missing"):
        read_lora(tmp_path / "absent.safetensors", 1.0, SHAPES)


def test_styles_that_the_reference_ignores_are_read_or_refused() -> None:
    with pytest.raises(WeightsError, match=r"blocks\.0\.self_attn\.o\.lora_down\.weight without its up half"):
        read_lora(LORA / "ignored_styles.safetensors", 1.0, official_shapes(golden_config()))


SPELLINGS = {
    "lora_unet__blocks_1_cross_attn_k_img": "blocks.1.cross_attn.k_img",
    "lora_unet_blocks_1.self_attn.o": "blocks.1.self_attn.o",
    "pipe.dit.blocks.0.ffn.2": "blocks.0.ffn.2",
    "base_model.model.blocks.0.ffn.0": "blocks.0.ffn.0",
    "model.diffusion_model.blocks.0.cross_attn.q": "blocks.0.cross_attn.q",
    "transformer.blocks.0.attn1.to_q": "blocks.0.self_attn.q",
    "transformer.blocks.0.attn1.to_out.0": "blocks.0.self_attn.o",
    "blocks.2.attn2.add_k_proj": "blocks.2.cross_attn.k_img",
    "blocks.2.attn2.add_v_proj": "blocks.2.cross_attn.v_img",
    "blocks.2.attn2.to_v": "blocks.2.cross_attn.v",
    "transformer.blocks.1.ffn.net.0.proj": "blocks.1.ffn.0",
    "transformer.blocks.1.ffn.net.2": "blocks.1.ffn.2",
    "lycoris_blocks_1_attn2_to_out_0": "blocks.1.cross_attn.o",
    "lycoris_blocks_1_ffn_net_0_proj": "blocks.1.ffn.0",
    "lora_transformer_blocks_0_attn1_to_k": "blocks.0.self_attn.k",
    "transformer.condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "transformer.condition_embedder.time_proj": "time_projection.1",
    "transformer.proj_out": "head.head",
}


@pytest.mark.parametrize("spelled", SPELLINGS)
@pytest.mark.parametrize("halves", ["lora_down lora_up", "lora_A lora_B", "lora_A.default lora_B.default"])
def test_spellings_of_other_programs_change_the_official_layer(tmp_path: Path, spelled: str, halves: str) -> None:
    name = f"{SPELLINGS[spelled]}.weight"
    rows, columns = SHAPES[name]
    down, up = torch.randn(3, columns), torch.randn(rows, 3)
    first, second = halves.split()
    tensors = {f"{spelled}.{first}.weight": down, f"{spelled}.{second}.weight": up, f"{spelled}.alpha": torch.tensor(6)}
    lora = read_lora(write(tmp_path / "l.safetensors", tensors), 0.5, SHAPES)
    assert set(lora.targets) == {name}
    assert not lora.ignored
    weight = torch.randn(rows, columns)
    torch.testing.assert_close(lora.merge(name, weight), weight + 0.5 * 2 * (up @ down))


def test_parts_for_text_encoders_and_vace_are_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    down, up = pair()
    q = "diffusion_model.blocks.0.self_attn.q"
    tensors = {f"{q}.lora_A.weight": down, f"{q}.lora_B.weight": up}
    others = ("lora_te_encoder_block_0_q.lora_down.weight", "diffusion_model.vace_blocks.0.ffn.0.lora_A.weight")
    lora = read_lora(write(tmp_path / "l.safetensors", tensors | {key: down.clone() for key in others}), 1.0, SHAPES)
    assert sorted(lora.ignored) == sorted(others)
    assert "l.safetensors" in caplog.text
    assert all(key in caplog.text for key in others)


@pytest.mark.parametrize("key", ["dora_scale", "lora_magnitude_vector", "lora_magnitude_vector.default.weight"])
def test_dora_gives_each_row_the_length_that_the_file_states(tmp_path: Path, key: str) -> None:
    down, up = pair()
    q, name = "diffusion_model.blocks.0.self_attn.q", "blocks.0.self_attn.q.weight"
    lengths = torch.rand(TINY.dim) + 0.5
    tensors = {f"{q}.lora_A.weight": down, f"{q}.lora_B.weight": up, f"{q}.{key}": lengths}
    path, weight = write(tmp_path / "l.safetensors", tensors), torch.randn(TINY.dim, TINY.dim)
    moved = weight + up @ down
    wanted = torch.stack([row * length / row.norm() for row, length in zip(moved, lengths, strict=True)])
    torch.testing.assert_close(read_lora(path, 1.0, SHAPES).merge(name, weight), wanted)
    torch.testing.assert_close(read_lora(path, 0.5, SHAPES).merge(name, weight), (weight + wanted) / 2)
    columns = torch.rand(1, TINY.dim) + 0.5
    path = write(tmp_path / "c.safetensors", tensors | {f"{q}.{key}": columns})
    torch.testing.assert_close(read_lora(path, 1.0, SHAPES).merge(name, weight).norm(dim=0), columns[0])


def test_lokr_adds_the_kronecker_product(tmp_path: Path) -> None:
    layer, name = "lycoris_blocks_0_attn1_to_q", "blocks.0.self_attn.q.weight"
    w1, left, right = torch.randn(4, 8), torch.randn(16, 2), torch.randn(2, 8)
    weight = torch.randn(TINY.dim, TINY.dim)
    whole = {f"{layer}.lokr_w1": w1, f"{layer}.lokr_w2": left @ right, f"{layer}.alpha": torch.tensor(9.0)}
    parts = {
        f"{layer}.lokr_w1": w1, f"{layer}.lokr_w2_a": left, f"{layer}.lokr_w2_b": right,
        f"{layer}.alpha": torch.tensor(4.0),
    }  # fmt: skip
    product = torch.einsum("ij,kl->ikjl", w1, left @ right).reshape(TINY.dim, TINY.dim)
    for tensors, factor in ((whole, 1.0), (parts, 2.0)):
        lora = read_lora(write(tmp_path / "l.safetensors", tensors), 0.5, SHAPES)
        torch.testing.assert_close(lora.merge(name, weight), weight + 0.5 * factor * product)
    assert "without lokr_w2" in refused(tmp_path, {f"{layer}.lokr_w1": w1})


def test_a_magnitude_that_does_not_fit_is_named(tmp_path: Path) -> None:
    down, up = pair()
    q = "diffusion_model.blocks.0.self_attn.q"
    both = {f"{q}.lora_down.weight": down, f"{q}.lora_up.weight": up}
    assert f"{q}.dora_scale" in refused(tmp_path, both | {f"{q}.dora_scale": torch.ones(7)})
    assert "changes nothing" in refused(tmp_path, {"lora_te_block_0_q.lora_down.weight": down})
