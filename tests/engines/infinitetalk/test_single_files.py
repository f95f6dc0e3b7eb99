"""A folder with ComfyUI's single files of the transformer serves the whole engine."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from infinitetalk_kit import frames_of, request_for
from lipsync_server.bench.render_context import RecordingContext
from lipsync_server.engines.infinitetalk.engine import create
from lipsync_server.engines.infinitetalk.loading.transformer_files import is_adapter
from lipsync_server.engines.infinitetalk.published import choose_transformer, find_transformers
from lipsync_server.random_models import infinitetalk as random_models
from lipsync_server.random_models.infinitetalk import TINY, Contents
from lipsync_server.random_models.infinitetalk_transformer import random_parameters
from lipsync_server.random_models.other_layouts import save_gguf, save_scaled_fp8, save_single
from lipsync_server.settings import Settings

pytestmark = pytest.mark.usefixtures("small_pictures")
ENCODERS_ONLY = Contents(people=(), shards=False, kinds=(), text=("bf16",))
# The published files' names, and the largest difference from the official files' frames, as a share of
# the difference between unrelated frames.
SETS = {
    "scaled fp8": (
        "diffusion_models/Wan2_1-I2V-14B-480p_fp8_e4m3fn_scaled_KJ.safetensors",
        "diffusion_models/InfiniteTalk/Wan2_1-InfiniteTalk-Single_fp8_e4m3fn_scaled_KJ.safetensors",
        0.5,
    ),
    "GGUF": ("unet/wan2.1-i2v-14b-480p-Q8_0.gguf", "unet/Wan2_1-InfiniteTalk_Single_Q8.gguf", 0.25),
    "fp16 with a patch": (
        "models/diffusion_models/wan2.1_i2v_480p_14B_fp16.safetensors",
        "models/model_patches/wan2.1_infiniteTalk_single_fp16.safetensors",
        0.05,
    ),
}


def _frames(folder: Path, data: Path) -> np.ndarray:
    settings = Settings(_env_file=None, weights_dir=folder, data_dir=data, device="cpu", preset="fast")
    engine = create(settings)
    engine.load()
    frames = frames_of(engine, request_for(0.2), RecordingContext(data))
    engine.close()
    return frames.astype(np.float32)


@pytest.mark.parametrize("name", SETS)
def test_single_files_render_what_the_official_ones_render(name: str, tmp_path: Path) -> None:
    base, patch, bound = SETS[name]
    ours, official = tmp_path / "ours", tmp_path / "official"
    random_models.write(ours, contents=ENCODERS_ONLY)
    shutil.copytree(ours, official)
    random_models.write(official, contents=Contents(people=("single",), kinds=(), text=("bf16",)))
    parameters = dict(random_parameters(TINY.transformer))
    parts = {
        base: {n: value for n, value in parameters.items() if not is_adapter(n)},
        patch: {n: value for n, value in parameters.items() if is_adapter(n)},
    }
    for part, tensors in parts.items():
        path = ours / part
        if path.suffix == ".gguf":
            save_gguf(tensors, path, "Q8_0")
        elif "fp8" in path.name:
            save_scaled_fp8(tensors, path)
        else:
            save_single(tensors, path, dtype=torch.float16)
    settings = Settings(_env_file=None, weights_dir=ours)
    [files] = find_transformers(settings)
    assert (files.source, files.adapter) == (ours / base, ours / patch)
    assert choose_transformer(settings, None, people="single", distilled=False)[0] == files
    wanted = _frames(official, tmp_path / "b")
    difference = np.abs(_frames(ours, tmp_path / "a") - wanted).mean()
    # The random decoder enlarges every error about a thousandfold; unrelated frames show how far that can go.
    unrelated = np.abs(np.roll(wanted, 37, axis=2) - wanted).mean()
    assert 0 < difference < bound * unrelated, (difference, unrelated)
