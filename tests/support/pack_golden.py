"""Packs a safetensors file of golden data, as `tests/data` holds it.

    python tests/support/pack_golden.py ../shared/flashtalk/A_dit/dit_tiny.safetensors \
        tests/data/flashtalk/A_dit/dit_tiny.packed --seed 7101

With --seed, the tensors that `torch.randn` drew after it are found by comparison, one after the other. With --named
PREFIX=NAME and --salt, tensors under PREFIX are functions of their names (weight_recipes.py).
"""

import argparse
import copy
import math
from pathlib import Path

import numpy as np
from packed_tensors import Recipe, pack
from safetensors.torch import load_file
from weight_recipes import TorchNormals

# So few numbers can be alike by accident.
_FEW = 4


def drawn_after(seed: int, file: Path) -> list[tuple[str, float, float]]:
    """(name, scale, shift) of the tensors of `file` that were drawn after `seed`, in their order."""
    left = {name: t.float().numpy().reshape(-1) for name, t in sorted(load_file(file).items()) if t.is_floating_point()}
    shapes = {name: tuple(t.shape) for name, t in load_file(file).items()}
    normals, found = TorchNormals(seed), list[tuple[str, float, float]]()
    while True:
        for name, values in left.items():
            trial = copy.deepcopy(normals)
            x = trial.draw(len(values))
            if _alike(x, values):
                break
        else:
            return found
        scale, shift = _line(x.astype(np.float64), values.astype(np.float64), shapes[name])
        found.append((name, scale, shift))
        normals = trial
        del left[name]


def _alike(x: np.ndarray, values: np.ndarray) -> bool:
    """Whether `values` are x scaled and shifted. Three or fewer numbers are compared with a bias and a norm's weight."""
    if len(values) <= _FEW:
        return any(np.abs(values - scale * x - shift).max() < 0.01 for scale, shift in ((0.1, 0), (0.2, 1)))
    return bool(values.std() and np.corrcoef(x[:512], values[:512])[0, 1] > 0.999)


def _line(x: np.ndarray, y: np.ndarray, shape: tuple[int, ...]) -> tuple[float, float]:
    """Scale and shift of y = scale * x + shift: plain numbers where they fit, a scale over the root of the inputs."""
    n_inputs = math.prod(shape[1:])
    scale, shift = np.polyfit(x, y, 1) if len(x) > _FEW else ((0.1, 0.0) if np.abs(y).max() < 0.5 else (0.2, 1.0))
    plain = [(round(scale * root, 2) / root, float(round(shift))) for root in (1.0, math.sqrt(n_inputs))]
    error = {pair: float(np.abs(y - pair[0] * x - pair[1]).mean()) for pair in (*plain, (float(scale), float(shift)))}
    return next(pair for pair in error if error[pair] <= 1.05 * min(error.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--named", action="append", default=[], metavar="PREFIX=NAME")
    parser.add_argument("--salt", default="")
    given = parser.parse_args()
    drawn = [] if given.seed is None else drawn_after(given.seed, given.source)
    recipe = Recipe(given.seed or 0, drawn, given.salt, dict(pair.split("=", 1) for pair in given.named))
    pack(given.source, given.target, recipe)
    print(f"{given.target}: {given.source.stat().st_size} -> {given.target.stat().st_size} bytes, {len(drawn)} drawn")


if __name__ == "__main__":
    main()
