"""GGUF's blocks are unpacked by torch to the very numbers of the package gguf."""

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from lipsync_server.models.tensor_files.gguf_unpack import UNPACKERS
from lipsync_server.random_models.gguf_blocks import pack_rows


def numbers_of(blocks: np.ndarray, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The same blocks unpacked here and by the package."""
    ours = UNPACKERS[kind](torch.from_numpy(blocks.copy()))
    with np.errstate(invalid="ignore", over="ignore"):
        return ours, torch.from_numpy(dequantize(blocks, GGMLQuantizationType[kind]))


@pytest.mark.parametrize("kind", UNPACKERS)
def test_any_bytes_are_unpacked_to_the_bit(kind: str) -> None:
    per_block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    blocks = np.random.default_rng(3).integers(0, 256, (500, block_bytes), dtype=np.uint8)
    ours, theirs = numbers_of(blocks, kind)
    assert ours.shape == theirs.shape == (500, per_block)
    assert ours.dtype == torch.float32
    finite = theirs.isfinite()
    assert finite.float().mean() > 0.9
    assert torch.equal(ours[finite], theirs[finite])
    assert torch.equal(ours.isfinite(), finite)


@pytest.mark.parametrize("kind", UNPACKERS)
def test_packed_weights_come_back(kind: str) -> None:
    rows = np.random.default_rng(4).standard_normal((6, 512)).astype(np.float32)
    packed, used = pack_rows(rows, kind)
    assert used.name == kind
    blocks = packed.reshape(-1, GGML_QUANT_SIZES[used][1])
    ours, theirs = numbers_of(blocks, kind)
    assert torch.equal(ours, theirs)
    error = (ours.view(6, 512) - torch.from_numpy(rows)).norm() / np.linalg.norm(rows)
    assert error < 0.15
