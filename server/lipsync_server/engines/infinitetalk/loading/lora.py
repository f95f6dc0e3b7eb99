"""LoRA files: read every common spelling, check it against the model, merge it into the weights while they are loaded.

Low-rank adaptation (https://arxiv.org/abs/2106.09685) stores a change of a large weight W (out, in) as two small
matrices, up (out, r) and down (r, in) with a rank r of 16 to 128:

    W' = W + scale * (alpha / r) * up down

The fast presets are such a change: a LoRA that lets the model denoise in 4 or 8 steps. Merged at load, it costs nothing
afterwards. Knows which tensors of a file belong together, ranks and alphas. lora_names.py knows how layers are spelled.
Does not know how weights are stored: `merge` gets a float weight and returns one. These keys are read:
  NAME.lora_down.weight + NAME.lora_up.weight, NAME.lora_A.weight + NAME.lora_B.weight: see above,
  NAME.lokr_w1 (or lokr_w1_a, lokr_w1_b) + NAME.lokr_w2 (or ..._a, ..._b): LoKr, the change is the Kronecker product
      w1 (x) w2 (https://arxiv.org/abs/2309.14859),
  NAME.hada_w1_a, hada_w1_b, hada_w2_a, hada_w2_b: LoHa, the change is the product of two low-rank matrices, number by
      number: (w1_a w1_b) * (w2_a w2_b) * (alpha / r) (https://arxiv.org/abs/2108.06098),
  NAME.dora_scale, NAME.lora_magnitude_vector: DoRA, each row (or column) of W + change is scaled to this length
      (https://arxiv.org/abs/2402.09353),
  NAME.diff, NAME.w_norm (added to the weight), NAME.diff_b, NAME.b_norm (to the bias), NAME.diff_m (to the block's
  modulation), NAME.alpha.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lipsync_server.engines.infinitetalk.loading.lora_names import LayerNames, is_of_another_model
from lipsync_server.errors import WeightsError

log = logging.getLogger(__name__)

_KEY = re.compile(
    r"^(?P<layer>.+?)[._](?:(?P<half>lora_down|lora_up|lora_A|lora_B|lora\.down|lora\.up)(?:\.default)?(?:\.weight)?"
    r"|(?P<lokr>lokr_w[12](?:_[ab])?)"
    r"|(?P<hada>hada_w[12]_[ab])"
    r"|(?P<extra>alpha|diff|diff_b|diff_m|w_norm|b_norm|dora_scale|lora_magnitude_vector(?:\.default)?(?:\.weight)?))$"
)
# Tensors of kinds of change that are not implemented here; such a file is refused.
_NOT_READ = re.compile(r"\.(?:lora_mid|lokr_t2|hada_t\w+|oft_\w+|[ab][12]|glora_\w+)(?:\.weight)?$")
_ADDED_TO = {"diff": "weight", "w_norm": "weight", "diff_b": "bias", "b_norm": "bias", "diff_m": "modulation"}


@dataclass
class _Layer:
    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None
    magnitude: Tensor | None = None
    lokr: dict[str, Tensor] = field(default_factory=dict)
    hada: dict[str, Tensor] = field(default_factory=dict)
    added: dict[str, tuple[str, Tensor]] = field(default_factory=dict)
    reference_style: bool = False
    keys: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Lora:
    """The contents of one file, checked: for each parameter its change. `ignored`: keys that change nothing here.

    pairs: (down, up, factor). krons: (w1, w2, factor). hadas: ((w1_a, w1_b, w2_a, w2_b), factor). magnitudes: the
    length of each row, (rows, 1), or of each column, (1, columns), after one of these changes.
    """

    path: Path
    scale: float
    pairs: Mapping[str, tuple[Tensor, Tensor, float]]
    differences: Mapping[str, Tensor]
    ignored: tuple[str, ...]
    krons: Mapping[str, tuple[Tensor, Tensor, float]] = field(default_factory=dict)
    magnitudes: Mapping[str, Tensor] = field(default_factory=dict)
    hadas: Mapping[str, tuple[tuple[Tensor, Tensor, Tensor, Tensor], float]] = field(default_factory=dict)

    @property
    def targets(self) -> frozenset[str]:
        """Official names of the parameters that this file changes."""
        return frozenset(self.pairs) | frozenset(self.differences) | frozenset(self.krons) | frozenset(self.hadas)

    def merge(self, name: str, weight: Tensor) -> Tensor:
        """The parameter `name` with this file's change added: float, any shape, and computed in the weight's type."""
        change: Tensor | None = None
        factor = 1.0
        if name in self.pairs:
            down, up, factor = self.pairs[name]
            change = up.to(weight) @ down.to(weight)
        elif name in self.krons:
            first, second, factor = self.krons[name]
            change = torch.kron(first.to(weight), second.to(weight))
        elif name in self.hadas:
            parts, factor = self.hadas[name]
            left, right, other_left, other_right = (part.to(weight) for part in parts)
            change = (left @ right) * (other_left @ other_right)
        if change is not None and name in self.magnitudes:
            moved = weight.flatten(1) + change.view_as(weight.flatten(1)) * factor
            magnitude = self.magnitudes[name].to(weight)
            length = moved.norm(dim=1 if magnitude.shape[1] == 1 else 0, keepdim=True)
            scaled = moved * (magnitude / length.clamp(min=torch.finfo(weight.dtype).tiny))
            weight = weight + (scaled.view_as(weight) - weight) * self.scale
        elif change is not None:
            weight = weight + change.view_as(weight) * (self.scale * factor)
        if name in self.differences:
            weight = weight + self.differences[name].to(weight) * self.scale
        return weight


def merge_all(loras: Iterable[Lora], name: str, weight: Tensor) -> Tensor:
    """The parameter `name` (float, any shape) with the changes of all files added, in their order."""
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
    krons: dict[str, tuple[Tensor, Tensor, float]] = {}
    magnitudes: dict[str, Tensor] = {}
    hadas: dict[str, tuple[tuple[Tensor, Tensor, Tensor, Tensor], float]] = {}
    for layer, found in layers.items():
        weight = f"{layer}.weight"
        if found.down is not None and found.up is not None:
            rank = found.down.shape[0]
            down, up = found.down.flatten(1), found.up.flatten(1)
            _check(path, found.keys[0], (up.shape[0], down.shape[1]), shapes.get(weight), paired=up.shape[1] == rank)
            applies = (not found.reference_style) if use_alpha is None else use_alpha
            pairs[weight] = (down, up, found.alpha / rank if applies and found.alpha is not None else 1.0)
        elif found.down is not None or found.up is not None:
            half = "up" if found.up is None else "down"
            raise WeightsError(f"{path.name} has {found.keys[0]} without its {half} half; the file is incomplete.")
        if found.lokr:
            krons[weight] = _kron(path, found, shapes.get(weight))
        if found.hada:
            hadas[weight] = _hada(path, found, shapes.get(weight))
        if found.magnitude is not None:
            magnitudes[weight] = _magnitude(
                path, found, shapes.get(weight), changed=weight in pairs or weight in krons or weight in hadas
            )
        for parameter, (key, difference) in found.added.items():
            name = f"{layer}.{parameter}"
            wanted = shapes.get(name)
            if wanted is None or _without_ones(difference.shape) != _without_ones(wanted):
                raise WeightsError(
                    f"{path.name}: the difference for {name} ({key}) is {list(difference.shape)}, the model has "
                    f"{_words(wanted)}. It was made for another model."
                )
            differences[name] = difference.reshape(wanted)
    if not pairs and not differences and not krons and not hadas:
        named = f" The first that it holds is {ignored[0]}." if ignored else ""
        raise WeightsError(
            f"{path.name} changes nothing in this model: no key of a known LoRA style was found in it.{named}"
        )
    if ignored:
        log.warning("%s: %d keys change nothing here and are ignored: %s", path.name, len(ignored), _some(ignored))
    return Lora(path, scale, pairs, differences, tuple(ignored), krons, magnitudes, hadas)


def _collect(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, _Layer], list[str]]:
    """Sort the file's tensors by layer. Layers that the model does not have are an error."""
    names = LayerNames({name.rpartition(".")[0] for name in shapes})
    layers: dict[str, _Layer] = {}
    ignored: list[str] = []
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                if is_of_another_model(key):
                    ignored.append(key)
                    continue
                if _NOT_READ.search(key):
                    raise WeightsError(
                        f"{path.name}: {key} belongs to a kind of change that is not read here. Read are LoRA, DoRA, "
                        "LoKr and LoHa without Tucker cores."
                    )
                match = _KEY.match(key)
                if match is None:
                    ignored.append(key)
                    continue
                # Some write `NAME.modulation.diff`, others `NAME.diff_m`.
                spelled = re.sub(r"[._]modulation$", "", match["layer"])
                layer = names.official(spelled)
                if layer is None:
                    raise WeightsError(
                        f"{path.name} changes a layer that this model does not have ({key}). "
                        "It was made for another model."
                    )
                _put(layers.setdefault(layer, _Layer()), match, key, file.get_tensor(key))
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"The LoRA file {path} cannot be read ({error}); download it again.") from error
    return layers, ignored


