"""The code of older cards compiles to PTX without a GPU, and gives the native code's bits on a GPU."""

import pytest
import torch

pytest.importorskip("triton")
pytest.importorskip("cuda.bindings.nvrtc")

from lipsync_server.bench.infinitetalk.older_cards import (
    CAPABILITIES,
    attention_runs,
    product_code,
    product_runs,
    tiles,
)
from lipsync_server.models.kernels import int8_product, nvrtc

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9),
    reason="it needs an NVIDIA GPU of compute capability 8.9 or newer",
)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_int8_attention_becomes_ptx_with_the_instructions_of_the_older_card(capability: int) -> None:
    ptx = nvrtc.compile_for(f"compute_{capability}", "attention_int8", {})[0].decode()
    assert f".target sm_{capability}\n" in ptx
    assert ".entry attention_int8(" in ptx
    assert "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32" in ptx
    assert "wgmma" not in ptx


@pytest.mark.parametrize(("capability", "tile"), [(one, tile) for one in CAPABILITIES for tile in tiles(one)])
def test_the_int8_product_becomes_ptx_that_takes_what_is_passed_to_it(capability: int, tile: str) -> None:
    code = product_code(capability, 1_000, 512, tile)
    assert f".target sm_{capability}\n".encode() in code.ptx
    assert b"mma.sync" in code.ptx
    assert b"wgmma" not in code.ptx
    # Six tensors, three sizes and Triton's two scratch pointers.
    assert code.n_parameters == 11
    assert code.n_threads == 32 * int8_product.TILES[tile][3]


@needs_gpu
@pytest.mark.parametrize("tokens", [129, 1_000, 4_096])
def test_attention_for_older_cards_gives_the_bits_of_the_native_code(tokens: int) -> None:
    runs = attention_runs(tokens, 3, torch.device("cuda"))
    wanted = runs.pop("native")()
    assert set(runs) == set(CAPABILITIES.values())
    for name, run in runs.items():
        assert torch.equal(run(), wanted), name


@needs_gpu
@pytest.mark.parametrize("tile", tiles())
@pytest.mark.parametrize("rows", [300, 1_024])
def test_the_product_for_older_cards_gives_the_bits_of_the_native_code(tile: str, rows: int) -> None:
    runs = product_runs(rows, 512, tile, torch.device("cuda"))
    wanted = runs.pop("native")()
    assert "8.0" in runs
    for name, run in runs.items():
        assert torch.equal(run(), wanted), name
