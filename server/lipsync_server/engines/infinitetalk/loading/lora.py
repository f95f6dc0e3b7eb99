"""LoRA files: read every common spelling, check it against the model, merge it into the weights while they are loaded.

Low-rank adaptation (https://arxiv.org/abs/2106.09685) stores a change of a large weight W (out, in) as two small
matrices, up (out, r) and down (r, in) with a rank r of 16 to 128:

    W' = W + scale * (alpha / r) * up down

The fast presets are such a change: a LoRA that lets the model denoise in 4 or 8 steps. Merged at load, it costs nothing
afterwards. Knows key spellings, ranks and alphas. Does not know where weights are or how they are stored: `merge` is
handed a float weight and returns one. Accepted keys, with or without a `diffusion_model.` (or similar) prefix:
  NAME.lora_down.weight + NAME.lora_up.weight, NAME.lora_A.weight + NAME.lora_B.weight, lora_unet_NAME_... (kohya),
  NAME.diff (added to the weight), NAME.diff_b (added to the bias), NAME.alpha.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lipsync_server.errors import WeightsError

log = logging.getLogger(__name__)

_PREFIX = re.compile(r"^(?:model\.)?(?:diffusion_model|transformer|base_model\.model|dit)\.")
_KEY = re.compile(
    r"^(?P<layer>.+?)\.(?:(?P<half>lora_down|lora_up|lora_A|lora_B)(?:\.default)?(?:\.weight)?|(?P<extra>alpha|diff|diff_b))$"
)
_KOHYA = "lora_unet_"


@dataclass
class _Layer:
    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None
    diff: Tensor | None = None
    diff_b: Tensor | None = None
    reference_style: bool = False
    keys: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Lora:
    """One file, checked: what it adds to which parameter. `ignored`: keys in no known spelling."""

    path: Path
    scale: float
    pairs: Mapping[str, tuple[Tensor, Tensor, float]]
    differences: Mapping[str, Tensor]
    ignored: tuple[str, ...]

    @property
    def targets(self) -> frozenset[str]:
        """Official names of the parameters that this file changes."""
        return frozenset(self.pairs) | frozenset(self.differences)

    def merge(self, name: str, weight: Tensor) -> Tensor:
        """The parameter `name` with this file added, computed in the weight's type, as the reference does."""
        if name in self.pairs:
            down, up, factor = self.pairs[name]
            product = up.to(weight) @ down.to(weight)
            weight = weight + product.view_as(weight) * (self.scale * factor)
        if name in self.differences:
            weight = weight + self.differences[name].to(weight) * self.scale
        return weight


def merge_all(loras: Iterable[Lora], name: str, weight: Tensor) -> Tensor:
    """The parameter `name` with all files added, in their order."""
    for lora in loras:
        weight = lora.merge(name, weight)
    return weight


def read_lora(
    path: Path, scale: float, shapes: Mapping[str, tuple[int, ...]], *, use_alpha: bool | None = None
) -> Lora:
    """Read a LoRA file for a model whose parameters have these official names and shapes.

    use_alpha: whether the factor alpha / rank applies. None decides by the spelling: the reference ignores alpha in
    `diffusion_model.*.lora_down/up` files, and the presets' scales were tuned that way; kohya's and PEFT's need it.
    Raises WeightsError naming the file and the key for an unreadable file, an unknown layer, a wrong shape, half a
    pair, or a file that changes nothing.
    """
    layers, ignored = _collect(path, shapes)
    pairs: dict[str, tuple[Tensor, Tensor, float]] = {}
    differences: dict[str, Tensor] = {}
    for layer, found in layers.items():
        weight, bias = f"{layer}.weight", f"{layer}.bias"
        if found.down is not None and found.up is not None:
            rank = found.down.shape[0]
            down, up = found.down.flatten(1), found.up.flatten(1)
            _check(path, found.keys[0], (up.shape[0], down.shape[1]), shapes.get(weight), paired=up.shape[1] == rank)
            applies = (not found.reference_style) if use_alpha is None else use_alpha
            pairs[weight] = (down, up, found.alpha / rank if applies and found.alpha is not None else 1.0)
        elif found.down is not None or found.up is not None:
            half = "up" if found.up is None else "down"
            raise WeightsError(f"{path.name} has {found.keys[0]} without its {half} half; the file is incomplete.")
        for name, difference in ((weight, found.diff), (bias, found.diff_b)):
            if difference is not None:
                if tuple(difference.shape) != shapes.get(name):
                    raise WeightsError(
                        f"{path.name}: the difference for {name} is {list(difference.shape)}, the model has "
                        f"{_words(shapes.get(name))}. It was made for another model."
                    )
                differences[name] = difference
    if not pairs and not differences:
        raise WeightsError(f"{path.name} changes nothing in this model: no key of a known LoRA style was found in it.")
    if ignored:
        log.warning("%s: %d keys ignored, for example %s", path.name, len(ignored), ignored[0])
    return Lora(path, scale, pairs, differences, tuple(ignored))


def _collect(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, _Layer], list[str]]:
    """Sort the file's tensors by layer. Layers that the model does not have are an error."""
    kohya = {
        name.removesuffix(".weight").replace(".", "_"): name.removesuffix(".weight")
        for name in shapes
        if name.endswith(".weight")
    }
    layers: dict[str, _Layer] = {}
    ignored: list[str] = []
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                match = _KEY.match(key)
                if match is None:
                    ignored.append(key)
                    continue
                spelled = match["layer"]
                if spelled.startswith(_KOHYA):
                    layer = kohya.get(spelled.removeprefix(_KOHYA), spelled)
                else:
                    layer = _PREFIX.sub("", spelled)
                if f"{layer}.weight" not in shapes:
                    raise WeightsError(
                        f"{path.name} changes a layer that this model does not have ({key}). "
                        "It was made for another model."
                    )
                _put(layers.setdefault(layer, _Layer()), match, key, file.get_tensor(key))
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"The LoRA file {path} cannot be read ({error}); download it again.") from error
    return layers, ignored


def _put(layer: _Layer, match: re.Match[str], key: str, tensor: Tensor) -> None:
    half, extra = match["half"], match["extra"]
    if extra != "alpha":
        layer.keys.append(key)
    if half in ("lora_down", "lora_A"):
        layer.down = tensor
        layer.reference_style = half == "lora_down" and key.startswith("diffusion_model.")
    elif half is not None:
        layer.up = tensor
    elif extra == "alpha":
        layer.alpha = float(tensor)
    elif extra == "diff":
        layer.diff = tensor
    else:
        layer.diff_b = tensor


def _check(path: Path, key: str, made: tuple[int, int], shape: tuple[int, ...] | None, *, paired: bool) -> None:
    wanted = None if shape is None else (shape[0], int(torch.Size(shape[1:]).numel()))
    if not paired or made != wanted:
        raise WeightsError(
            f"{path.name}: {key} makes a {list(made)} change where the model has {_words(shape)}. "
            "It was made for another model, or is damaged."
        )


def _words(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else str(list(shape))
