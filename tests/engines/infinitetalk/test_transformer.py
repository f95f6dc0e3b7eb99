"""The transformer computes the reference's function: outputs, and every part of a block, for one and two people."""

from pathlib import Path

import pytest
import torch
from infinitetalk_golden import golden_path, meets, within
from lipsync_server.bench.clock import relative_error
from lipsync_server.engines.infinitetalk.loading.transformer_files import fill_transformer
from lipsync_server.engines.infinitetalk.model.blocks import speaker_key_positions, speaker_positions
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.engines.infinitetalk.model.transformer import EmbeddedCondition, InfiniteTalkTransformer
from lipsync_server.errors import WeightsError
from lipsync_server.models.kernels.rope import rotate, speaker_table, video_table
from lipsync_server.models.layers.linear_8bit import QuantizedLinear
from lipsync_server.random_models.infinitetalk_transformer import random_parameters, random_transformer
from safetensors.torch import load_file
from sampled import differences
from transformer_golden import (
    CASES,
    TINY,
    golden_case,
    golden_config,
    golden_model,
    golden_parameters,
    inputs_for,
    run,
)

Case = dict[str, torch.Tensor]


def parts_of(model: InfiniteTalkTransformer) -> dict[str, torch.nn.Module]:
    names = {
        "block0.norm1": "blocks.0.norm1",
        "block0.self_attn.norm_q": "blocks.0.self_attn.norm_q",
        "block0.self_attn": "blocks.0.self_attn",
        "block0.norm3": "blocks.0.norm3",
        "block0.text_image_cross_attn": "blocks.0.cross_attn",
        "block0.norm_x": "blocks.0.norm_x",
        "block0.audio_cross_attn": "blocks.0.audio_cross_attn",
        "block0.norm2": "blocks.0.norm2",
        "block0.ffn": "blocks.0.ffn",
        "block0.out": "blocks.0",
        "block1.out": "blocks.1",
        "head": "head",
    }
    return {label: model.get_submodule(name) for label, name in names.items()}


def check_case(
    label: str,
    model: InfiniteTalkTransformer,
    conditioning: EmbeddedCondition,
    latent: torch.Tensor,
    case: Case,
    n_people: int,
) -> None:
    """Run one golden case and compare every stored intermediate value at its stated tolerance."""
    seen: dict[str, torch.Tensor | tuple[torch.Tensor, ...]] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
        for name, module in parts_of(model).items()
    ]
    seen["output"] = model(latent, case["in.t"], conditioning)
    for hook in hooks:
        hook.remove()
    attended, regions = seen["block0.self_attn"]
    seen["block0.self_attn"] = attended
    e, e0 = model.embed_time(case["in.t"])
    seen |= {"text_embedding": conditioning.text.tokens, "img_emb": conditioning.image.tokens}
    seen["patch_embedding"] = model.embed_patches(latent).t()
    if n_people == 2:
        seen["block0.x_ref_attn_map"] = regions
        seen["block0.rope1d_q_pos"] = speaker_positions(regions)
        n_tokens = conditioning.audio.shape[1]
        seen["block0.rope1d_k_pos"] = speaker_key_positions(n_tokens, latent.device).repeat(latent.shape[1])
    compared = 0
    for name, got in seen.items():
        wanted = case.get(f"out.{name}")
        if wanted is not None:
            tolerance = 2e-3 if "rope1d" in name else 1e-4
            assert isinstance(got, torch.Tensor)
            meets(f"{label} {name}", got.reshape(wanted.shape), wanted, tolerance)
            compared += 1
    assert compared >= 12
    meets(f"{label} e", e, case["out.e"], 1e-5)
    meets(f"{label} e0", e0.reshape(-1), case["out.e0"].reshape(-1), 1e-5)


