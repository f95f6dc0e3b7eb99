"""Image tokens: the vision tower against golden tokens."""

import pytest
import torch
from infinitetalk_golden import CPU, FILES, error, golden, golden_path, meets
from lipsync_server.models.encoders.clip import ImageEncoder, preprocess


@pytest.mark.parametrize("index", FILES.cases("L_extra/clip_case.safetensors"))
def test_tokens_come_from_before_the_last_block(index: str) -> None:
    case = golden("L_extra/clip_case.safetensors")
    path = golden_path("L_extra/clip_tiny.safetensors")
    encoder = ImageEncoder.load(path, device=CPU, dtype=torch.float32, n_heads=4)
    picture = case[f"{index}.image"][0, :, 0]
    meets(f"L clip {index} preprocessed", preprocess(picture, 56), case[f"{index}.preprocessed"], 1e-4)
    with torch.inference_mode():
        tokens = encoder.encode(picture)
    meets(f"L clip {index} tokens", tokens, case[f"{index}.tokens"][0], 1e-4)
    assert error(tokens, case[f"{index}.tokens_if_all_blocks_ran"][0]) > 0.1
