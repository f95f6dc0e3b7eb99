"""LoRA files per job: exact after any number of switches, names only, and step-distilled files are recognised."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from engine_frames import frames_of
from infinitetalk_kit import request_for
from lipsync_server.bench.render_context import RecordingContext
from lipsync_server.engines.ask import Ask
from lipsync_server.engines.base import ResumePoint
from lipsync_server.engines.infinitetalk.engine import create
from lipsync_server.engines.infinitetalk.loading.switch_lora import switch_loras
from lipsync_server.engines.infinitetalk.loading.transformer_files import load_transformer
from lipsync_server.engines.infinitetalk.lora_choice import server_loras
from lipsync_server.engines.infinitetalk.model.offload import Offload
from lipsync_server.engines.infinitetalk.model.transformer import InfiniteTalkTransformer
from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.engines.options import choose_options
from lipsync_server.errors import InvalidInput
from lipsync_server.quantization import Quantization
from lipsync_server.random_models import comfyui
from lipsync_server.random_models.comfyui import FileSet
from lipsync_server.random_models.infinitetalk import TINY
from lipsync_server.random_models.other_layouts import save_single
from lipsync_server.settings import Settings
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
        """All weights. Streamed blocks are read from the device's buffers, as a forward reads them."""
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
    with pytest.raises(InvalidInput, match=r"no LoRA named 'other' here; there are: my_lightx2v_4steps, style\."):
        frames_of(engine, request_for(0.2, loras=[{"name": "other"}]), RecordingContext(models.parent))
    engine.close()


def _chosen(models: Path, *loras: object) -> Options:
    ask = Ask(options={"preset": "quality", "loras": list(loras)})
    chosen = choose_options("infinitetalk", Options, ask, _settings(models)).options
    assert isinstance(chosen, Options)
    return chosen


def _refusal(models: Path, *loras: object) -> str:
    """The sentence with which a job that names these files is not accepted; it names no folder of the server."""
    with pytest.raises(InvalidInput) as caught:
        _chosen(models, *loras)
    assert str(models.parent) not in caught.value.detail
    return caught.value.detail


@pytest.mark.parametrize("name", ["../style", "/etc/passwd", "a\\b", ".hidden", "..", "a/b", "a\nb"])
def test_a_job_names_files_and_no_paths(name: str, models: Path) -> None:
    assert "should be the name of a file in the owner's folder, without a path" in _refusal(models, {"name": name})


def test_a_wrong_lora_name_is_refused_with_the_names_that_exist(models: Path) -> None:
    owners = models.parent / "owners"
    assert _chosen(models, {"name": "style.safetensors"}).loras[0].scale == 1.0
    detail = _refusal(models, {"name": "stile"})
    assert detail == "There is no LoRA named 'stile' here; there are: my_lightx2v_4steps, style. Did you mean 'style'?"
    assert "loras.0.scale of engine infinitetalk cannot be 9" in _refusal(models, {"name": "style", "scale": 9})
    assert "loras.0.scale" in _refusal(models, {"name": "style", "scale": "much"})
    assert "has no field 'strength'; it has: name, scale" in _refusal(models, {"name": "style", "strength": 1})
    assert "loras.0 of engine infinitetalk cannot be 5: it should be an object of fields" in _refusal(models, 5)
    wanted = _chosen(models, {"name": "style", "scale": 1}).loras
    assert _chosen(models, "style").loras == wanted
    for alone in ("style", {"name": "style"}):
        assert Options.model_validate({"loras": alone}).loras == wanted
    assert "loras.0.name" in _refusal(models, {"scale": 1})
    assert "loras" in _refusal(models, *[{"name": "style"}] * 9)
    (owners / "styles").mkdir()
    write_lora(owners / "styles" / "style.safetensors", 1)
    assert "2 LoRA files here are named 'style'" in _refusal(models, {"name": "style"})


