"""Loading InfiniteTalk's transformer from the published files.

Knows the official names, three layouts (Wan's shards or a single base file plus an InfiniteTalk file; one single file;
one optimum-quanto file with its map), and how a stored tensor becomes a parameter: unpacked, cast, merged with LoRA
files, rounded to 8 bits, sent to its device. Does not know the mathematics of the model or of rounding. Everything is
checked from the files' headers before the first tensor is read. Then one tensor at a time is in host memory, unpacked
to float32 where the file holds fewer bits: the largest of the published model takes 0.3 GB so.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from lipsync_server.engines.infinitetalk.loading.lora import Lora, merge_all, read_lora
from lipsync_server.engines.infinitetalk.loading.single_files import check_layout, config_of
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.engines.infinitetalk.model.offload import Offload, StreamedBlocks, place_weights
from lipsync_server.engines.infinitetalk.model.transformer import InfiniteTalkTransformer
from lipsync_server.errors import WeightsError
from lipsync_server.models.kernels.choice import Chooser
from lipsync_server.models.kernels.product_8bit import native_8bit
from lipsync_server.models.kernels.rounding import dequantize_rows, quantize_rows
from lipsync_server.models.layers.linear_8bit import QuantizedLinear, replace_linears, use_fastest_tiles
from lipsync_server.models.tensor_files.gguf_files import GgufFile
from lipsync_server.models.tensor_files.joined_qkv import official_names, place_of, rows_of
from lipsync_server.models.tensor_files.layouts import Stored, read_layout
from lipsync_server.models.tensor_files.safetensors_files import (
    OpenFile,
    WeightFiles,
    shard_of,
    shards,
)
from lipsync_server.quantization import EightBit, Quantization

Progress = Callable[[int, int], None]

_KINDS: dict[str, EightBit] = {"qint8": "int8", "qfloat8_e4m3fn": "fp8", "qfloat8": "fp8"}
_STORED = {"int8": "I8", "fp8": "F8_E4M3"}
_FLOATS = ("F32", "BF16", "F16", "F64")
# Only the blocks' linear layers are rounded, 98 % of the weights; rounding the others costs accuracy and saves little.
_QUANTIZED_AT_LOAD = "blocks."
# The block's products over all tokens compute in 8 bits. The projections of text and sound have few tokens: exact.
_DYNAMIC = (
    "self_attn.qkv", "self_attn.o", "cross_attn.q", "cross_attn.o",
    "audio_cross_attn.q_linear", "audio_cross_attn.proj", "ffn.0", "ffn.2",
)  # fmt: skip


def official_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Every parameter of base and adapter under its official name."""
    return dict(_shapes_of(config))


