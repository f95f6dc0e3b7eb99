"""The measurement of model files: it loads its own files, and finds that switching LoRA files back is exact."""

from pathlib import Path

import pytest
import torch
from lipsync_server.bench.infinitetalk import lora_ways
from lipsync_server.bench.infinitetalk.model_files import measure
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig

CONFIG = TransformerConfig(
    dim=256, ffn_dim=512, num_heads=2, num_layers=2, freq_dim=256, text_dim=256, image_dim=256,
    audio_channels=16, intermediate_dim=256, output_dim=256, context_tokens=2,
)  # fmt: skip


@pytest.mark.parametrize("layout", ["fp8", "Q4_K", "Q5_K", "Q8_0", "Q4_0"])
def test_each_layout_is_loaded_and_its_weights_come_back_after_ten_switches(layout: str, tmp_path: Path) -> None:
    loaded, *switches = measure(tmp_path, layout, 10, config=CONFIG, device=torch.device("cpu"))
    assert loaded["layout"] == layout
    assert [line["to"] for line in switches] == ["LoRA", "base"] * 5
    assert all(line["same_bytes"] for line in switches)


def test_a_layer_has_its_bytes_again_after_ten_switches_and_the_whole_is_computed(tmp_path: Path) -> None:
    one = lora_ways.measure(256, 128, 16, torch.device("cpu"), tmp_path)
    assert one.exact
    assert one.kept_bytes == 256 * 128 + 4 * 256
    assert one.lora_bytes == 2 * lora_ways.RANK * (256 + 128)
    found = lora_ways.whole([one], TransformerConfig())
    # The 14B model: 400 linear layers of its own in the blocks, and InfiniteTalk's 120.
    assert found["kept_host_gb"] == pytest.approx(18.57, abs=0.01)
    assert found["unmerged_gb"] == pytest.approx(0.88, abs=0.01)