def test_a_file_that_is_no_lora_for_this_model_is_named_and_not_offered(models: Path) -> None:
    owners = models.parent / "owners"
    save_single({"conv.weight": torch.zeros(2)}, owners / "other.safetensors")
    (owners / "notes.safetensors").write_text("shopping")
    layer = "diffusion_model.blocks.0.self_attn.q"
    wide = {f"{layer}.lora_A.weight": torch.zeros(4, 48), f"{layer}.lora_B.weight": torch.zeros(48, 4)}
    save_single(wide, owners / "wide.safetensors")
    flux = "transformer.single_transformer_blocks.0.attn.to_q"
    save_single({f"{flux}.lora_A.weight": torch.zeros(4, DIM)}, owners / "flux.safetensors")
    save_single({f"{layer}.oft_R.weight": torch.zeros(4, 9)}, owners / "peft.safetensors")
    assert "other.safetensors is no LoRA file" in _refusal(models, {"name": "other"})
    assert "notes.safetensors is damaged" in _refusal(models, {"name": "notes"})
    assert f"made for a model of width 48; the one here has {DIM}" in _refusal(models, {"name": "wide"})
    assert f"flux.safetensors changes a layer that this model does not have ({flux}" in _refusal(
        models, {"name": "flux"}
    )
    assert "part of OFT as PEFT writes it, which is not read" in _refusal(models, {"name": "peft"})
    offered = _refusal(models, {"name": "nothing"})
    assert "my_lightx2v_4steps" in offered
    assert all(name not in offered for name in ("other", "notes", "wide"))


def test_a_link_out_of_the_owners_folder_is_refused_and_one_inside_is_not(models: Path, tmp_path: Path) -> None:
    owners, secret = models.parent / "owners", write_lora(tmp_path / "secret.safetensors", 3)
    (owners / "out.safetensors").symlink_to(secret)
    assert "out.safetensors is a link to a file outside of the server's LoRA folder" in _refusal(
        models, {"name": "out"}
    )
    assert "out" not in _refusal(models, {"name": "nothing"}).partition("there are:")[2]
    (owners / "inside").mkdir()
    write_lora(owners / "inside" / "real.safetensors", 3)
    assert _chosen(models, {"name": "real"}).loras[0].name == "real"


def test_without_a_folder_of_the_owner_no_job_names_files(models: Path) -> None:
    settings = _settings(models).model_copy(update={"lora_dir": None})
    ask = Ask(options={"loras": [{"name": "style"}]})
    with pytest.raises(InvalidInput, match="offers no LoRA files; its owner can name a folder with LIPSYNC_LORA_DIR"):
        choose_options("infinitetalk", Options, ask, settings)
    gone = settings.model_copy(update={"lora_dir": models / "nowhere"})
    with pytest.raises(InvalidInput, match=r"\(LIPSYNC_LORA_DIR\) is not there"):
        choose_options("infinitetalk", Options, ask, gone)


@pytest.mark.usefixtures("small_pictures")
def test_a_resumed_job_still_has_its_lora(models: Path) -> None:
    """The second engine makes the frames after the resume point as the first would have made them."""
    style = [{"name": "style", "scale": 0.8}]
    whole = RecordingContext(models.parent)
    engine = create(_settings(models))
    wanted = frames_of(engine, request_for(0.88, preset="quality", loras=style), whole)
    plain = frames_of(engine, request_for(0.88, preset="quality"), RecordingContext(models.parent))
    engine.close()
    again = RecordingContext(models.parent, resume_point=ResumePoint(13, whole.saved[0]))
    after = create(_settings(models))
    rest = frames_of(after, request_for(0.88, preset="quality", loras=style), again)
    after.close()
    assert len(rest) == 9
    assert (rest == wanted[13:]).all()
    assert (rest != plain[13:]).any()


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
    # A LoRA below the weights folder is found without being named.
    assert server_loras(_settings(models)) == ()
    write_lora(models / "lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors", 7)
    [found] = server_loras(_settings(models))
    assert found.distilled
