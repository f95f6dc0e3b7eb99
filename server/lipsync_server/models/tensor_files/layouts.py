"""One set of names and scales for the layouts in which other programs store a model.

The same weights are published with a prefix before each name (`model.diffusion_model.`), in 16 bits, in 8 bits with a
scale beside the weight, or without one. ComfyUI and its Wan wrapper write

    NAME.weight         float8_e4m3fn, float8_e5m2 or int8
    NAME.scale_weight   (or NAME.weight_scale) one number, or one for each row: weight = stored * scale
    NAME.comfy_quant    JSON as bytes: how the weight is stored, for example rotated (ConvRot, rotation.py)
    scaled_fp8          an empty tensor that marks the file

LightX2V writes int8 and fp8 with NAME.weight_scale, one number for each row, and nothing else. optimum-quanto, which
WanGP uses, writes NAME.weight._data and NAME.weight._scale (headers.plain_name).

`read_layout` gives each parameter its plain name and its scale. Knows no model: the caller compares names and shapes.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lipsync_server.errors import WeightsError
from lipsync_server.models.tensor_files import gguf_files
from lipsync_server.models.tensor_files.entries import Entry
from lipsync_server.models.tensor_files.gguf_files import GgufFile
from lipsync_server.models.tensor_files.headers import plain_name, read_entries
from lipsync_server.models.tensor_files.rotation import DEFAULT_GROUP, is_group_size, turned_back
from lipsync_server.models.tensor_files.safetensors_files import OpenFile, open_safetensors

FLOATS = ("F32", "BF16", "F16", "F64")
EIGHT_BIT = ("F8_E4M3", "F8_E5M2", "I8")
_SCALES = (".scale_weight", ".weight_scale")
_UNUSED = (".scale_input", ".input_scale", ".output_scale", ".comfy_quant")
_MARKER = "scaled_fp8"
# Formats of a `comfy_quant` tensor whose weights are stored * scale.
_INT8_FORMAT = "int8_tensorwise"
_SCALED_FORMATS = ("float8_e4m3fn", "float8_e5m2", _INT8_FORMAT)


@dataclass(frozen=True)
class Stored:
    """One parameter in a file, and the tensor with its scale. group: columns that were rotated together, 0 for none."""

    entry: Entry
    scale: Entry | None = None
    group: int = 0

    @property
    def is_eight_bit(self) -> bool:
        """Whether the stored numbers have 8 bits and need a scale."""
        return self.entry.dtype in EIGHT_BIT

    def read(self, file: OpenFile | GgufFile, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor | None]:
        """The stored tensor, and for 8-bit ones a float32 scale for each row, (rows, 1), else None.

        A rotated weight is turned back on `device`, and comes as float32 without a scale. GGUF's blocks are unpacked on
        `device` too.
        """
        if isinstance(file, GgufFile):
            return file.tensor(self.entry.key, device), None
        tensor = file.tensor(self.entry.key)
        if not self.is_eight_bit:
            return tensor, None
        scale = torch.ones(1) if self.scale is None else file.tensor(self.scale.key).float()
        scale = scale.reshape(-1, 1).expand(tensor.shape[0] if tensor.ndim else 1, 1)
        if not self.group:
            return tensor, scale
        return turned_back(tensor.to(device).float() * scale.to(device), self.group), None

    def plain(self, file: OpenFile | GgufFile, device: torch.device | str = "cpu") -> Tensor:
        """The parameter as floats on `device`. Parameters with a scale become float32; others keep the file's type.

        The bytes of the file are copied to `device` and unpacked there.
        """
        stored, scale = self.read(file, device)
        tensor = stored.to(device)
        if scale is None:
            return tensor
        return tensor.float() * scale.to(device).reshape(-1, *(1 for _ in tensor.shape[1:]))

    def rows(self, file: OpenFile, indices: Tensor) -> Tensor:
        """Some rows of a matrix as floats, (n, row length), without unpacking the others. indices: (n,)."""
        tensor = file.tensor(self.entry.key)[indices]
        if not self.is_eight_bit:
            return tensor
        scale = torch.ones(1) if self.scale is None else file.tensor(self.scale.key).float().reshape(-1)
        some = tensor.float() * (scale[indices] if len(scale) > 1 else scale).reshape(-1, 1)
        return turned_back(some, self.group) if self.group else some


def read_layout(paths: Iterable[Path], *, is_unused: Callable[[str], bool] = lambda name: False) -> dict[str, Stored]:
    """Map plain parameter names to their stored tensors, over all files of one model.

    Raises WeightsError with file and tensor for a parameter in two files, for a scale without its weight or with
    another length, and for weights in an unknown form. is_unused: whether no module needs a tensor with this plain
    name, so that it may have any form.
    """
    found: dict[str, Stored] = {}
    for path in paths:
        named = ((plain_name(entry.key), entry) for entry in read_entries(path))
        entries = {name: entry for name, entry in named if not is_unused(name)}
        for name, stored in _of_one_file(path, entries).items():
            if name in found:
                raise WeightsError(f"{path.name} and {found[name].entry.file.name} both hold {name}; only one may.")
            found[name] = stored
    return found


def _of_one_file(path: Path, entries: Mapping[str, Entry]) -> dict[str, Stored]:
    """`read_layout` of one file. entries: its tensors by plain name."""
    scales: dict[str, Entry] = {}
    for name, entry in entries.items():
        for ending in _SCALES:
            if name.endswith(ending):
                weight = f"{name.removesuffix(ending)}.weight"
                if weight not in entries:
                    raise WeightsError(f"{path} holds {entry.key} without its weight; download the file again.")
                scales[weight] = entry
    stored: dict[str, Stored] = {}
    for name, entry in entries.items():
        if name == _MARKER or name.endswith((*_SCALES, *_UNUSED)):
            continue
        layer = name.removesuffix(".weight")
        format_of = entries.get(f"{layer}.comfy_quant")
        group = _checked_group(entry, scales.get(name), format_of)
        # A scale beside a float weight is left over from the conversion. The programs that wrote it ignore it too.
        stored[name] = Stored(entry, scales.get(name) if entry.dtype in EIGHT_BIT else None, group)
    return stored


def _checked_group(entry: Entry, scale: Entry | None, format_of: Entry | None) -> int:
    """Count of columns of this tensor that were rotated together, 0 for none.

    Raises WeightsError for a tensor in a format that is not read.
    """
    if entry.dtype in FLOATS or entry.dtype in gguf_files.READABLE:
        return 0
    if entry.dtype not in EIGHT_BIT:
        raise WeightsError(
            f"{entry.file}: {entry.key} is stored as {entry.dtype}, expected {', '.join((*FLOATS, *EIGHT_BIT))} or a "
            "GGUF type from Q2_K to Q8_0. Download the model in one of these."
        )
    rows = entry.shape[0] if entry.shape else 1
    n_scales = 1
    for size in scale.shape if scale is not None else ():
        n_scales *= size
    if n_scales not in (1, rows):
        raise WeightsError(
            f"{entry.file}: {scale.key if scale else ''} has {n_scales} numbers for a weight of {rows} rows; one, or "
            "one for each row, is read here."
        )
    group = 0 if format_of is None else _group_of(entry, _description(format_of))
    if entry.dtype == "I8" and scale is None:
        raise WeightsError(
            f"{entry.file}: {entry.key} is stored as I8, and the file does not say with which scale. Is its .json map "
            "missing?"
        )
    return group


def _group_of(entry: Entry, described: Mapping[str, object]) -> int:
    """The columns that a `comfy_quant` description says were rotated together."""
    kind, group = described.get("format"), described.get("convrot_groupsize", DEFAULT_GROUP)
    if kind in _SCALED_FORMATS and not described.get("convrot"):
        return 0
    turned = isinstance(group, int) and len(entry.shape) == 2 and is_group_size(group, entry.shape[1])
    if kind == _INT8_FORMAT and entry.dtype == "I8" and isinstance(group, int) and turned:
        return group
    raise WeightsError(
        f"{entry.file}: {entry.key} is stored as {json.dumps(described)}, which is not read here. Download the scaled "
        "fp8, the 16-bit, the int8 or the GGUF file."
    )


def _description(entry: Entry) -> dict[str, object]:
    """The JSON object in a `comfy_quant` tensor, which describes how the layer's weight is stored."""
    with open_safetensors(entry.file, [entry]) as file:
        held = file.tensor(entry.key)
    try:
        described = json.loads(bytes(held.view(torch.uint8).tolist()))
    except ValueError as error:
        raise WeightsError(f"{entry.file}: {entry.key} cannot be read as JSON ({error}).") from error
    return described if isinstance(described, dict) else {"format": described}


def without_ones(shape: Iterable[int]) -> tuple[int, ...]:
    """A shape without its sizes of 1, by which files of other programs differ from the model."""
    return tuple(size for size in shape if size != 1)
