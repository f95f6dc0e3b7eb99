"""LoRA files per job: exact after any number of switches, names only, and few steps known for what they are."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from infinitetalk_kit import frames_of, request_for
from lipsync_server.bench.render_context import RecordingContext
from lipsync_server.engines.infinitetalk.engine import create
from lipsync_server.engines.infinitetalk.loading.switch_lora import switch_loras
from lipsync_server.engines.infinitetalk.loading.transformer_files import load_transformer
from lipsync_server.engines.infinitetalk.lora_choice import server_loras
from lipsync_server.engines.infinitetalk.model.offload import Offload
from lipsync_server.engines.infinitetalk.model.transformer import InfiniteTalkTransformer
from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.errors import InvalidInput
from lipsync_server.quantization import Quantization
from lipsync_server.random_models import comfyui
from lipsync_server.random_models.comfyui import FileSet
from lipsync_server.random_models.infinitetalk import TINY
from lipsync_server.random_models.other_layouts import save_single
from lipsync_server.settings import Settings
from pydantic import ValidationError
from torch import Tensor

CPU = torch.device("cpu")
DIM = TINY.transformer.dim


def write_lora(path: Path, seed: int, *layers: str) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for layer in layers or ("blocks.0.self_attn.q", "blocks.1.cross_attn.o", "blocks.1.self_attn.v"):
        tensors[f"diffusion_model.{layer}.lora_A.weight"] = torch.randn(4, DIM, generator=generator)
        tensors[f"diffusion_model.{layer}.lora_B.weight"] = torch.randn(DIM, 4, generator=generator)
    tensors[f"diffusion_model.blocks.{seed % 2}.norm3.diff"] = torch.randn(DIM, generator=generator)
    save_single(tensors, path, dtype=torch.float32)
    return path


@pytest.mark.parametrize(
    ("files", "quant", "offload"),
    [("scaled fp8", "fp8", "none"), ("GGUF", "int8", 1), ("16 bits", "none", "blocks"), ("16 bits", "int8", "none")],
)
def test_weights_are_bit_for_bit_those_of_a_fresh_load_after_ten_switches(
    files: FileSet, quant: Quantization, offload: Offload, tmp_path: Path
) -> None:
    comfyui.write(tmp_path, files)
    base, patch = (tmp_path / names[files].format(kind="Q8_0") for names in (comfyui.BASES, comfyui.PATCHES))
    first, second = (write_lora(tmp_path / f"{seed}.safetensors", seed) for seed in (1, 2))
    sets = [[], [(first, 1.0)], [(second, 0.5)], [(first, -0.7), (second, 1.0)], [(first, 0.3)]]

    def load(loras: list[tuple[Path, float]]) -> dict[str, Tensor]:
        model = load_transformer(
            base, patch, config=TINY.transformer, dtype=torch.float32, quant=quant, loras=loras, offload=offload
        )
        return held(model)

    def held(model: InfiniteTalkTransformer) -> dict[str, Tensor]:
        """All weights; streamed blocks as they come through the device's buffers."""
        found = {name: value.clone() for name, value in model.named_parameters() if not name.startswith("blocks.")}
        for index, block in enumerate(model.runner):
            found |= {f"blocks.{index}.{name}": value.clone() for name, value in block.named_parameters()}
        return found

    fresh = [load(loras) for loras in sets]
    assert any(not torch.equal(fresh[0][name].view(torch.uint8), fresh[1][name].view(torch.uint8)) for name in fresh[0])
    model = load_transformer(base, patch, config=TINY.transformer, dtype=torch.float32, quant=quant, offload=offload)
    for turn in range(10):
        choice = (turn * 3 + 1) % len(sets)
        switch_loras(
            model, base, patch, config=TINY.transformer, loras=sets[choice], device=CPU, dtype=torch.float32
        )  # fmt: skip
        for name, value in held(model).items():
            assert torch.equal(value.view(torch.uint8), fresh[choice][name].view(torch.uint8)), (turn, name)
    assert switch_loras(model, base, patch, config=TINY.transformer, loras=[], device=CPU, dtype=torch.float32) > 0
    for name, value in held(model).items():
        assert torch.equal(value.view(torch.uint8), fresh[0][name].view(torch.uint8)), name


