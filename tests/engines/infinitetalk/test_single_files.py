"""The whole engine loads from a ComfyUI folder, with any file names."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_frames import frames_of
from infinitetalk_kit import create, request_for
from lipsync_server.bench.render_context import RecordingContext
from lipsync_server.engines.infinitetalk.files.encoders import find_encoders
from lipsync_server.engines.infinitetalk.files.recognise import recognise
from lipsync_server.engines.infinitetalk.files.transformers import choose_transformer, find_transformers
from lipsync_server.errors import WeightsError
from lipsync_server.models.encoders.tokenizer import sentencepiece_model
from lipsync_server.random_models import comfyui
from lipsync_server.random_models import infinitetalk as random_models
from lipsync_server.random_models.comfyui import FileSet
from lipsync_server.random_models.infinitetalk import TINY, Contents
from lipsync_server.random_models.infinitetalk_transformer import random_parameters
from lipsync_server.random_models.other_layouts import save_scaled_fp8, save_single
from lipsync_server.settings import Settings

# One head: no shape shows how many there are, so heads of single files are 128 wide, as in every published model.
SIZES = dataclasses.replace(TINY, transformer=dataclasses.replace(TINY.transformer, num_heads=1))
pytestmark = pytest.mark.usefixtures("small_pictures")
# The largest difference from the official files' frames, as a share of the difference between unrelated frames. The
# random decoder enlarges every error about a thousandfold.
SETS: dict[FileSet, float] = {"scaled fp8": 0.6, "GGUF": 0.35, "16 bits": 0.1}


def _settings(folder: Path, data: Path | None = None) -> Settings:
    return Settings(_env_file=None, weights_dir=folder, data_dir=data or folder / "data", device="cpu", preset="fast")


def _frames(folder: Path, data: Path) -> np.ndarray:
    engine = create(_settings(folder, data))
    engine.load()
    frames = frames_of(engine, request_for(0.2), RecordingContext(data))
    engine.close()
    return frames.astype(np.float32)


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official layout in 16 and 32 bits, with the ComfyUI files' tokenizer."""
    folder = tmp_path_factory.mktemp("official")
    random_models.write(folder, SIZES, contents=Contents(people=("single",), kinds=(), text=("bf16",)))
    tokenizer = folder / "Wan2.1-I2V-14B-480P" / "google" / "umt5-xxl"
    (tokenizer / "tokenizer.json").unlink()
    (tokenizer / "spiece.model").write_bytes(sentencepiece_model(comfyui.byte_pieces()))
    # The other encoders are the ComfyUI files in both: the writers draw other random numbers for CLIP, and a random
    # decoder makes rounding to bfloat16 as large as the picture. tests/models/test_encoder_files.py compares them.
    for name in ("models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth", "Wan2.1_VAE.pth"):
        (folder / "Wan2.1-I2V-14B-480P" / name).unlink()
    comfyui.save_encoders(folder / "clip")
    shutil.rmtree(folder / "chinese-wav2vec2-base")
    return folder


@pytest.mark.parametrize("files", SETS)
def test_a_comfyui_folder_renders_what_the_official_files_render(
    files: FileSet, official: Path, tmp_path: Path
) -> None:
    models = tmp_path / "ComfyUI" / "models"
    comfyui.write(models, files, SIZES)
    settings = _settings(models)
    [found] = find_transformers(settings)
    assert found.source == models / comfyui.BASES[files].format(kind="Q8_0")
    assert found.adapter == models / comfyui.PATCHES[files].format(kind="Q8_0")
    assert choose_transformer(settings, None, people="single", distilled=False)[0] == found
    wanted = _frames(official, tmp_path / "b")
    difference = np.abs(_frames(models, tmp_path / "a") - wanted).mean()
    unrelated = np.abs(np.roll(wanted, 37, axis=2) - wanted).mean()
    assert 0 < difference < SETS[files] * unrelated, (difference, unrelated)


def test_renamed_files_are_known_by_their_contents(tmp_path: Path) -> None:
    comfyui.write(tmp_path / "a", "scaled fp8")
    kinds = []
    for index, path in enumerate(sorted((tmp_path / "a").rglob("*.safetensors"))):
        renamed = tmp_path / f"{index}.safetensors"
        path.rename(renamed)
        kinds.append(recognise(renamed).kind)
    assert sorted(kinds) == ["base", "clip", "patch", "sound", "text", "vae"]
    assert find_encoders(_settings(tmp_path)).text.tokenizer.suffix == ".safetensors"
    [found] = find_transformers(_settings(tmp_path))
    assert found.quantization == "fp8"


def test_a_base_that_was_made_for_few_steps_is_known_by_its_name(tmp_path: Path) -> None:
    comfyui.write(tmp_path, "scaled fp8")
    [found] = find_transformers(_settings(tmp_path))
    assert not found.distilled
    assert any(
        "rough" in line for line in choose_transformer(_settings(tmp_path), None, people="single", distilled=True)[1]
    )
    found.source.rename(found.source.with_name("wan2.1_i2v_480p_scaled_fp8_e4m3_lightx2v_4step.safetensors"))
    [found] = find_transformers(_settings(tmp_path))
    assert found.distilled
    assert choose_transformer(_settings(tmp_path), None, people="single", distilled=True) == (found, ())
    _, warnings = choose_transformer(_settings(tmp_path), None, people="single", distilled=False)
    assert warnings == (
        "Preset quality was rendered with model files that were made for few steps: no others are here.",
    )


