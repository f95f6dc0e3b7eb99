"""8-bit weights: rounding as optimum-quanto does it, published-layout files, and products that compute in 8 bits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitetalk_golden import FILES, golden_path, meets, within
from lipsync_server.bench.clock import relative_error
from lipsync_server.engines.infinitetalk.loading.transformer_files import load_transformer
from lipsync_server.engines.infinitetalk.model.transformer import InfiniteTalkTransformer
from lipsync_server.models.kernels.product_8bit import multiply_8bit
from lipsync_server.models.kernels.rounding import dequantize_rows, quantize_rows
from lipsync_server.models.layers.linear_8bit import Activations, QuantizedLinear, linear_in, replace_linears
from lipsync_server.models.sampling.sampler import euler_step, timesteps
from lipsync_server.quantization import EightBit, Quantization
from lipsync_server.random_models.infinitetalk_transformer import random_transformer
from safetensors.torch import load_file, save_file
from torch import nn
from transformer_golden import (
    CASES,
    SMALL,
    TINY,
    golden_case,
    golden_config,
    golden_model,
    golden_parameters,
    inputs_for,
)
from transformer_golden import run as forward


@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.parametrize("base", ["f32", "bf16"])
def test_rounding_reproduces_optimum_quanto_exactly(kind: EightBit, base: str) -> None:
    golden = load_file(SMALL / "single_linear.safetensors")
    data, scale = quantize_rows(golden[f"{base}.weight"], kind)
    meets(f"F rounding {base} to {kind}, scale", scale, golden[f"{base}.{kind}._scale"].float(), 0)
    meets(f"F rounding {base} to {kind}, data", data, golden[f"{base}.{kind}._data"].float(), 0)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_exact_product_is_data_times_scale(kind: EightBit) -> None:
    golden = load_file(SMALL / "single_linear.safetensors")
    layer = QuantizedLinear(48, 40, kind=kind)
    layer.data.copy_(golden[f"f32.{kind}._data"])
    layer.scale.copy_(golden[f"f32.{kind}._scale"])
    assert layer.bias is not None
    layer.bias.copy_(golden["f32.bias"])
    meets(f"F linear layer {kind}", layer(golden["f32.x"]), golden[f"f32.{kind}.y"], 1e-5)


@pytest.mark.parametrize(("kind", "limit"), [("int8", 0.012), ("fp8", 0.045)])
def test_eight_bit_product_is_near_the_plain_one(kind: EightBit, limit: float) -> None:
    """Rounded weights and rounded activations, normal values of a real width."""
    g = torch.Generator().manual_seed(3)
    weight, x = torch.randn(256, 512, generator=g), torch.randn(64, 512, generator=g)
    bias = torch.randn(256, generator=g)
    data, scale = quantize_rows(weight, kind)
    assert relative_error(multiply_8bit(x, data, scale, bias, kind), x @ weight.t() + bias) < limit


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_rows_of_zeros_and_outliers_survive(kind: EightBit) -> None:
    x = torch.tensor([[0.0, 0.0, 0.0], [1e30, 1.0, -1e30], [1e-30, 2e-30, 0.0]])
    data, scale = quantize_rows(x, kind)
    back = dequantize_rows(data, scale, torch.float32)
    assert torch.isfinite(back).all()
    assert torch.equal(back[0], x[0])
    torch.testing.assert_close(back[1], torch.tensor([1e30, 0.0, -1e30]), rtol=1e-3, atol=1e28)


def test_layers_are_replaced_by_name_and_give_the_same_function() -> None:
    model = nn.Sequential(nn.Linear(32, 16), nn.GELU(), nn.Linear(16, 8))
    x = torch.randn(5, 32)
    plain = model(x).detach()
    assert replace_linears(model, lambda name, _: "int8" if name == "0" else None) == 1
    assert isinstance(model[0], QuantizedLinear)
    assert isinstance(model[2], nn.Linear)
    assert 0 < relative_error(model(x).detach(), plain) < 0.02
    torch.testing.assert_close(linear_in(model[0], x), model[0](x))


@pytest.mark.parametrize(("kind", "limit"), [("int8", 0.05), ("fp8", 0.15)])
@pytest.mark.parametrize("dynamic", [False, True])
def test_whole_model_in_8_bits_stays_near_the_plain_one(kind: EightBit, limit: float, dynamic: bool) -> None:
    inputs = inputs_for(TINY)
    plain = forward(random_transformer(TINY, dtype=torch.float32), inputs)
    model = random_transformer(TINY, dtype=torch.float32, quant=kind)
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    assert len(layers) == 13 * TINY.num_layers
    for layer in layers:
        layer.activations = "dynamic" if dynamic else "exact"
    assert 1e-4 < relative_error(forward(model, inputs), plain) < limit


def _published_cases() -> list[tuple[str, int, int]]:
    """(kind, shape, number of people) of the golden outputs that are here."""
    names = FILES.present("F_quant/dit_tiny_{}.safetensors", ["int8", "fp8"])
    stored = load_file(golden_path("F_quant/outputs.safetensors"))
    return [
        (kind, shape, n_people)
        for kind in names
        for shape, n_people in CASES
        if f"{kind}.shape{shape}_human{n_people}.output_float32" in stored
    ]


@pytest.mark.parametrize(("kind", "shape", "n_people"), _published_cases())
def test_published_layout_gives_the_reference_output(tmp_path: Path, kind: EightBit, shape: int, n_people: int) -> None:
    """float32 with exact products. The fp8 file holds some layers only; the others come from the plain model."""
    tensors = load_file(golden_path(f"F_quant/dit_tiny_{kind}.safetensors"))
    quant_map = golden_path(f"F_quant/dit_tiny_{kind}.json").read_text()
    if kind == "fp8":
        plain = golden_parameters()
        tensors |= {n: t for n, t in plain.items() if n.startswith(("img_emb.", "audio_proj."))}
        assert not any(name.startswith(("img_emb.", "time_")) for name in json.loads(quant_map))
    save_file(tensors, tmp_path / "quant.safetensors")
    (tmp_path / "quant.json").write_text(quant_map)
    model = load_transformer(tmp_path / "quant.safetensors", config=golden_config(), dtype=torch.float32)

    golden = load_file(golden_path("F_quant/outputs.safetensors"))
    case, given = golden_case(shape, n_people)
    seen: dict[str, torch.Tensor] = {}
    model.blocks[0].register_forward_hook(lambda _, __, out: seen.__setitem__("block", out))
    out = forward(model, given)
    name = f"{kind}.shape{shape}_human{n_people}"
    meets(f"F {name} output", out, golden[f"{name}.output_float32"][0], 1e-4)
    meets(f"F {name} block0.out", seen["block"], golden[f"{name}.block0.out"][0], 1e-4)
    meets(f"F {name} e0", model.embed_time(case["in.t"])[1].reshape(1, -1), golden[f"{name}.e0"], 1e-4)


@pytest.mark.parametrize(("kind", "limit"), [("int8", 0.02), ("fp8", 0.08)])
def test_products_in_8_bits_on_a_golden_case(kind: EightBit, limit: float) -> None:
    """Weights and activations of the blocks rounded as on a GPU: relative L2 after one forward and after 4 steps."""
    golden, inputs = golden_case(0, 1)
    plain = after_4_steps(golden_model(), inputs)
    model = golden_model()
    assert replace_linears(model, lambda name, _: kind if name.startswith("blocks.") else None) > 0
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            module.activations = "dynamic"
    one = relative_error(forward(model, inputs), golden["out.output"][0])
    within(f"F {kind} products, relative L2, one forward", one, limit)
    within(f"F {kind} products, relative L2, 4 steps", relative_error(after_4_steps(model, inputs), plain), limit)


def test_fp8_weights_rounded_anew_to_int8_are_nearer_than_fp8_products(tmp_path: Path) -> None:
    """A card without fp8, or with slower fp8, loads the published fp8 file as int8: relative L2 of one forward.

    The same weights multiplied as floats set the bound that fp8 files have on any card.
    """
    tensors = load_file(golden_path("F_quant/dit_tiny_fp8.safetensors"))
    plain = golden_parameters()
    tensors |= {n: t for n, t in plain.items() if n.startswith(("img_emb.", "audio_proj."))}
    save_file(tensors, tmp_path / "quant.safetensors")
    (tmp_path / "quant.json").write_text(golden_path("F_quant/dit_tiny_fp8.json").read_text())
    golden, inputs = golden_case(0, 1)

    def error(quant: Quantization, activations: Activations) -> float:
        model = load_transformer(
            tmp_path / "quant.safetensors", config=golden_config(), dtype=torch.float32, quant=quant
        )
        layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
        assert {layer.kind for layer in layers} == {"fp8" if quant == "none" else quant}
        for layer in layers:
            layer.activations = activations
        return relative_error(forward(model, inputs), golden["out.output"][0])

    exact, fp8, anew = error("none", "exact"), error("none", "dynamic"), error("int8", "dynamic")
    within("F fp8 file rounded anew to int8, relative L2, one forward", anew, 0.04)
    assert exact < anew < fp8


def after_4_steps(model: InfiniteTalkTransformer, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The latent (16, T, h, w) that the preset fast's four Euler steps make of the case's."""
    latent: torch.Tensor
    latent, y = inputs["latent"].split((16, inputs["latent"].shape[0] - 16))
    levels = timesteps(4, 2.0)
    for step in range(4):
        velocity = forward(
            model, inputs | {"latent": torch.cat((latent, y)), "timestep": levels[step : step + 1].float()}
        )
        latent = euler_step(latent, velocity, levels[step], levels[step + 1])
    return latent


def test_a_compiled_layer_gives_no_fp8_to_the_compiler_where_the_device_has_no_fp8() -> None:
    """Below compute capability 8.9, and on a CPU, fp8 is converted by torch's own kernels and not by compiled ones."""
    layer = QuantizedLinear.from_linear(torch.nn.Linear(32, 16), "fp8")
    x, seen = torch.randn(3, 32), []

    def keep(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        seen.append(graph)
        return graph.forward

    compiled = torch.compile(layer, backend=keep, fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    (graph,) = seen
    users = {
        str(user.target)
        for node in graph.graph.nodes
        if getattr(node.meta.get("example_value"), "dtype", None) == torch.float8_e4m3fn
        for user in node.users
    }
    assert users == {"lipsync.fp8_to_float.default"}
