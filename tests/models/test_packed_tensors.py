"""Committed golden files unpack to the last bit, or not at all."""

import lzma
from pathlib import Path

import pytest
import torch
from packed_tensors import Recipe, pack, unpack
from safetensors.torch import load_file, save_file
from sampled import blank, differences, known, step_for
from weight_recipes import TorchNormals


def test_the_recipe_gives_the_numbers_of_torch_but_for_the_last_bits() -> None:
    """torch draws short tensors, whole groups of 16 and a remainder in different ways from one generator."""
    generator, ours = torch.Generator().manual_seed(7101), TorchNormals(7101)
    for n in (3, 48, 5, 17, 1, 1000, 4, 31, 16):
        wanted = torch.randn(n, generator=generator)
        assert (torch.from_numpy(ours.draw(n)) - wanted).abs().max() < 1e-6


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """A packed file with one tensor of each kind: drawn, drawn and rounded, quantised, and none of these."""
    generator = torch.Generator().manual_seed(3)
    weight = (torch.randn(8, 16, generator=torch.Generator().manual_seed(4_000_000_000)) * 0.2).bfloat16().float()
    scale = weight.abs().amax(1, keepdim=True) / 448
    tensors = {
        "alone": weight,
        "eight_bits": (weight / scale).to(torch.float8_e4m3fn),
        "scale": scale,
        "first": torch.randn(5, 7, generator=generator) * 0.3 + 1,
        "second": (torch.randn(64, generator=generator) * 0.5).bfloat16(),
        "bytes": torch.arange(9, dtype=torch.uint8),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "odd": torch.tensor([float("nan"), -0.0, float("inf")]),
    }
    save_file(tensors, tmp_path / "whole.safetensors", {"made": "here"})
    recipe = Recipe(
        3, [("first", 0.3, 1.0), ("second", 0.5, 0.0)], dict.fromkeys(("alone", "eight_bits"), (4000000000, 0.2, 0.0)),
        "bfloat16", {"eight_bits": "scale"},
    )  # fmt: skip
    pack(tmp_path / "whole.safetensors", tmp_path / "part.packed", recipe)
    return tmp_path / "part.packed"


def test_a_packed_file_unpacks_to_the_last_bit(drawn: Path, tmp_path: Path) -> None:
    unpack(drawn, tmp_path / "again.safetensors")
    before, after = load_file(tmp_path / "whole.safetensors"), load_file(tmp_path / "again.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert (tensor.dtype, tensor.shape) == (after[name].dtype, after[name].shape)
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), after[name].reshape(-1).view(torch.uint8))


def test_numbers_of_a_recipe_take_no_room(tmp_path: Path) -> None:
    """Weights of 16 bits and their form in 8 bits are both their seed alone."""
    weight = (torch.randn(256, 64, generator=torch.Generator().manual_seed(5)) * 0.2).bfloat16()
    scale = weight.float().abs().amax(1, keepdim=True).bfloat16() / 448
    tensors = {"w": weight, "w.data": (weight.float() / scale.float()).to(torch.float8_e4m3fn), "w.scale": scale}
    save_file(tensors, tmp_path / "whole.safetensors")
    seeds = dict.fromkeys(("w", "w.data"), (5, 0.2, 0.0))
    pack(
        tmp_path / "whole.safetensors",
        tmp_path / "part.packed",
        Recipe(alone=seeds, rounded="bfloat16", divided={"w.data": "w.scale"}),
    )
    assert (tmp_path / "part.packed").stat().st_size < 2000
    assert (tmp_path / "whole.safetensors").stat().st_size > 48_000
    unpack(tmp_path / "part.packed", tmp_path / "again.safetensors")
    assert torch.equal(load_file(tmp_path / "again.safetensors")["w"], weight)


def test_of_a_sampled_tensor_every_nth_value_is_packed_and_compared_and_no_other(tmp_path: Path) -> None:
    numbers = torch.randn(9, 40, generator=torch.Generator().manual_seed(6))
    whole = {"numbers": numbers, "levels": torch.arange(50, dtype=torch.uint8)}
    save_file(whole, tmp_path / "whole.safetensors")
    recipe = Recipe(sampled={name: step_for(tensor) for name, tensor in whole.items()})
    pack(tmp_path / "whole.safetensors", tmp_path / "part.packed", recipe)
    unpack(tmp_path / "part.packed", tmp_path / "again.safetensors")
    part = load_file(tmp_path / "again.safetensors")
    for name, tensor in whole.items():
        assert known(part[name]).flatten().nonzero().flatten().tolist() == list(range(0, tensor.numel(), 7))
        assert differences(tensor, part[name]).max() == 0
    assert differences(numbers + 1e-3, part["numbers"]).min() > 9e-4
    assert differences(torch.full_like(numbers, torch.nan), part["numbers"]).isnan().all()
    with pytest.raises(AssertionError, match="no value"):
        differences(numbers, blank(numbers.shape, numbers.dtype))


def test_a_packed_file_with_one_wrong_bit_is_refused(drawn: Path, tmp_path: Path) -> None:
    data = bytearray(lzma.decompress(drawn.read_bytes()))
    data[-1] ^= 1
    drawn.write_bytes(lzma.compress(data))
    with pytest.raises(ValueError, match="does not unpack"):
        unpack(drawn, tmp_path / "again.safetensors")
