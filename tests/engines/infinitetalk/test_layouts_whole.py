"""Every layout goes through the whole engine, from files to frames, and meets the frames of the weights in float32."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_frames import frames_of
from infinitetalk_kit import create, request_for
from lipsync_server.bench.render_context import RecordingContext
from lipsync_server.engines.infinitetalk.loading.transformer_files import is_adapter
from lipsync_server.random_models import comfyui
from lipsync_server.random_models.infinitetalk import TINY, text_tensors
from lipsync_server.random_models.infinitetalk_transformer import random_parameters
from lipsync_server.random_models.other_layouts import save_single
from lipsync_server.settings import Settings
from model_layouts import LAYOUTS, TABLE, Save

# Rows of 256 numbers, so that GGUF's K blocks fit, and heads of 128, from which the loader reads their number.
MODEL = dataclasses.replace(TINY.transformer, dim=256, ffn_dim=512, num_heads=2, freq_dim=256)
PARAMETERS = dict(random_parameters(MODEL))
pytestmark = pytest.mark.usefixtures("small_pictures")
# Above this share of the difference between unrelated frames a layout would be read wrongly. The random decoder
# enlarges every error about a thousandfold, so coarse formats are close to the limit.
BOUND = 0.6


def frames(folder: Path, save: Save, ending: str) -> np.ndarray:
    """The frames of one short job with base and patch files that `save` writes, float32."""
    for part, of_adapter in (("base", False), ("patch", True)):
        path = folder / "models" / f"{part}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        save({name: value for name, value in PARAMETERS.items() if is_adapter(name) == of_adapter}, path)
    prompts = dict(text_tensors(TINY.text, torch.device("cpu")))
    comfyui.save_text(folder / "models" / "umt5.safetensors", "16 bits", prompts)
    comfyui.save_encoders(folder / "models")
    data = folder / "data"
    settings = Settings(_env_file=None, weights_dir=folder / "models", data_dir=data, device="cpu", preset="quality")
    engine = create(settings)
    try:
        return frames_of(engine, request_for(0.2, preset="quality"), RecordingContext(data)).astype(np.float32)
    finally:
        engine.close()


@pytest.fixture(scope="module")
def wanted(small_pictures: None, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    folder = tmp_path_factory.mktemp("float32")
    return frames(folder, lambda parameters, path: save_single(parameters, path, dtype=torch.float32), "safetensors")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_frames_are_those_of_the_same_weights_in_float32(layout: str, wanted: np.ndarray, tmp_path: Path) -> None:
    save, ending, _ = LAYOUTS[layout]
    difference = np.abs(frames(tmp_path, save, ending) - wanted).mean()
    unrelated = np.abs(np.roll(wanted, 37, axis=2) - wanted).mean()
    TABLE.note(f"whole engine, {layout}, share of unrelated frames", BOUND, float(difference / unrelated))
