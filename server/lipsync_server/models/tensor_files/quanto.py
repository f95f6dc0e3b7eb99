"""optimum-quanto's file layout: 8-bit weights with a scale for each row, and a JSON map of the layers beside the file.

InfiniteTalk's published 8-bit files have this layout, and so have the files of `lipsync weights convert`. Knows names
and rounding. Knows no model.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from lipsync_server.models.kernels.rounding import quantize_rows
from lipsync_server.models.tensor_files.writer import write_tensors
from lipsync_server.quantization import EightBit

QUANTO_NAMES: dict[str, str] = {"int8": "qint8", "fp8": "qfloat8_e4m3fn"}


def quantized_tensors(
    parameters: Mapping[str, Tensor], kind: EightBit, keep: tuple[str, ...] = ()
) -> tuple[dict[str, Tensor], dict[str, dict[str, str]]]:
    """Return the parameters in optimum-quanto's layout, and the map of the layers. Layers in `keep` are not rounded."""
    tensors: dict[str, Tensor] = {}
    quant_map: dict[str, dict[str, str]] = {}
    for name, value in parameters.items():
        layer = name.removesuffix(".weight")
        if value.ndim != 2 or not name.endswith(".weight") or layer.startswith(keep or ("\0",)):
            tensors[name] = value.contiguous()
            continue
        data, scale = quantize_rows(value, kind)
        one = torch.ones((), dtype=value.dtype)
        tensors |= {f"{name}._data": data, f"{name}._scale": scale}
        tensors |= {f"{layer}.input_scale": one.clone(), f"{layer}.output_scale": one.clone()}
        quant_map[layer] = {"weights": QUANTO_NAMES[kind], "activations": "none"}
    return tensors, quant_map


def save_quantized(
    layout: Mapping[str, Tensor],
    parameters: Iterable[tuple[str, Tensor]],
    kind: EightBit,
    path: Path,
    *,
    keep: tuple[str, ...] = (),
    quant_map_path: Path | None = None,
) -> None:
    """Write `path` in optimum-quanto's layout, and its map beside it or to `quant_map_path`.

    layout: names, types and shapes of all parameters. The parameters are read one at a time, from any device.
    """
    stored, quant_map = quantized_tensors(layout, kind, keep)
    made = (item for name, value in parameters for item in quantized_tensors({name: value}, kind, keep)[0].items())
    write_tensors(path, stored, made)
    (quant_map_path or path.with_suffix(".json")).write_text(json.dumps(quant_map), encoding="utf-8")
