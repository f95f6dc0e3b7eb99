"""The prompt: cleaning, the streamed text encoder, quantised files and the cache on disk."""

import json
import os
from pathlib import Path

import pytest
import torch
from infinitetalk_golden import CPU, equal, error, golden, golden_json, meets
from lipsync_server.errors import WeightsError
from lipsync_server.models.encoders import text, text_cache
from lipsync_server.models.encoders.text_files import TextFiles
from lipsync_server.models.tensor_files.quanto import quantized_tensors
from lipsync_server.quantization import EightBit
from safetensors.torch import save_file


def test_prompts_are_cleaned_as_in_the_reference() -> None:
    for case in golden_json("L_extra/prompt_cleaning.json")["cases"]:
        equal(f"L prompt cleaned to {case['cleaned'][:20]!r}", text.clean_prompt(case["raw"]), case["cleaned"])


def test_the_negative_prompt_equals_the_references() -> None:
    assert golden_json("L_extra/pipeline_config.json")["sample_neg_prompt"] == text.NEGATIVE_PROMPT


def _rows() -> list[list[int]]:
    case = golden("L_extra/t5_case.safetensors")
    return [row[mask.bool()].tolist() for row, mask in zip(case["ids"], case["mask"], strict=True)]


def test_the_encoder_streamed_layer_by_layer_meets_the_golden_rows() -> None:
    case = golden("L_extra/t5_case.safetensors")
    weights = golden("L_extra/t5_tiny.safetensors")
    ours = text.run_encoder(weights, _rows(), device=CPU, dtype=torch.float32, source="t5")
    for index, embedding in enumerate(ours):
        meets(f"L t5 context {index}", embedding, case[f"context{index}"], 1e-4)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_quanto_file_with_its_map_is_read_as_data_times_scale(tmp_path: Path, kind: EightBit) -> None:
    weights = golden("L_extra/t5_tiny.safetensors")
    keep = ("token_embedding", "blocks.0.pos_embedding", "blocks.1.pos_embedding", "blocks.2.pos_embedding")
    data, quant_map = quantized_tensors(weights, kind, keep=keep)
    save_file(data, tmp_path / "t5.safetensors")
    (tmp_path / "map.json").write_text(json.dumps(quant_map))
    files = TextFiles(tmp_path / "t5.safetensors", tmp_path, tmp_path / "map.json")
    plain = {
        name: data[f"{name}._data"].float() * data[f"{name}._scale"] if f"{name}._data" in data else tensor
        for name, tensor in weights.items()
    }
    ours = text.run_encoder(text.read_weights(files), _rows(), device=CPU, dtype=torch.float32, source="t5")
    expected = text.run_encoder(plain, _rows(), device=CPU, dtype=torch.float32, source="t5")
    assert max(error(a, b) for a, b in zip(ours, expected, strict=True)) < 1e-5


def test_a_missing_layer_names_file_and_key() -> None:
    weights = golden("L_extra/t5_tiny.safetensors")
    del weights["blocks.1.ffn.fc2.weight"]
    with pytest.raises(WeightsError, match=r"t5\.pth.*blocks\.1\.ffn\.fc2\.weight"):
        text.run_encoder(weights, _rows(), device=CPU, dtype=torch.float32, source="t5.pth")


def test_a_prompt_seen_before_is_answered_from_the_cache(tiny_weights: Path, tmp_path: Path) -> None:
    base = tiny_weights / "Wan2.1-I2V-14B-480P"
    weights = tmp_path / "t5.pth"
    weights.write_bytes((base / "models_t5_umt5-xxl-enc-bf16.pth").read_bytes())
    files = TextFiles(weights, base / "google" / "umt5-xxl")
    encoder = text.TextEncoder(files, device=CPU, dtype=torch.float32, cache=tmp_path / "cache")
    first = encoder.encode([text.clean_prompt("a  man  talks"), "rain"])
    assert first[0].shape[0] == len("a man talks") + 1, "one token a byte and the end token"
    stat = weights.stat()
    weights.write_bytes(b"\0" * stat.st_size)  # From here on every read of this file fails.
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = encoder.encode(["a man talks", "rain"])
    assert max(error(a, b) for a, b in zip(again, first, strict=True)) == 0
    with pytest.raises(WeightsError, match=r"t5\.pth"):
        encoder.encode(["a new prompt"])


def test_the_cache_on_disk_keeps_the_prompts_used_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_cache, "MAX_ENTRIES", 3)
    weights = tmp_path / "t5.pth"
    weights.write_bytes(b"weights")
    cache = text_cache.EmbeddingCache(tmp_path / "cache", weights)
    for age, prompt in enumerate("abc"):
        cache.put(prompt, torch.full((2, 4), float(age)))
        os.utime(cache._path(prompt), (1_000_000 + age, 1_000_000 + age))
    assert cache.get("a") is not None, "which makes it the one used last"
    unfinished = tmp_path / "cache" / "left-by-a-killed-process.1.part"
    unfinished.write_bytes(b"half")
    os.utime(unfinished, (1_000_000, 1_000_000))
    cache.put("d", torch.ones(2, 4))
    assert [prompt for prompt in "abcd" if cache.get(prompt) is not None] == ["a", "c", "d"]
    assert len(list((tmp_path / "cache").iterdir())) == 3
    assert text_cache.EmbeddingCache(tmp_path / "cache", weights).get("d") is not None
    cache._path("d").write_bytes(b"damaged")
    assert cache.get("d") is None
    weights.write_bytes(b"other weights")
    assert cache.get("a") is None, "made by other weights"