def _put(layer: _Layer, match: re.Match[str], key: str, tensor: Tensor) -> None:
    half, lokr, hada, extra = match["half"], match["lokr"], match["hada"], match["extra"]
    if extra != "alpha":
        layer.keys.append(key)
    if half in ("lora_down", "lora_A", "lora.down"):
        layer.down = tensor
        layer.reference_style = half == "lora_down" and key.startswith("diffusion_model.")
    elif half is not None:
        layer.up = tensor
    elif hada is not None:
        layer.hada[hada.removeprefix("hada_")] = tensor
    elif lokr is not None:
        layer.lokr[lokr.removeprefix("lokr_")] = tensor
    elif extra == "alpha":
        layer.alpha = float(tensor)
    elif extra in _ADDED_TO:
        whole = match["layer"].endswith("modulation")
        layer.added["modulation" if whole else _ADDED_TO[extra]] = (key, tensor)
    else:
        layer.magnitude = tensor


def _kron(path: Path, layer: _Layer, shape: tuple[int, ...] | None) -> tuple[Tensor, Tensor, float]:
    """The two factors of a LoKr change and its scale: alpha / rank, or 1 where neither factor is itself a product."""
    factors: list[Tensor] = []
    rank: int | None = None
    for part in ("w1", "w2"):
        whole, left, right = (layer.lokr.get(f"{part}{end}") for end in ("", "_a", "_b"))
        if whole is None and left is not None and right is not None and left.shape[1] == right.shape[0]:
            whole, rank = left @ right.flatten(1), right.shape[0]
        if whole is None:
            raise WeightsError(f"{path.name} has {layer.keys[0]} without lokr_{part}; the file is incomplete.")
        factors.append(whole.flatten(1))
    first, second = factors
    made = (first.shape[0] * second.shape[0], first.shape[1] * second.shape[1])
    _check(path, layer.keys[0], made, shape, paired=True)
    return first, second, layer.alpha / rank if layer.alpha is not None and rank is not None else 1.0


