"""LoRA files: read every common spelling, check it against the model, merge it into the weights while they are loaded.

Low-rank adaptation (https://arxiv.org/abs/2106.09685) stores a change of a large weight W (out, in) as two small
matrices, up (out, r) and down (r, in) with a rank r of 16 to 128:

    W' = W + scale * (alpha / r) * up down

The fast presets are such a change: a LoRA that lets the model denoise in 4 or 8 steps. Merged at load, it costs nothing
afterwards. This module puts the tensors of a layer together and checks their shapes. lora_keys.py knows which tensor is
which, and lora_changes.py has the mathematics of every kind. Does not know how weights are stored: `merge` gets a float
weight and returns one. These keys are read, NAME being a layer in any spelling of lora_names.py:

  NAME.lora_down.weight + lora_up.weight (or lora_A + lora_B), lora_mid.weight    LoRA, with a Tucker core
  NAME.lokr_w1 (or lokr_w1_a + _b), lokr_w2 (or lokr_w2_a + _b), lokr_t2          LoKr
  NAME.hada_w1_a, hada_w1_b, hada_w2_a, hada_w2_b, hada_t1, hada_t2               LoHa
  NAME.a1.weight, a2.weight, b1.weight, b2.weight                                 GLoRA
  NAME.oft_blocks, rescale                                                        OFT; BOFT has 4 dimensions
  NAME.dora_scale, lora_magnitude_vector                                          DoRA, on top of one of these
  NAME.diff, w_norm (added to the weight), diff_b, b_norm (to the bias), diff_m (to the block's modulation)
  NAME.alpha                                                                      OFT and BOFT: a bound; else as above
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lipsync_server.engines.infinitetalk.files.lora_keys import LoraKey, read_keys
from lipsync_server.engines.infinitetalk.files.lora_names import LayerNames
from lipsync_server.engines.infinitetalk.loading import lora_changes
from lipsync_server.engines.infinitetalk.loading.lora_changes import Change, Product
from lipsync_server.errors import WeightsError
from lipsync_server.models.tensor_files.layouts import without_ones
from lipsync_server.models.tensor_files.safetensors_files import WeightFiles

log = logging.getLogger(__name__)

_ADDED_TO = {"diff": "weight", "w_norm": "weight", "diff_b": "bias", "b_norm": "bias", "diff_m": "modulation"}


@dataclass
class _Layer:
    """The tensors of one layer by part, and the keys that they came from, in the file's order."""

    parts: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    ignores_alpha: bool = False

    @property
    def alpha(self) -> float | None:
        return float(self.parts["alpha"]) if "alpha" in self.parts else None

    def product(self, left: str, right: str, core: str = "") -> Product:
        return Product(self.parts[left], self.parts[right], self.parts.get(core))


@dataclass(frozen=True)
class Lora:
    """The contents of one file, checked: for each parameter its changes. `ignored`: keys that change nothing here."""

    path: Path
    scale: float
    changes: Mapping[str, tuple[Change, ...]]
    ignored: tuple[str, ...]

    @property
    def targets(self) -> frozenset[str]:
        """Official names of the parameters that this file changes."""
        return frozenset(self.changes)

    def merge(self, name: str, weight: Tensor) -> Tensor:
        """The parameter `name` with this file's changes added: float, any shape, and computed in the weight's type."""
        for change in self.changes.get(name, ()):
            weight = weight + change(weight, self.scale)
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
    changes: dict[str, tuple[Change, ...]] = {}
    for layer, found in layers.items():
        applies = (not found.ignores_alpha) if use_alpha is None else use_alpha
        reader = _LayerReader(path, layer, found, shapes, uses_alpha=applies)
        for name, change in reader.changes():
            changes[name] = (*changes.get(name, ()), change)
    if ignored:
        log.warning("%s: %d keys change nothing here and are ignored: %s", path.name, len(ignored), _some(ignored))
    return Lora(path, scale, changes, tuple(ignored))


def _collect(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, _Layer], list[str]]:
    """Sort the file's tensors by layer. Layers that the model does not have are an error."""
    names = LayerNames({name.rpartition(".")[0] for name in shapes})
    layers: dict[str, _Layer] = {}
    files = WeightFiles([path])
    keys, ignored = read_keys(path.name, files.entries, names)
    for _, file in files:
        for key in keys:
            _put(path, layers.setdefault(key.layer, _Layer()), key, file.tensor(key.key))
    return layers, ignored


