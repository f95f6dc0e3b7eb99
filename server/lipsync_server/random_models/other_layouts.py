"""Write weights in the layouts of other programs: ComfyUI's and its Wan wrapper's single files, fp8, int8, and GGUF.

Each function takes parameters under their official names in float32 and writes one file. The names come from public
code (ComfyUI's `convert_old_quants` and `detect_layer_quantization`, comfy-kitchen's int8 layout, ComfyUI-GGUF's
loader); no published file was read.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from lipsync_server.models.encoders.tokenizer import Piece
from lipsync_server.models.tensor_files.rotation import is_group_size, turned_back
from lipsync_server.random_models.gguf_blocks import pack_rows

Eight = Literal["e4m3", "e5m2"]
_EIGHT = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
_LARGEST = {"e4m3": 448.0, "e5m2": 57344.0}


def save_single(
    parameters: Mapping[str, Tensor],
    path: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    prefix: str = "",
    extra: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Write all parameters in one type, each name after `prefix`, and the tensors `extra` unchanged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {prefix + name: value.to(dtype).contiguous() for name, value in parameters.items()}
    save_file({**tensors, **extra}, path)


def save_scaled_fp8(
    parameters: Mapping[str, Tensor],
    path: Path,
    *,
    kind: Eight = "e4m3",
    prefix: str = "",
    scale: Literal["none", "one", "rows"] = "one",
    scale_name: str = "scale_weight",
    described: bool = False,
    plain: tuple[str, ...] = ("embedding.embedding",),
    extra: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Write linear layers in 8 bits, all others in float16.

    scale: none (a plain cast), one number, or one for each row.

    plain: parts of the names of matrices that stay in float16. extra: tensors that are written unchanged.
    described: write a `comfy_quant` tensor for each layer, and no marker for the whole file.
    """
    tensors: dict[str, Tensor] = dict(extra)
    for name, value in parameters.items():
        if value.ndim != 2 or not name.endswith(".weight") or any(part in name for part in plain):
            tensors[prefix + name] = value.to(torch.float16).contiguous()
            continue
        layer = prefix + name.removesuffix(".weight")
        if scale == "none":
            tensors[prefix + name] = value.to(_EIGHT[kind])
            continue
        largest = value.abs().amax(dim=1, keepdim=True) if scale == "rows" else value.abs().max()
        factor = (largest / _LARGEST[kind]).float()
        tensors[prefix + name] = (value / factor).to(_EIGHT[kind])
        tensors[f"{layer}.{scale_name}"] = factor
        if described:
            words = json.dumps({"format": f"float8_{kind}{'fn' if kind == 'e4m3' else ''}"}).encode()
            tensors[f"{layer}.comfy_quant"] = torch.tensor(list(words), dtype=torch.uint8)
    if scale != "none" and not described:
        tensors[f"{prefix}scaled_fp8"] = torch.zeros(2, dtype=_EIGHT[kind])
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def save_int8(
    parameters: Mapping[str, Tensor], path: Path, *, group: int = 0, described: bool = True, inside: str = ""
) -> None:
    """Write linear layers in ComfyUI's int8 with a scale for each row, the rest in float16.

    group: count of columns that are rotated together (ConvRot), 0 for none. A layer whose width is no multiple of
    `group` is not rotated. described: False writes no `comfy_quant`, as LightX2V does. inside: only layers whose names
    begin so are written in int8.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in parameters.items():
        if value.ndim != 2 or not name.endswith(".weight") or not name.startswith(inside):
            tensors[name] = value.to(torch.float16).contiguous()
            continue
        rotates = bool(group) and is_group_size(group, value.shape[1])
        rotation = {"convrot": True, "convrot_groupsize": group} if rotates else {}
        # The rotation is its own inverse.
        turned = turned_back(value.float(), group) if rotates else value.float()
        scale = turned.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / 127
        layer = name.removesuffix(".weight")
        tensors[name] = (turned / scale).round().to(torch.int8)
        tensors[f"{layer}.weight_scale"] = scale
        if not described:
            continue
        words = json.dumps({"format": "int8_tensorwise", **rotation}).encode()
        tensors[f"{layer}.comfy_quant"] = torch.tensor(list(words), dtype=torch.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def save_gguf(
    parameters: Mapping[str, Tensor], path: Path, kind: str, *, arch: str = "wan", pieces: Sequence[Piece] = ()
) -> None:
    """Write matrices in the block format `kind`, all others in float32, and five dimensions in ComfyUI-GGUF's form.

    pieces: a tokenizer, written in the form of llama.cpp's conversion.
    """
    from gguf import GGMLQuantizationType, GGUFWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, arch)
    if pieces:
        writer.add_tokenizer_model("t5")
        writer.add_token_list([piece.text for piece in pieces])
        writer.add_token_scores([piece.score for piece in pieces])
        writer.add_token_types([piece.type for piece in pieces])
        writer.add_add_space_prefix(True)
    for name, value in parameters.items():
        array = value.float().numpy()
        if array.ndim > 4:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(array.shape))
            array = array.reshape(array.shape[0], -1)
            writer.add_tensor(name, array.astype(np.float16), raw_dtype=GGMLQuantizationType.F16)
        elif array.ndim == 2 and name.endswith(".weight"):
            packed, used = pack_rows(np.ascontiguousarray(array), kind)
            writer.add_tensor(name, packed, raw_dtype=used)
        else:
            writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