def _hada(
    path: Path, layer: _Layer, shape: tuple[int, ...] | None
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], float]:
    """The four factors of a LoHa change and its scale, alpha / rank."""
    names = ("w1_a", "w1_b", "w2_a", "w2_b")
    missing = [name for name in names if name not in layer.hada]
    if missing:
        raise WeightsError(f"{path.name} has {layer.keys[0]} without hada_{missing[0]}; the file is incomplete.")
    first, second, third, fourth = (layer.hada[name].flatten(1) for name in names)
    fits = first.shape[1] == second.shape[0] and third.shape[1] == fourth.shape[0]
    fits = fits and (first.shape[0], second.shape[1]) == (third.shape[0], fourth.shape[1])
    _check(path, layer.keys[0], (first.shape[0], second.shape[1]), shape, paired=fits)
    rank = second.shape[0]
    return (first, second, third, fourth), layer.alpha / rank if layer.alpha is not None else 1.0


def _magnitude(path: Path, layer: _Layer, shape: tuple[int, ...] | None, *, changed: bool) -> Tensor:
    """The lengths as (rows, 1) or (1, columns); a vector is one for the rows, as PEFT writes it."""
    assert layer.magnitude is not None
    key = next(key for key in layer.keys if "dora_scale" in key or "magnitude" in key)
    rows, columns = (0, 0) if shape is None else (shape[0], int(torch.Size(shape[1:]).numel()))
    given = tuple(layer.magnitude.shape)
    of_columns = given[:1] == (1,) and layer.magnitude.numel() == columns and len(given) > 1
    if not changed or not (of_columns or layer.magnitude.numel() == rows):
        raise WeightsError(
            f"{path.name}: {key} is {list(given)}, and the model's weight {_words(shape)}"
            f"{'' if changed else ', and the file holds no change for it'}. It was made for another model."
        )
    return layer.magnitude.reshape((1, columns) if of_columns else (rows, 1))


def _without_ones(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _some(keys: list[str]) -> str:
    """The first keys of a list, for a log line."""
    return ", ".join(keys[:5]) + (" and more" if len(keys) > 5 else "")


def _check(path: Path, key: str, made: tuple[int, int], shape: tuple[int, ...] | None, *, paired: bool) -> None:
    wanted = None if shape is None else (shape[0], int(torch.Size(shape[1:]).numel()))
    if not paired or made != wanted:
        raise WeightsError(
            f"{path.name}: {key} makes a {list(made)} change where the model has {_words(shape)}. "
            "It was made for another model, or is damaged."
        )


def _words(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else str(list(shape))