@pytest.mark.parametrize(("shape", "n_people"), CASES)
def test_every_golden_case_matches_from_raw_inputs(shape: int, n_people: int) -> None:
    model = golden_model()
    case, given = golden_case(shape, n_people)
    conditioning = model.embed_condition(**{name: given[name] for name in ("text", "image_tokens", "audio", "masks")})
    label = f"A shape{shape} human{n_people}"
    if "out.audio_proj" in case:
        tokens = conditioning.audio.unflatten(1, (n_people, -1)).transpose(0, 1)
        meets(f"{label} audio_proj", tokens, case["out.audio_proj"], 1e-4)
    check_case(label, model, conditioning, given["latent"], case, n_people)


def test_silent_audio_matches_the_reference() -> None:
    model = golden_model()
    case, given = golden_case(0, 1)
    wanted = load_file(golden_path("A_dit/case_shape0_human1_nullaudio.safetensors"))
    conditioning = model.embed_condition(
        text=given["text"], image_tokens=given["image_tokens"], audio=torch.zeros_like(given["audio"])
    )
    seen: dict[str, torch.Tensor] = {"audio_proj": conditioning.audio[None]}
    model.get_submodule("blocks.0.audio_cross_attn").register_forward_hook(
        lambda _, __, out: seen.__setitem__("block0.audio_cross_attn", out[None])
    )
    seen["output"] = model(given["latent"], case["in.t"], conditioning)[None]
    for name, got in seen.items():
        meets(f"A shape0 human1 silent {name}", got, wanted[f"out.{name}"], 1e-4)


@pytest.mark.parametrize(("n_people", "limit"), [(1, 0.02), (2, 0.1)])
def test_bfloat16_stays_near_the_emulated_gpu_run(n_people: int, limit: float) -> None:
    model = fill_transformer(golden_parameters().items(), golden_config(), dtype=torch.bfloat16)
    case, given = golden_case(0, n_people)
    # The file holds these three in bfloat16, so nothing is rounded here.
    halves = {name: given[name].bfloat16() for name in ("text", "image_tokens", "audio")}
    out = model(given["latent"], case["in.t"], model.embed_condition(**halves, masks=given["masks"]))
    assert out.dtype == torch.float32
    difference = differences(out, case["out_bf16.output"][0])
    within(f"A shape0 human{n_people} bf16 output, rms", float(difference.square().mean().sqrt()), limit)
    if n_people == 1:
        within("A shape0 human1 bf16 output, largest", float(difference.max()), 0.15)


def test_keys_and_values_are_made_once_per_window() -> None:
    model = random_transformer(TINY, dtype=torch.float32)
    inputs = inputs_for(TINY)
    conditioning = model.embed_condition(**{k: inputs[k] for k in ("text", "image_tokens", "audio", "masks")})
    first = model(inputs["latent"], inputs["timestep"], conditioning)
    made = [layer.text.k for layer in conditioning.layers if layer]
    assert len(made) == TINY.num_layers
    second = model(inputs["latent"], inputs["timestep"], conditioning)
    assert all(layer and layer.text.k is k for layer, k in zip(conditioning.layers, made, strict=True))
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    model.cache_context = False
    bare = model.embed_condition(**{k: inputs[k] for k in ("text", "image_tokens", "audio", "masks")})
    torch.testing.assert_close(model(inputs["latent"], inputs["timestep"], bare), first, atol=0, rtol=0)
    assert bare.layers == [None] * TINY.num_layers
    assert bare.text.layers == bare.image.layers == [None] * TINY.num_layers