def test_models_of_the_same_family_are_not_mistaken_for_the_base(tmp_path: Path) -> None:
    parameters = {n: v for n, v in random_parameters(TINY.transformer) if "audio" not in n and "norm_x" not in n}
    text_to_video = {n: v for n, v in parameters.items() if "img" not in n}
    text_to_video["patch_embedding.weight"] = torch.zeros(64, 16, 1, 2, 2)
    others = {
        "wan2.1_t2v_14B_fp16": text_to_video,
        "wan2.1_i2v_720p_14B_fp16": parameters,
        "wan2.1_vace_14B": {**parameters, "vace_blocks.0.before_proj.weight": torch.zeros(2, 2)},
    }
    for name, tensors in others.items():
        path = tmp_path / f"{name}.safetensors"
        save_single(tensors, path)
        assert recognise(path).kind == "base"
        assert not recognise(path).is_usable, name
    save_single(
        {"decoder.head.0.gamma": torch.zeros(3), "conv2.weight": torch.zeros(48, 48)}, tmp_path / "v.safetensors"
    )
    assert "48" in recognise(tmp_path / "v.safetensors").remark
    (tmp_path / "broken.safetensors").write_bytes(b"12345")
    assert recognise(tmp_path / "broken.safetensors").kind == "damaged"
    assert find_transformers(_settings(tmp_path)) == []


def test_extra_model_paths_add_folders(tmp_path: Path) -> None:
    models, elsewhere = tmp_path / "ComfyUI" / "models", tmp_path / "big-disk"
    comfyui.write(models, "scaled fp8")
    elsewhere.mkdir()
    for name in ("diffusion_models", "text_encoders", "wav2vec2"):
        shutil.move(models / name, elsewhere / name)
    with pytest.raises(WeightsError, match=r"umt5_xxl_fp8_e4m3fn_scaled\.safetensors"):
        find_encoders(_settings(models))
    (tmp_path / "ComfyUI" / "extra_model_paths.yaml").write_text(
        f"comfyui:\n  base_path: {elsewhere}\n  is_default: true\n  diffusion_models: |\n    diffusion_models\n"
        "    unet\n  text_encoders: text_encoders\nother:\n  base_path: ../big-disk\n  wav2vec2: wav2vec2\n"
    )
    for folder in (models, tmp_path / "ComfyUI"):
        encoders = find_encoders(_settings(folder))
        assert encoders.text.weights.parent == elsewhere / "text_encoders"
        assert encoders.vae.name == "wan_2.1_vae.safetensors"
        assert len(find_transformers(_settings(folder))) == 1
    (tmp_path / "ComfyUI" / "extra_model_paths.yaml").write_text("a: [")
    with pytest.raises(WeightsError, match=r"extra_model_paths\.yaml cannot be read"):
        find_encoders(_settings(models))


def test_a_hugging_face_cache_serves_as_weights_folder(tmp_path: Path, official: Path) -> None:
    hub = tmp_path / "huggingface" / "hub"
    repositories = {
        "Wan-AI/Wan2.1-I2V-14B-480P": official / "Wan2.1-I2V-14B-480P",
        "MeiGen-AI/InfiniteTalk": official / "InfiniteTalk",
        "Comfy-Org/Wan_2.1_ComfyUI_repackaged": official / "clip",
    }
    for name, source in repositories.items():
        home = hub / f"models--{name.replace('/', '--')}"
        for revision in ("old", "new"):
            for path in sorted(source.rglob("*")):
                if path.is_file() and (revision == "new" or path.suffix == ".json"):
                    blob = home / "blobs" / str(abs(hash(path)))
                    link = home / "snapshots" / revision / path.relative_to(source)
                    for place in (blob, link):
                        place.parent.mkdir(parents=True, exist_ok=True)
                    if not blob.exists():
                        shutil.copy(path, blob)
                    link.symlink_to(blob)
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text("new")
    for folder in (hub, hub.parent):
        encoders = find_encoders(_settings(folder))
        assert "snapshots/new" in str(encoders.clip)
        assert [files.quantization for files in find_transformers(_settings(folder))] == ["none"]


def test_a_wrong_tensor_is_named_with_its_file(tmp_path: Path) -> None:
    comfyui.write(tmp_path, "scaled fp8")
    [files] = find_transformers(_settings(tmp_path))
    parameters = {n: v for n, v in random_parameters(TINY.transformer) if "audio" not in n and "norm_x" not in n}
    parameters["blocks.1.ffn.0.bias"] = torch.zeros(5)
    save_scaled_fp8(parameters, files.source)
    engine = create(_settings(tmp_path))
    with pytest.raises(WeightsError, match=rf"{files.source.name}: blocks\.1\.ffn\.0\.bias is \[5\]"):
        engine.load()
    text = find_encoders(_settings(tmp_path)).text.weights
    header = json.loads(text.read_bytes()[8 : 8 + int.from_bytes(text.read_bytes()[:8], "little")])
    assert "encoder.block.0.layer.0.SelfAttention.q.scale_weight" in header
    text.write_bytes(text.read_bytes()[:-40])
    with pytest.raises(WeightsError, match=rf"{text.name} is truncated: .* should end at byte"):
        find_encoders(_settings(tmp_path))
        create(_settings(tmp_path)).load()
