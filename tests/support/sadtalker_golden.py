"""The paths of the golden data, and the recipe that fills networks with the same weights."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from golden_files import GoldenFiles
from golden_table import GoldenTable
from lipsync_server.engines.sadtalker.layout import Layout
from lipsync_server.engines.sadtalker.loading.model_files import build
from lipsync_server.engines.sadtalker.loading.official import UNUSED_PREFIXES, combined, mapping
from lipsync_server.engines.sadtalker.renderer.mapping import MappingNet
from safetensors import safe_open
from safetensors.torch import load_file
from sampled import known_numbers
from weight_recipes import named

_M = TypeVar("_M", bound=torch.nn.Module)

FILES = GoldenFiles("sadtalker")
SALT = "sadtalker-golden-v1"

TABLE = GoldenTable()


def within(case: str, limit: float, got: Any, wanted: Any, *, mean: bool = False, relative: bool = False) -> None:
    """Check `got` against a golden value and note the error: the largest one, or the mean."""
    a, b = (np.asarray(value, np.float64) for value in (got, wanted))
    assert a.shape == b.shape, f"{case}: shape {a.shape} instead of {b.shape}"
    there = known_numbers(b)
    assert there.any(), f"{case}: no golden value is committed"
    error = np.abs(a[there] / b[there] - 1) if relative else np.abs(a[there] - b[there])
    case = f"{case}, relative" if relative else case
    note(case, limit, float(error.mean() if mean else error.max()))


def levels_apart(ours: np.ndarray, golden: np.ndarray) -> np.ndarray:
    """The differences (n,) between a picture's levels and the golden ones that are known."""
    assert ours.shape == golden.shape
    there = known_numbers(golden)
    assert there.any()
    apart: np.ndarray = np.abs(ours[there].astype(int) - golden[there])
    return apart


def note(case: str, limit: float, seen: float) -> None:
    TABLE.note(case, limit, seen)


def small(name: str) -> Path:
    """A golden file that is committed under its own name."""
    return FILES.committed / name


def big(name: str) -> Path:
    """A golden file by its name in the whole golden data; a part of it is committed."""
    return FILES.path(name)


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def block(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A small block: its configuration, its weights, its inputs and outputs."""
    path = small(f"modules/small/{name}.safetensors")
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata().get("config", "{}"))
    tensors = load_file(path)
    weights = {key[8:]: value for key, value in tensors.items() if key.startswith("weights.")}
    return config, weights, {key: value for key, value in tensors.items() if not key.startswith("weights.")}


def recipe_tensor(name: str, shape: tuple[int, ...], salt: str = SALT) -> torch.Tensor:
    """The tensor that the golden data's README prescribes for a tensor's full name in the model files."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    return torch.from_numpy(named(name, shape, salt))


def recipe_network(
    network: Callable[[Layout], _M], prefix: str, shapes: Mapping[str, tuple[int, ...]] | None = None, salt: str = SALT
) -> _M:
    """A network at its published size with the golden data's weights."""
    if shapes is None:
        shapes = {name: shape for name, shape in combined().items() if not name.startswith(UNUSED_PREFIXES)}
    return build(network, recipe_tensors(shapes, f"{prefix}.", salt), prefix, "the recipe")


def recipe_mapping(n_coefficients: int) -> MappingNet:
    shapes = {f"mapping.{name}": shape for name, shape in mapping(n_coefficients).items()}
    return recipe_network(MappingNet, "mapping", shapes, SALT if n_coefficients == 70 else f"{SALT}:73")


def recipe_tensors(shapes: Mapping[str, tuple[int, ...]], prefix: str, salt: str = SALT) -> dict[str, torch.Tensor]:
    """Weights of the network whose full names start with `prefix`, by their names below it."""
    stored: dict[str, torch.Tensor] = {}
    if prefix == "generator.":
        stored = load_file(big("modules/generator_spectral_vectors.safetensors"))
    if prefix == "kp_extractor.":
        down = "kp_extractor.down.weight"
        stored = {down: load_file(big("modules/kp_detector.safetensors"))[down]}
    names = [name for name in shapes if name.startswith(prefix)]
    return {
        name[len(prefix) :]: stored[name] if name in stored else recipe_tensor(name, shapes[name], salt)
        for name in names
    }