@cache
def _shapes_of(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a model that is built on the meta device, which takes half a second at full size."""
    with torch.device("meta"):
        model = InfiniteTalkTransformer(config)
    return official_names(model)


def is_adapter(name: str) -> bool:
    """Whether InfiniteTalk's own file holds this parameter, rather than Wan's."""
    return name.startswith("audio_proj.") or ".audio_cross_attn." in name or ".norm_x." in name


def read_quant_map(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, EightBit]:
    """The map beside a quantised file: official layer name -> kind. Layers that it leaves out are plain."""
    beside = path.with_suffix(".json")
    try:
        entries = json.loads(beside.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{beside} is missing: {path.name} cannot be read without its map.") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{beside} cannot be read as JSON ({error}); download it again.") from error
    kinds: dict[str, EightBit] = {}
    for layer, entry in entries.items():
        weights = entry.get("weights", "none") if isinstance(entry, dict) else None
        if f"{layer}.weight" not in shapes or len(shapes[f"{layer}.weight"]) != 2:
            raise WeightsError(f"{beside.name} names {layer}, which is no linear layer of this model.")
        if weights == "none":
            continue
        if weights not in _KINDS or entry.get("activations", "none") != "none":
            raise WeightsError(f"{beside.name}: {layer} is stored as {entry}; only qint8 and qfloat8_e4m3fn are known.")
        kinds[layer] = _KINDS[weights]
    return kinds


def check(files: WeightFiles, shapes: Mapping[str, tuple[int, ...]], kinds: Mapping[str, EightBit]) -> None:
    """Compare the tensors of the files with the model's parameters, by name, shape and number format.

    shapes: official name -> shape. kinds: layers stored in 8 bits. Raises WeightsError naming the first file and key
    that differ.
    """
    wanted: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {}
    optional: set[str] = set()
    for name, shape in shapes.items():
        layer = name.removesuffix(".weight")
        if layer in kinds and name.endswith(".weight"):
            wanted[f"{name}._data"] = (shape, (_STORED[kinds[layer]],))
            wanted[f"{name}._scale"] = ((shape[0], 1), _FLOATS)
            optional |= {f"{layer}.input_scale", f"{layer}.output_scale"}
        else:
            wanted[name] = (shape, _FLOATS)
    for key, entry in files.entries.items():
        if key in optional:
            continue
        if key not in wanted:
            raise WeightsError(f"{entry.file} holds {key}, which this model does not have. Is it another model's file?")
        shape, dtypes = wanted[key]
        if entry.shape != shape:
            raise WeightsError(f"{entry.file}: {key} is {list(entry.shape)} where the model needs {list(shape)}.")
        if entry.dtype not in dtypes:
            raise WeightsError(f"{entry.file}: {key} is stored as {entry.dtype}, expected {' or '.join(dtypes)}.")
    for key in wanted:
        if key not in files.entries:
            folder = files.paths[0].parent
            in_last = is_adapter(key) or len(files.paths) == 1
            holder = files.paths[-1] if in_last else shard_of(folder, key) or folder
            raise WeightsError(f"{holder} lacks {key}. The download is incomplete, or it is another model's file.")


@dataclass(frozen=True)
class OpenTransformer:
    """A transformer's files, checked against the model that they are for; no tensor has been read.

    layout: plain names of single files -> where they are stored; empty for a quantised file, whose kinds are `stored`.
    """

    config: TransformerConfig
    shapes: Mapping[str, tuple[int, ...]]
    files: WeightFiles
    layout: Mapping[str, Stored]
    stored: Mapping[str, EightBit]

    def parameters(self, writer: "TransformerWriter") -> Iterator[tuple[str, Callable[[], None]]]:
        """Each parameter's official name, and a call that reads it into the model, in the order of the files."""
        by_key = {(stored.entry.file, stored.entry.key): name for name, stored in self.layout.items()}
        for path, file in self.files:
            for entry in file.entries:
                if not self.layout:
                    if not entry.key.endswith((".input_scale", ".output_scale", "._scale")):
                        yield entry.key.removesuffix("._data"), partial(writer.read, file, entry.key)
                elif (name := by_key.get((path, entry.key))) is not None:
                    yield name, partial(self._put, writer, file, name)

    def n_bytes_of(self, name: str) -> int:
        """The size of a parameter in its file."""
        stored = self.layout.get(name)
        entries = self.files.entries
        entry = stored.entry if stored is not None else entries.get(f"{name}._data") or entries[name]
        return entry.n_bytes

    def _put(self, writer: "TransformerWriter", file: OpenFile | GgufFile, name: str) -> None:
        writer.put(name, *self.layout[name].read(file, writer.device))


def open_transformer(source: Path, adapter: Path | None, config: TransformerConfig | None) -> OpenTransformer:
    """Check a transformer's files from their headers; arguments and errors as load_transformer's."""
    has_map = source.is_file() and adapter is None and source.with_suffix(".json").is_file()
    if has_map:
        config = config or TransformerConfig()
        shapes = official_shapes(config)
        files, stored = WeightFiles([source]), read_quant_map(source, shapes)
        check(files, shapes, stored)
        return OpenTransformer(config, shapes, files, {}, stored)
    paths = [*(shards(source) if source.is_dir() else [source]), *([] if adapter is None else [adapter])]
    layout, files = read_layout(paths), WeightFiles(paths, may_repeat=True)
    if adapter is None and not any(is_adapter(name) for name in layout):
        raise WeightsError(
            f"{source}: the InfiniteTalk adapter file (single/ or multi/infinitetalk.safetensors) is needed too."
        )
    if config is None:
        config = TransformerConfig.from_json(source / "config.json") if source.is_dir() else config_of(layout)
    shapes = official_shapes(config)
    check_layout(layout, shapes, lambda name: _holder(source, adapter, name))
    return OpenTransformer(config, shapes, files, layout, {})


def load_transformer(
    source: Path,
    adapter: Path | None = None,
    *,
    config: TransformerConfig | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    quant: Quantization = "none",
    loras: Sequence[tuple[Path, float]] = (),
    attention: str = "auto",
    attention_density: float = 1.0,
    chooser: Chooser | None = None,
    offload: Offload = "none",
    pinned: bool = True,
    exact: bool = False,
    progress: Progress | None = None,
) -> InfiniteTalkTransformer:
    """Load the model, ready to compute on `device`.

    source: the Wan2.1-I2V-14B-480P folder or a single file of the base, with `adapter` the InfiniteTalk file beside
        it; FlashTalk's folder, or one file with both, which need no adapter; or one quantised file (its .json map
        beside it), which needs neither.
    config: read from the folder's config.json when None, from the shapes in a single file; for a quantised file the
        14B sizes.
    quant: round the blocks' linear layers to 8 bits while loading. Files with a map keep their kind, but their fp8
        becomes int8 with "int8". Weights that a single file holds as float8_e4m3fn are kept to the bit with "fp8" and
        rounded anew with "int8".
    loras: files and scales, merged in this order.
    chooser: measures attention "auto" and the tiles of int8 products on the device, and keeps the choices.
    offload: "none", "blocks", or how many blocks stay on the device (offload.py). pinned: the others wait in pinned
        host memory where that can be had.
    exact: 8-bit weights are multiplied in the activations' type instead of in 8 bits.
    progress: called with bytes done and bytes in all.
    """
    device = torch.device(device)
    opened = open_transformer(source, adapter, config)
    merged = [read_lora(path, scale, opened.shapes) for path, scale in loras]
    model, finish, writer = _prepare(opened.config, opened.stored, quant, device, dtype, offload, merged, pinned=pinned)
    done, total = 0, opened.files.n_bytes
    for name, put in opened.parameters(writer):
        put()
        done += opened.n_bytes_of(name)
        if progress:
            progress(done, total)
    model.merged_names = writer.changed
    finish()
    set_activations(model, device, exact=exact)
    if chooser is not None:
        use_fastest_tiles(model, device, chooser)
    model.set_attention(attention, attention_density, chooser)
    return model


def _holder(source: Path, adapter: Path | None, name: str) -> Path:
    """The file that should hold this parameter."""
    if adapter is not None and is_adapter(name):
        return adapter
    return (shard_of(source, name) or source) if source.is_dir() else source


def fill_transformer(
    parameters: Iterable[tuple[str, Tensor]],
    config: TransformerConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    quant: Quantization = "none",
    attention: str = "auto",
    offload: Offload = "none",
    exact: bool = False,
) -> InfiniteTalkTransformer:
    """Make a model from official names and float tensors of the official shapes, with load_transformer's options."""
    device = torch.device(device)
    model, finish, writer = _prepare(config, {}, quant, device, dtype, offload, ())
    for name, tensor in parameters:
        writer.put(name, tensor, None)
    finish()
    set_activations(model, device, exact=exact)
    model.set_attention(attention)
    return model


def _prepare(
    config: TransformerConfig,
    stored: Mapping[str, EightBit],
    quant: Quantization,
    device: torch.device,
    dtype: torch.dtype,
    offload: Offload,
    loras: Sequence[Lora],
    *,
    pinned: bool = True,
) -> tuple[InfiniteTalkTransformer, Callable[[], None], "TransformerWriter"]:
    """An empty model with allocated memory, a function to call once it is filled, and the writer that fills it."""
    with torch.device("meta"):
        model = InfiniteTalkTransformer(config)
    replace_linears(model, lambda name, _: _kind_for(name, stored, quant))
    model.eval().requires_grad_(False)
    runner = place_weights(model, device, dtype, offload, pinned=pinned)

    def finish() -> None:
        if isinstance(runner, StreamedBlocks):
            runner.bind()
        model.runner = runner

    return model, finish, TransformerWriter(model, device, dtype, loras)


def set_activations(model: nn.Module, device: torch.device, *, exact: bool = False) -> None:
    """Let the products over all tokens compute in 8 bits where the device can, unless `exact`."""
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            dynamic = not exact and name.endswith(_DYNAMIC) and native_8bit(device, module.kind)
            module.activations = "dynamic" if dynamic else "exact"


def _kind_for(module: str, stored: Mapping[str, EightBit], quant: Quantization) -> EightBit | None:
    """The 8-bit kind of a module: the file's kind (q, k and v must agree), or else the rounding at load."""
    if stored:
        parent, _, leaf = module.rpartition(".")
        parts = [f"{parent}.{part}" for part in "qkv"] if leaf == "qkv" else [module]
        kinds = {stored.get(part) for part in parts}
        kind = kinds.pop() if len(kinds) == 1 else None
        return "int8" if kind == "fp8" and quant == "int8" else kind
    return None if quant == "none" or not module.startswith(_QUANTIZED_AT_LOAD) else quant


class TransformerWriter:
    """Turns stored tensors into parameters of the model."""

    def __init__(
        self, model: InfiniteTalkTransformer, device: torch.device, dtype: torch.dtype, loras: Sequence[Lora]
    ) -> None:
        self._modules = dict(model.named_modules())
        self.device, self._dtype, self._loras = device, dtype, loras
        self.changed = frozenset[str]().union(*(lora.targets for lora in loras))

    def read(self, file: OpenFile | GgufFile, key: str) -> None:
        """Store the tensor `key` of a file; a quantised weight is handled at its `_data`, together with its scale."""
        name = key.removesuffix("._data")
        self.put(name, file.tensor(key), file.tensor(f"{name}._scale") if key.endswith("._data") else None)

    def put(self, name: str, tensor: Tensor, scale: Tensor | None) -> None:
        """Store the parameter of this official name: a float tensor, or 8-bit data with its scale."""
        place = place_of(name)
        module = self._modules[place.module]
        if isinstance(module, QuantizedLinear) and place.parameter == "weight":
            if scale is None or name in self.changed or tensor.dtype != module.data.dtype:
                tensor, scale = quantize_rows(self._merged(name, self._plain(tensor, scale).float()), module.kind)
            rows_of(module.data, place.part).copy_(tensor)
            rows_of(module.scale, place.part).copy_(scale)
            return
        target = rows_of(cast(Tensor, getattr(module, place.parameter)), place.part)
        if scale is not None or name in self.changed:
            tensor = self._merged(name, self._plain(tensor, scale).view_as(target))
        target.copy_(tensor.view_as(target))

    def _plain(self, tensor: Tensor, scale: Tensor | None) -> Tensor:
        """The stored weight as a float tensor of the model's type on the device that computes."""
        tensor = tensor.to(self.device)
        if scale is None:
            return tensor.to(self._dtype)
        # Rounded weights keep all their bits until they have been merged and rounded again.
        rows = tensor.reshape(len(tensor), -1) if tensor.ndim else tensor.reshape(1, 1)
        return dequantize_rows(rows, scale.to(self.device), torch.float32).view(tensor.shape)

    def _merged(self, name: str, weight: Tensor) -> Tensor:
        return merge_all(self._loras, name, weight) if name in self.changed else weight
