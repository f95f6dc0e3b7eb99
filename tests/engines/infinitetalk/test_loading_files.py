"""Published files load completely or not at all: names, layouts, streaming to host or device, and clear refusals."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitetalk_golden import equal
from lipsync_server.bench.clock import relative_error
from lipsync_server.engines.infinitetalk.loading.transformer_files import (
    is_adapter,
    load_transformer,
    official_shapes,
)
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.engines.infinitetalk.model.offload import streamed_indices
from lipsync_server.engines.infinitetalk.model.transformer import InfiniteTalkTransformer
from lipsync_server.errors import WeightsError
from lipsync_server.models.tensor_files.joined_qkv import place_of
from lipsync_server.models.tensor_files.quanto import quantized_tensors
from lipsync_server.quantization import EightBit
from lipsync_server.random_models.infinitetalk_transformer import (
    random_parameters,
    random_transformer,
    save_shards,
)
from safetensors.torch import load_file, save_file
from transformer_golden import SMALL, TINY, inputs_for, run

OFFICIAL = json.loads(gzip.decompress((SMALL / "official_names.json.gz").read_bytes()))["keys"]


@pytest.fixture(scope="module")
def parameters() -> dict[str, torch.Tensor]:
    return dict(random_parameters(TINY))


@pytest.fixture
def plain(tmp_path: Path, parameters: dict[str, torch.Tensor]) -> Path:
    """A folder in the published layout: config.json, seven shards, and adapter.safetensors."""
    save_shards(parameters, tmp_path, tmp_path / "adapter" / "infinitetalk.safetensors")
    sizes = {name: getattr(TINY, name) for name in TINY.__dataclass_fields__}
    (tmp_path / "config.json").write_text(json.dumps(sizes | {"_class_name": "WanModel"}))
    return tmp_path


def load_plain(folder: Path, **options: Any) -> InfiniteTalkTransformer:
    return load_transformer(
        folder, folder / "adapter" / "infinitetalk.safetensors", **({"dtype": torch.float32} | options)
    )


def save_quantized(
    folder: Path, parameters: dict[str, torch.Tensor], kind: EightBit, keep: tuple[str, ...] = ()
) -> Path:
    tensors, quant_map = quantized_tensors(parameters, kind, keep)
    save_file(tensors, folder / f"model_{kind}.safetensors")
    (folder / f"model_{kind}.json").write_text(json.dumps(quant_map))
    return folder / f"model_{kind}.safetensors"


def test_official_names_are_ours_with_nothing_missing_and_nothing_left_over() -> None:
    shapes = official_shapes(TransformerConfig())
    theirs = {name: tuple(entry["shape"]) for name, entry in OFFICIAL.items()}
    equal(f"K dit_infinitetalk_14B: {len(theirs)} names and shapes", shapes, theirs)
    assert {name for name in shapes if is_adapter(name)} == {
        name for name, entry in OFFICIAL.items() if entry["file"] == "infinitetalk"
    }


def test_every_official_tensor_has_a_place_and_no_parameter_stays_empty() -> None:
    with torch.device("meta"):
        model = InfiniteTalkTransformer(TransformerConfig())
    filled: dict[str, int] = {}
    for name, entry in OFFICIAL.items():
        place = place_of(name)
        target: torch.Tensor = model.get_parameter(f"{place.module}.{place.parameter}")
        target = target if place.part is None else target.chunk(3)[place.part]
        assert list(target.shape) == entry["shape"], name
        key = f"{place.module}.{place.parameter}"
        filled[key] = filled.get(key, 0) + target.numel()
    assert filled == {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert sum(filled.values()) == 16_394_878_784 + 2_487_168_000


def test_shards_and_adapter_give_the_model_they_were_written_from(plain: Path) -> None:
    inputs = inputs_for(TINY)
    seen: list[tuple[int, int]] = []
    model = load_plain(plain, progress=lambda done, total: seen.append((done, total)))
    wanted = random_transformer(TINY, dtype=torch.float32)
    assert torch.equal(run(model, inputs), run(wanted, inputs))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] > 0


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_quantised_file_alone_is_enough_and_its_map_is_honoured(
    tmp_path: Path, parameters: dict[str, torch.Tensor], kind: EightBit
) -> None:
    """Layers without an entry in the map stay plain, even one of q, k and v; the rest equals rounding at load."""
    inputs = inputs_for(TINY)
    wanted = run(random_transformer(TINY, dtype=torch.float32), inputs)
    keep = ("time_", "img_emb", "blocks.1.self_attn.k", "audio_proj")
    model = load_transformer(save_quantized(tmp_path, parameters, kind, keep), config=TINY, dtype=torch.float32)
    assert 0 < relative_error(run(model, inputs), wanted) < 0.15
    plain = model.get_submodule("blocks.1.self_attn.qkv")
    assert type(plain).__name__ == "Linear"
    assert torch.equal(plain.get_parameter("weight").chunk(3)[1], parameters["blocks.1.self_attn.k.weight"])
    assert type(model.get_submodule("blocks.0.self_attn.qkv")).__name__ == "QuantizedLinear"
    assert type(model.time_projection[1]).__name__ == "Linear"


def test_without_its_map_a_file_is_read_by_its_own_tensors(tmp_path: Path, parameters: dict[str, torch.Tensor]) -> None:
    """WanGP publishes optimum-quanto's layout without a map beside the file."""
    inputs = inputs_for(TINY)
    path = save_quantized(tmp_path, parameters, "int8")
    wanted = run(load_transformer(path, config=TINY, dtype=torch.float32), inputs)
    path.with_suffix(".json").unlink()
    model = load_transformer(path, config=TINY, dtype=torch.float32, quant="int8")
    assert relative_error(run(model, inputs), wanted) < 0.03