@pytest.fixture
def models(tmp_path: Path) -> Path:
    comfyui.write(tmp_path / "models", "16 bits")
    (tmp_path / "models" / "Wan2.1-I2V-14B-480P").mkdir()
    config = {"_class_name": "WanModel", "model_type": "i2v", **dataclasses.asdict(TINY.transformer)}
    (tmp_path / "models" / "Wan2.1-I2V-14B-480P" / "config.json").write_text(json.dumps(config))
    (tmp_path / "owners").mkdir()
    write_lora(tmp_path / "owners" / "style.safetensors", 5)
    write_lora(tmp_path / "owners" / "my_lightx2v_4steps.safetensors", 6)
    return tmp_path / "models"


def _settings(models: Path, lora: Sequence[str] = ()) -> Settings:
    return Settings(
        _env_file=None, weights_dir=models, data_dir=models.parent / "data", device="cpu", preset="fast",
        lora_dir=models.parent / "owners", lora=list(lora),
    )  # fmt: skip


@pytest.mark.usefixtures("small_pictures")
def test_a_job_has_its_own_files_and_the_next_job_has_none_of_them(models: Path) -> None:
    engine = create(_settings(models))
    engine.load()
    context = RecordingContext(models.parent)
    plain = frames_of(engine, request_for(0.2, preset="quality"), context)
    style = [{"name": "style", "scale": 0.8}]
    styled = frames_of(engine, request_for(0.2, preset="quality", loras=style), RecordingContext(models.parent))
    again = frames_of(engine, request_for(0.2, preset="quality"), RecordingContext(models.parent))
    assert (plain == again).all()
    assert (plain != styled).any()
    rough = RecordingContext(models.parent)
    frames_of(engine, request_for(0.2, loras=style), rough)
    assert any("rough" in warning for warning in rough.warnings)
    fast = RecordingContext(models.parent)
    frames_of(engine, request_for(0.2, loras=[{"name": "my_lightx2v_4steps"}]), fast)
    assert not any("rough" in warning for warning in fast.warnings)
    with pytest.raises(InvalidInput, match=r"no LoRA named 'other' here; there are: my_lightx2v_4steps, style"):
        frames_of(engine, request_for(0.2, loras=[{"name": "other"}]), RecordingContext(models.parent))
    engine.close()


@pytest.mark.parametrize("name", ["../style", "/etc/passwd", "a\\b", ".hidden", "", "a/b", "a\nb"])
def test_a_job_names_files_and_no_paths(name: str) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate({"loras": [{"name": name}]})


def test_few_steps_are_known_by_name_by_shape_or_declared(models: Path) -> None:
    owners = models.parent / "owners"
    style = owners / "style.safetensors"
    assert [one.distilled for one in server_loras(_settings(models, lora=[f"{style}:0.5"]))] == [False]
    [declared] = server_loras(_settings(models, lora=[f"{style}:0.5:distilled"]))
    assert (declared.distilled, declared.scale) == (True, 0.5)
    named = owners / "my_lightx2v_4steps.safetensors"
    assert server_loras(_settings(models, lora=[str(named)]))[0].distilled
    biases = {
        f"diffusion_model.blocks.0.{layer}.diff_b": torch.zeros(DIM)
        for layer in ("self_attn.q", "ffn.0", "cross_attn.k_img")
    }
    save_single(biases, owners / "plain.safetensors")
    assert server_loras(_settings(models, lora=[str(owners / "plain.safetensors")]))[0].distilled
    # Below the weights folder one is found by itself.
    assert server_loras(_settings(models)) == ()
    write_lora(models / "lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors", 7)
    [found] = server_loras(_settings(models))
    assert found.distilled