def _put(path: Path, layer: _Layer, key: LoraKey, tensor: Tensor) -> None:
    if key.part in layer.parts:
        raise WeightsError(f"{path.name} holds {layer.keys[key.part]} and {key.key}, which are the same tensor.")
    layer.parts[key.part] = tensor
    layer.keys[key.part] = key.key
    layer.ignores_alpha |= key.ignores_alpha


@dataclass(frozen=True)
class _LayerReader:
    """One layer of a file, to be checked and made into changes.

    Each `_low_rank`, `_lokr`, ... returns the change of its kind, or None if the file holds none for this layer.
    """

    path: Path
    layer: str
    found: _Layer
    shapes: Mapping[str, tuple[int, ...]]
    uses_alpha: bool

    def changes(self) -> Iterable[tuple[str, Change]]:
        """Each parameter's official name with a change of it. Raises WeightsError for parts that do not fit."""
        weight = f"{self.layer}.weight"
        kinds = (self._low_rank(), self._lokr(), self._loha(), self._glora(), self._rotation())
        own = [change for change in kinds if change is not None]
        if "magnitude" in self.found.parts:
            magnitude = self._magnitude(changed=len(own) == 1)
            own = [lora_changes.with_magnitude(own[0], magnitude)]
        yield from ((weight, change) for change in own)
        for part, parameter in _ADDED_TO.items():
            if part in self.found.parts:
                yield self._difference(part, f"{self.layer}.{parameter}")

    def _low_rank(self) -> Change | None:
        parts = self.found.parts
        if "down" not in parts and "up" not in parts:
            self._refuse_alone("mid", "its down half")
            return None
        for half in ("down", "up"):
            if half not in parts:
                raise self._incomplete(f"its {half} half")
        down, up, mid = parts["down"], parts["up"], parts.get("mid")
        product = Product(up, down) if mid is None else Product(up.flatten(1).T, down, mid)
        self._check(product.shape, fits=product.shape != (0, 0))
        return lora_changes.low_rank(product, self._factor(down.shape[0]))

    def _lokr(self) -> Change | None:
        if not any(name.startswith("lokr_") for name in self.found.parts):
            return None
        first, second = (self._lokr_factor(part) for part in ("w1", "w2"))
        made = (first.shape[0] * second.shape[0], first.shape[1] * second.shape[1])
        self._check(made, fits=True)
        # alpha counts only where a factor is itself a product.
        rank = second.rank or first.rank
        return lora_changes.kronecker(first, second, 1.0 if rank is None else self._factor(rank))

    def _lokr_factor(self, part: str) -> Product:
        parts = self.found.parts
        if f"lokr_{part}" in parts:
            return Product(parts[f"lokr_{part}"])
        for end in ("_a", "_b"):
            if f"lokr_{part}{end}" not in parts:
                raise self._incomplete(f"lokr_{part}")
        return self.found.product(f"lokr_{part}_a", f"lokr_{part}_b", "lokr_t2" if part == "w2" else "")

    def _loha(self) -> Change | None:
        if not any(name.startswith("hada_") for name in self.found.parts):
            return None
        has_core = "hada_t1" in self.found.parts or "hada_t2" in self.found.parts
        wanted = [f"hada_w{n}_{half}" for n in (1, 2) for half in "ab"] + (["hada_t1", "hada_t2"] if has_core else [])
        for name in wanted:
            if name not in self.found.parts:
                raise self._incomplete(name)
        first, second = (self.found.product(f"hada_w{n}_a", f"hada_w{n}_b", f"hada_t{n}") for n in (1, 2))
        self._check(first.shape, fits=first.shape == second.shape)
        return lora_changes.hadamard(first, second, self._factor(self.found.parts["hada_w1_b"].shape[0]))

    def _glora(self) -> Change | None:
        names = ("a1", "a2", "b1", "b2")
        if not any(name in self.found.parts for name in names):
            return None
        for name in names:
            if name not in self.found.parts:
                raise self._incomplete(f"{name}.weight")
        rows, _ = self._wanted()
        parts = [self.found.parts[name] for name in names]
        a1, a2, b1, b2 = lora_changes.glora_in_order(parts, rows)
        inputs = (self.shapes.get(f"{self.layer}.weight") or (0, 0))[1]
        rank = a2.shape[0]
        fits = (a1.shape, a2.shape) == ((inputs, rank), (rank, inputs)) and b1.shape[1] == b2.shape[0]
        self._check((b1.shape[0], b2.shape[1]), fits=fits)
        return lora_changes.generalised(a1, a2, b1, b2, self._factor(rank))

    def _rotation(self) -> Change | None:
        blocks, rescale = self.found.parts.get("oft_blocks"), self.found.parts.get("rescale")
        if blocks is None:
            self._refuse_alone("rescale", "oft_blocks")
            return None
        rows, columns = self._wanted()
        square = blocks.ndim in (3, 4) and blocks.shape[-1] == blocks.shape[-2]
        turned = int(torch.Size(blocks.shape[-3:-1]).numel())
        # The last step of a butterfly joins rows that are half a block times 2^(m-1) apart.
        n = blocks.shape[-1]
        reaches = blocks.ndim == 3 or (n % 2 == 0 and turned % (2 ** blocks.shape[0] * max(1, n // 2)) == 0)
        fits = square and reaches and (rescale is None or rescale.numel() == rows)
        self._check((turned, columns), fits=fits)
        # LyCORIS and kohya's scripts keep the bound for one row; ComfyUI does not multiply.
        return lora_changes.rotated(blocks, rescale, (self.found.alpha or 0.0) * rows)

    def _magnitude(self, *, changed: bool) -> Tensor:
        """The lengths as (rows, 1) or (1, columns); a vector is one for the rows, as PEFT writes it."""
        magnitude, key = self.found.parts["magnitude"], self.found.keys["magnitude"]
        rows, columns = self._wanted()
        given = tuple(magnitude.shape)
        of_columns = given[:1] == (1,) and magnitude.numel() == columns and len(given) > 1
        if not changed or not (of_columns or magnitude.numel() == rows):
            raise WeightsError(
                f"{self.path.name}: {key} is {list(given)}, and the model's weight {self._model_has('weight')}"
                f"{'' if changed else ', and the file holds no change for it'}. It was made for another model."
            )
        return magnitude.reshape((1, columns) if of_columns else (rows, 1))

    def _difference(self, part: str, name: str) -> tuple[str, Change]:
        difference, key, wanted = self.found.parts[part], self.found.keys[part], self.shapes.get(name)
        if wanted is None or without_ones(difference.shape) != without_ones(wanted):
            raise WeightsError(
                f"{self.path.name}: the difference for {name} ({key}) is {list(difference.shape)}, the model has "
                f"{self._model_has(name.rpartition('.')[2])}. It was made for another model."
            )
        shaped = difference.reshape(wanted)
        return name, lambda weight, scale: shaped.to(weight) * scale

    def _factor(self, rank: int) -> float:
        """alpha / rank; 1 for a file without alpha, and for one whose alpha does not count."""
        alpha = self.found.alpha
        return alpha / rank if self.uses_alpha and alpha is not None else 1.0

    def _refuse_alone(self, part: str, needed: str) -> None:
        if part in self.found.parts:
            raise self._incomplete(needed)

    def _incomplete(self, lacking: str) -> WeightsError:
        key = next(key for part, key in self.found.keys.items() if part != "alpha")
        return WeightsError(f"{self.path.name} has {key} without {lacking}; the file is incomplete.")

    def _check(self, made: tuple[int, int], *, fits: bool) -> None:
        """Raise WeightsError unless the parts fit each other (`fits`) and make a change of the weight's shape."""
        if fits and made == self._wanted():
            return
        key = next(key for part, key in self.found.keys.items() if part != "alpha")
        if not fits:
            raise WeightsError(
                f"{self.path.name}: {key} and the tensors beside it do not fit together. The file is damaged."
            )
        raise WeightsError(
            f"{self.path.name}: {key} makes a {list(made)} change where the model has {self._model_has('weight')}. "
            "It was made for another model."
        )

    def _wanted(self) -> tuple[int, int]:
        """Rows and columns of the layer's weight; (0, 0) where it has none."""
        shape = self.shapes.get(f"{self.layer}.weight")
        return (0, 0) if shape is None else (shape[0], int(torch.Size(shape[1:]).numel()))

    def _model_has(self, parameter: str) -> str:
        shape = self.shapes.get(f"{self.layer}.{parameter}")
        return "nothing" if shape is None else str(list(shape))


def _some(keys: list[str]) -> str:
    """The first keys of a list, for a log line."""
    return ", ".join(keys[:5]) + (" and more" if len(keys) > 5 else "")