def test_keys_and_values_of_prompt_and_picture_serve_every_window() -> None:
    model = random_transformer(TINY, dtype=torch.float32)
    inputs = inputs_for(TINY)
    text, image = model.embed_text(inputs["text"]), model.embed_image(inputs["image_tokens"])
    sounds = inputs["audio"], inputs["audio"].flip(1)
    outs = []
    for audio in sounds:
        window = model.embed_condition(text=text, image_tokens=image, audio=audio, masks=inputs["masks"])
        outs.append(model(inputs["latent"], inputs["timestep"], window))
        made = [(layer.text.k, layer.image.v) for layer in window.layers if layer]
        kept = [(a.k, b.v) for a, b in zip(text.layers, image.layers, strict=True) if a and b]
        assert len(made) == TINY.num_layers
        assert all(x is y for one, two in zip(made, kept, strict=True) for x, y in zip(one, two, strict=True))
    for audio, out in zip(sounds, outs, strict=True):
        alone = model.embed_condition(
            text=inputs["text"], image_tokens=inputs["image_tokens"], audio=audio, masks=inputs["masks"]
        )
        torch.testing.assert_close(model(inputs["latent"], inputs["timestep"], alone), out, atol=0, rtol=0)
    assert not torch.equal(*outs)


@pytest.mark.parametrize("n_people", [1, 2])
def test_the_block_is_one_graph_for_the_compiler(n_people: int) -> None:
    """torch.compile of a GPU run must not break the graph; tracing shows that on a CPU too."""
    plain = random_transformer(TINY, dtype=torch.float32, quant="int8")
    compiled = random_transformer(TINY, dtype=torch.float32, quant="int8")
    for model in (plain, compiled):
        for module in model.modules():
            if isinstance(module, QuantizedLinear):
                module.activations = "dynamic"
    compiled.compile_blocks(backend="aot_eager")
    inputs = inputs_for(TINY, n_people)
    assert relative_error(run(compiled, inputs), run(plain, inputs)) < 2e-2


def test_wrong_inputs_are_refused_in_words() -> None:
    model = random_transformer(TINY, dtype=torch.float32)
    inputs = inputs_for(TINY, 2)
    with pytest.raises(ValueError, match="masks are needed"):
        run(model, {name: value for name, value in inputs.items() if name != "masks"})
    with pytest.raises(ValueError, match="empty"):
        run(model, inputs | {"masks": torch.zeros(3, 4, 6)})
    with pytest.raises(ValueError, match="4n \\+ 1"):
        run(model, inputs | {"audio": inputs["audio"][:, :-1]})
    with pytest.raises(ValueError, match="at most 8"):
        run(model, inputs | {"text": torch.zeros(9, TINY.text_dim)})
    with pytest.raises(ValueError, match="audio was given for 3"):
        run(model, inputs | {"latent": torch.zeros(36, 4, 4, 6)})


def test_rotation_is_the_complex_product_of_the_paper() -> None:
    table = video_table((2, 3, 4), 16)
    x = torch.randn(24, 2, 16, generator=torch.Generator().manual_seed(1))
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
    turned = torch.polar(torch.ones_like(table.cos.double()), torch.atan2(table.sin.double(), table.cos.double()))
    wanted = torch.view_as_real(pairs * turned[:, None]).flatten(-2)
    torch.testing.assert_close(rotate(x, table).double(), wanted, atol=1e-6, rtol=0)
    assert torch.equal(speaker_table(torch.zeros(1), 8).cos, torch.ones(1, 4))


def test_config_reads_the_official_file_and_names_each_fault(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(WeightsError, match="missing"):
        TransformerConfig.from_json(path)
    path.write_text('{"dim": 5120, "model_type": "i2v", "num_heads": 40, "_class_name": "WanModel"}')
    assert TransformerConfig.from_json(path) == TransformerConfig()
    path.write_text('{"dim": 5120, "num_heads": 41}')
    with pytest.raises(WeightsError, match="num_heads"):
        TransformerConfig.from_json(path)
    path.write_text("{")
    with pytest.raises(WeightsError, match="JSON"):
        TransformerConfig.from_json(path)


def test_random_weights_keep_activations_in_range() -> None:
    model = random_transformer(TINY, dtype=torch.float32)
    out = run(model, inputs_for(TINY))
    assert torch.isfinite(out).all()
    assert 0.05 < float(out.std()) < 20
    names = [name for name, _ in random_parameters(TINY)]
    assert len(names) == len(set(names))
