"""Random model files: the official names at the published sizes, and files that stream tensor by tensor."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from infinitetalk_golden import golden_json
from lipsync_server.engines.infinitetalk.files.encoders import find_encoders
from lipsync_server.engines.infinitetalk.files.transformers import choose_transformer
from lipsync_server.models.tensor_files.quanto import quantized_tensors
from lipsync_server.models.tensor_files.writer import write_tensors
from lipsync_server.random_models import infinitetalk as random_models
from lipsync_server.random_models.infinitetalk import FP8_FEW_STEPS, FULL
from lipsync_server.random_models.infinitetalk_transformer import layout_of
from lipsync_server.settings import Settings
from safetensors.torch import load_file

TENSORS = {
    "narrow": torch.arange(6, dtype=torch.int8).view(2, 3),
    "wide": torch.arange(4, dtype=torch.float32),
    "half": torch.arange(5, dtype=torch.bfloat16),
    "number": torch.tensor(2.5),
    "eighth": torch.tensor([1.0, -2.0, 0.5]).to(torch.float8_e4m3fn),
}


def test_a_streamed_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file.safetensors", TENSORS, TENSORS.items())
    read = load_file(tmp_path / "file.safetensors")
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name].float(), tensor.float())


def _without(name: str) -> Iterator[tuple[str, torch.Tensor]]:
    return ((other, tensor) for other, tensor in TENSORS.items() if other != name)


def test_a_stream_that_is_not_as_announced_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    with pytest.raises(ValueError, match="1 tensors never came, the first is half"):
        write_tensors(path, TENSORS, _without("half"))
    with pytest.raises(ValueError, match="wide is not as announced"):
        write_tensors(path, TENSORS, [("wide", torch.zeros(5))])
    with pytest.raises(ValueError, match="other is not as announced"):
        write_tensors(path, TENSORS, [("other", torch.zeros(4))])
    with pytest.raises(ValueError, match="wide is not as announced"):
        write_tensors(path, TENSORS, [("wide", TENSORS["wide"])] * 2)


def test_it_is_the_same_to_the_bit_each_time(tmp_path: Path) -> None:
    written = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        random_models.write(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        written.append({path.relative_to(folder): hashlib.sha256(path.read_bytes()).digest() for path in files})
    assert written[0] == written[1]


def _contract(name: str) -> dict[str, tuple[int, ...]]:
    keys = golden_json(f"{name}.json.gz")["keys"]
    return {key: tuple(entry["shape"]) for key, entry in keys.items()}


def test_the_full_size_is_the_published_one() -> None:
    meta = torch.device("meta")
    text = {name: tuple(t.shape) for name, t in random_models.text_tensors(FULL.text, meta)}
    assert text == _contract("K_contract/umt5_xxl_encoder")
    transformer = layout_of(FULL.transformer, torch.bfloat16)
    assert {name: tuple(t.shape) for name, t in transformer.items()} == _contract("transformer/official_names")
    stored, quant_map = quantized_tensors(transformer, "fp8", FULL.plain_layers)
    assert len(quant_map) == 612
    assert sum(t.numel() * t.dtype.itemsize for t in stored.values()) == pytest.approx(18.9e9, rel=0.01)


def test_the_smallest_set_of_files_serves_a_preset_of_few_steps(tmp_path: Path) -> None:
    random_models.write(tmp_path, contents=FP8_FEW_STEPS)
    settings = Settings(_env_file=None, weights_dir=tmp_path, preset="fast")
    files, warnings = choose_transformer(settings, None, people="single", distilled=True)
    assert (files.number_format, files.distilled, warnings) == ("fp8", True, ())
    assert find_encoders(settings).text.quant_map is not None
