"""`lipsync weights scan` names the model of each file, the missing files, and the one download that completes them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lipsync_server.cli import app
from lipsync_server.random_models import comfyui
from lipsync_server.random_models.infinitetalk import TINY
from lipsync_server.random_models.other_layouts import save_single
from lipsync_server.weights.manifest import load_manifest
from typer.testing import CliRunner

LORA = "lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors"


def _scan(folder: Path) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["weights", "scan", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def _write_lora(path: Path, dim: int) -> None:
    layer = "diffusion_model.blocks.0.self_attn.q"
    save_single({f"{layer}.lora_A.weight": torch.ones(4, dim), f"{layer}.lora_B.weight": torch.ones(dim, 4)}, path)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    comfyui.write(tmp_path / "models", "scaled fp8")
    return tmp_path / "models"


def test_a_complete_folder_serves_quality_and_needs_a_lora_for_few_steps(models: Path) -> None:
    found = _scan(models)
    assert found["presets"] == ["quality"]
    assert found["missing"] == []
    assert found["download"] == (
        f"lipsync weights pull infinitetalk-scaled-fp8 --only lightx2v-lora --weights-dir {models}"
    )
    _write_lora(models / "loras" / "some_style.safetensors", TINY.transformer.dim)
    assert _scan(models)["presets"] == ["quality"]
    _write_lora(models / "loras" / "of_another_model" / LORA, 48)
    assert _scan(models)["presets"] == ["quality"]
    _write_lora(models / "loras" / LORA, TINY.transformer.dim)
    assert _scan(models)["presets"] == ["quality", "balanced", "fast"]
    assert _scan(models)["download"] is None


def test_missing_files_are_named_with_the_one_download_that_has_them(models: Path) -> None:
    for part in ("vae", "clip_vision", "wav2vec2", "text_encoders"):
        for path in (models / part).iterdir():
            path.unlink()
    (models / "vae" / "broken.safetensors").write_bytes(b"no header")
    found = _scan(models)
    assert found["presets"] == []
    command = str(found["download"])
    names = command.partition("--only ")[2].partition(" ")[0].split(",")
    assert names == ["comfy-umt5-fp8", "comfy-clip", "comfy-vae", "kijai-sound", "lightx2v-lora"]
    assert len(load_manifest().files_named(names)) == len(names)
    [broken] = [file for file in found["files"] if file["kind"] == "damaged"]
    assert "broken.safetensors" in broken["remark"]


def test_the_lines_for_a_person_name_every_file_and_the_next_step(models: Path) -> None:
    result = CliRunner().invoke(app, ["weights", "scan", str(models)])
    for path in models.rglob("*.safetensors"):
        assert path.name in result.output
    assert "presets: quality" in result.output
    assert "To complete it: lipsync weights pull" in result.output
    nowhere = CliRunner().invoke(app, ["weights", "scan", str(models / "nowhere")])
    assert nowhere.exit_code != 0
    assert "is no folder" in nowhere.output


def test_files_of_other_engines_are_named_with_the_download_of_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "my weights"
    manifest = load_manifest()
    files = manifest.profile_files("sadtalker-256")
    place = manifest.local_path(files[0], folder)
    place.parent.mkdir(parents=True)
    with place.open("wb") as made:
        made.truncate(files[0].size_bytes)
    [other] = [each for each in _scan(folder)["other_engines"] if each["profile"] == "sadtalker-256"]
    assert (other["engine"], other["here"], other["files"]) == ("sadtalker", 1, len(files))
    assert other["download"] == f"lipsync weights pull sadtalker-256 --weights-dir '{folder}'"
    shown = CliRunner().invoke(app, ["weights", "scan", str(folder)]).output
    assert f"engine sadtalker: profile sadtalker-256, 1 of {len(files)} files; the rest: lipsync weights pull" in shown
    assert f"--weights-dir '{folder}'" in shown
    for file in files[1:]:
        with manifest.local_path(file, folder).open("wb") as made:
            made.truncate(file.size_bytes)
    shown = CliRunner().invoke(app, ["weights", "scan", str(folder)]).output
    assert "engine sadtalker: profile sadtalker-256, complete" in shown
