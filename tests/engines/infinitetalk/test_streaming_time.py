"""Streamed blocks: the computed schedule is that of model/offload.py, and copies hide behind computing."""

import pytest
import torch
from lipsync_server.engines.infinitetalk import roofline
from lipsync_server.engines.infinitetalk.loading.memory import GIB, plan
from lipsync_server.engines.infinitetalk.loading.planner import _refuse_what_the_gpu_cannot_hold
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.engines.infinitetalk.model.offload import StreamedBlocks, streamed_indices
from lipsync_server.engines.infinitetalk.streaming_time import PCIE3_X8_BYTES_PER_S, schedule
from lipsync_server.errors import EngineUnavailable
from lipsync_server.random_models.infinitetalk_transformer import random_transformer
from transformer_golden import TINY

PIXELS = {"480p": 640 * 640, "720p": 960 * 960}


@pytest.mark.parametrize("n_resident", range(4))
def test_the_computed_schedule_copies_the_blocks_that_the_model_copies(
    n_resident: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TINY.__class__(**{**TINY.__dict__, "num_layers": 4})
    model = random_transformer(config, dtype=torch.float32, offload=n_resident)
    runner = model.runner
    assert isinstance(runner, StreamedBlocks)
    copied: list[int] = []
    real = StreamedBlocks._fetch

    def noted(self: StreamedBlocks, index: int) -> None:
        if self._holds[self._slot_of[index]] != index:
            copied.append(index)
        real(self, index)

    monkeypatch.setattr(StreamedBlocks, "_fetch", noted)
    for _ in range(3):
        copied.clear()
        assert len(list(runner)) == 4
    streamed = streamed_indices(4, n_resident)
    assert tuple(copied) == schedule(4, streamed, block_s=1.0, copy_s=0.1).copies


def test_a_copy_is_hidden_where_a_block_computes_longer_and_shows_where_not() -> None:
    hidden = schedule(40, streamed_indices(40, 0), block_s=0.14, copy_s=0.07)
    assert hidden.forward_s == pytest.approx(40 * 0.14)
    shown = schedule(40, streamed_indices(40, 0), block_s=0.04, copy_s=0.07)
    assert shown.forward_s == pytest.approx(40 * 0.07, rel=0.05)
    assert schedule(40, [], block_s=0.04, copy_s=0.07).forward_s == pytest.approx(1.6)


@pytest.mark.parametrize("resolution", PIXELS)
@pytest.mark.parametrize(
    ("usable_gib", "resident"),
    [(23.5, {"480p": 35, "720p": 21}), (22.5, {"480p": 32, "720p": 19}), (16, {"480p": 17, "720p": 4}),
     (12, {"480p": 8, "720p": None})],
)  # fmt: skip
@pytest.mark.parametrize("card", ["RTX 4090", "RTX 5090", "RTX 3090"])
def test_rented_cards_are_planned_within_their_memory_and_lose_little_at_pcie_3_x8(
    usable_gib: float, resident: dict[str, int | None], resolution: str, card: str
) -> None:
    """0.8 GiB of the card are in use. The fastest forward hides the least copying: it waits for 2.5 % of its time."""
    free = int((usable_gib - 0.8) * GIB)
    made = plan(TransformerConfig(), quant="int8", pixels=PIXELS[resolution], passes=2, compiled=True, free_bytes=free)
    if resident[resolution] is None:
        with pytest.raises(EngineUnavailable, match=r"and 11\.2 GiB are free\. Use resolution 480p"):
            _refuse_what_the_gpu_cannot_hold(made)
        return
    _refuse_what_the_gpu_cannot_hold(made)
    assert made.resident_blocks == resident[resolution]
    assert made.least_device_bytes <= free
    streamed = streamed_indices(made.n_blocks, made.resident_blocks)
    rates = roofline.ATTENTION_SHARE.most, roofline.PRODUCT_SHARE.most
    forward_s = roofline.forward_s(roofline.CARDS[card], *rates) * PIXELS[resolution] / PIXELS["480p"]
    found = schedule(
        made.n_blocks, streamed, block_s=forward_s / made.n_blocks, copy_s=made.block_bytes / PCIE3_X8_BYTES_PER_S
    )
    assert found.forward_s <= forward_s * 1.025
