"""Write FlashTalk's transformer in 8 bits once, so that each start reads 19 GB in place of 38 GB or 76 GB.

A start from the published folder rounds the blocks' weights while loading when the GPU needs it; the file written here
holds the same rounded numbers, in the layout of InfiniteTalk's published 8-bit files. It appears by rename, after its
map. Tensors pass through one at a time. Knows files and rounding; computes nothing else.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from lipsync_server.engines.infinitetalk.loading.transformer_files import check, official_shapes
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.models.tensor_files.quanto import save_quantized
from lipsync_server.models.tensor_files.safetensors_files import WeightFiles, shards
from lipsync_server.models.tensor_files.writer import appears_whole
from lipsync_server.quantization import EightBit

# Everything outside the blocks stays in 16 bits: rounding it costs accuracy and saves 2 %.
_ROUNDED = "blocks."


def convert(folder: Path, target: Path, kind: EightBit) -> Path:
    """Write the transformer in `folder` to `target` in 8 bits, unless it is there. Raises WeightsError."""
    if target.is_file() and target.with_suffix(".json").is_file():
        return target
    files = WeightFiles(shards(folder))
    shapes = official_shapes(TransformerConfig.from_json(folder / "config.json"))
    check(files, shapes, {})

    def type_of(name: str) -> torch.dtype:
        # As at load: weights are rounded from bfloat16 values with scales in float32.
        rounds = name.startswith(_ROUNDED) and name.endswith(".weight") and len(shapes[name]) == 2
        return torch.float32 if rounds else torch.bfloat16

    layout = {name: torch.empty(shapes[name], dtype=type_of(name), device="meta") for name in files.entries}
    keep = tuple(sorted({name.partition(".")[0] for name in layout if not name.startswith(_ROUNDED)}))

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for _, file in files:
            for entry in file.entries:
                yield entry.key, file.tensor(entry.key).to(torch.bfloat16).to(type_of(entry.key))

    with appears_whole(target) as part:
        save_quantized(layout, tensors(), kind, part, keep=keep, quant_map_path=target.with_suffix(".json"))
    return target