def damage(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(WeightsError) as caught:
        load_plain(folder, **options)
    return caught.value.detail


def test_a_missing_shard_is_named(plain: Path) -> None:
    (plain / "diffusion_pytorch_model-00004-of-00007.safetensors").unlink()
    assert "diffusion_pytorch_model-00004-of-00007.safetensors is missing" in refusal(plain)


def test_a_missing_adapter_is_named(plain: Path) -> None:
    (plain / "adapter" / "infinitetalk.safetensors").unlink()
    assert "infinitetalk.safetensors is missing" in refusal(plain)
    with pytest.raises(WeightsError, match="adapter"):
        load_transformer(plain)


def test_missing_surplus_and_wrongly_shaped_tensors_are_named_with_their_file(plain: Path) -> None:
    adapter = plain / "adapter" / "infinitetalk.safetensors"
    key = "audio_proj.proj2.weight"
    good = load_file(adapter)
    damage(adapter, lambda t: t.pop(key))
    assert f"infinitetalk.safetensors lacks {key}" in refusal(plain)
    save_file(good | {"audio_proj.proj9.weight": torch.zeros(1)}, adapter)
    assert "infinitetalk.safetensors holds audio_proj.proj9.weight" in refusal(plain)
    save_file(good | {key: torch.zeros(16, 15)}, adapter)
    assert f"infinitetalk.safetensors: {key} is [16, 15] where the model needs [16, 16]" in refusal(plain)
    save_file(good | {key: torch.zeros(16, 16, dtype=torch.int8)}, adapter)
    assert f"{key} is stored as I8" in refusal(plain)
    save_file(good | {"head.head.bias": torch.zeros(64)}, adapter)
    assert "both hold head.head.bias" in refusal(plain)


def test_a_truncated_file_is_named_with_the_tensor_that_is_cut(plain: Path) -> None:
    shard = plain / "diffusion_pytorch_model-00007-of-00007.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-10])
    assert "00007-of-00007.safetensors is truncated" in refusal(plain)
    assert any(name in refusal(plain) for name in official_shapes(TINY))
    shard.write_bytes(content[:5])
    assert "not a complete safetensors file" in refusal(plain)
    shard.write_bytes(b"<!DOCTYPE html><html>" * 40)
    assert "00007-of-00007.safetensors" in refusal(plain)


def test_a_quantised_file_without_a_scale_or_with_an_odd_map_is_refused(
    tmp_path: Path, parameters: dict[str, torch.Tensor]
) -> None:
    path = save_quantized(tmp_path, parameters, "int8")
    beside = path.with_suffix(".json")
    quant_map = json.loads(beside.read_text())

    def refused() -> str:
        with pytest.raises(WeightsError) as caught:
            load_transformer(path, config=TINY)
        return caught.value.detail

    beside.write_text(json.dumps(quant_map | {"head.head": {"weights": "qint4", "activations": "none"}}))
    assert "head.head is stored as" in refused()
    beside.write_text(json.dumps(quant_map | {"blocks.7.ffn.0": {"weights": "qint8", "activations": "none"}}))
    assert "names blocks.7.ffn.0" in refused()
    beside.write_text(json.dumps(quant_map))
    damage(path, lambda t: t.pop("blocks.0.ffn.0.weight._scale"))
    assert "model_int8.safetensors lacks blocks.0.ffn.0.weight._scale" in refused()


@pytest.mark.parametrize("n_resident", [0, 1, 2])
@pytest.mark.parametrize("quant", ["none", "int8"])
def test_streamed_blocks_compute_what_resident_ones_do(plain: Path, n_resident: int, quant: str) -> None:
    inputs = inputs_for(TINY)
    wanted = run(load_plain(plain, quant=quant), inputs)
    model = load_plain(plain, quant=quant, offload=n_resident)
    for _ in range(2):
        assert torch.equal(run(model, inputs), wanted)


def test_streamed_blocks_survive_a_forward_that_was_broken_off(plain: Path) -> None:
    inputs = inputs_for(TINY)
    wanted = run(load_plain(plain), inputs)
    model = load_plain(plain, offload="blocks")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    hook = model.blocks[1].register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        run(model, inputs)
    hook.remove()
    assert torch.equal(run(model, inputs), wanted)
    model.close()
    assert all(parameter.is_meta for parameter in model.parameters())


def test_streamed_blocks_lie_evenly_between_resident_ones() -> None:
    assert streamed_indices(40, 40) == []
    assert streamed_indices(40, 36) == [5, 15, 25, 35]
    assert streamed_indices(4, 0) == [0, 1, 2, 3]


def test_loading_streams_with_little_more_memory_than_the_model(tmp_path: Path) -> None:
    """A fresh process loads model files of 200 MB; its peak beyond the model stays far under the file's size."""
    config = TransformerConfig(
        dim=512, ffn_dim=2048, num_heads=4, num_layers=8, audio_channels=8, text_dim=64, text_len=8, output_dim=64
    )
    save_shards(dict(random_parameters(config)), tmp_path / "base", tmp_path / "adapter.safetensors")
    sizes = {name: getattr(config, name) for name in config.__dataclass_fields__}
    (tmp_path / "base" / "config.json").write_text(json.dumps(sizes))
    total = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    script = f"""
import torch
from pathlib import Path
from lipsync_server.engines.infinitetalk.loading.transformer_files import load_transformer
torch.set_num_threads(1)
def peak(): # not getrusage's, which a process inherits from the one that started it
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
before = peak()
model = load_transformer(Path({str(tmp_path / "base")!r}), Path({str(tmp_path / "adapter.safetensors")!r}))
size = sum(p.numel() * p.element_size() for p in model.parameters())
print(peak() - before - size)
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    largest = max(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert total > 150_000_000
    assert int(out.stdout) < 1.3 * largest + 60_000_000
