"""Packs a file of golden data, as `tests/data` holds it: safetensors, or a .npz file of arrays.

    python tests/support/pack_golden.py ../shared/flashtalk/A_dit/dit_tiny.safetensors \
        tests/data/flashtalk/A_dit/dit_tiny.packed --seed 7101
    python tests/support/pack_golden.py ../shared/sadtalker/pipeline.npz tests/data/sadtalker/pipeline.npz.xz

With --seed, the tensors that `torch.randn` drew after it are found by comparison, one after the other. With --seeds
FILE, a JSON object gives the seed of each tensor that has one of its own. With --named PREFIX=NAME and --salt, tensors
under PREFIX are functions of their names (weight_recipes.py). With --again, the recipe is that of the present packed
file. With --sampled PATTERN, every n-th value is packed of the tensors whose whole name the pattern meets
(sampled.py). With --without PATTERN, tensors are left out.
"""

import argparse
import copy
import dataclasses
import io
import json
import lzma
import math
import re
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from packed_tensors import XZ, Recipe, pack, recipe_of
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sampled import step_for
from torch import Tensor
from weight_recipes import TorchNormals

Numbers = NDArray[np.float64]
Drawn = tuple[str, float, float]  # name, scale, shift

# So few numbers can be alike by accident.
_FEW = 4


def pack_arrays(source: Path, target: Path) -> None:
    """Compress the arrays of a .npz file by xz, with the difference to the pixel on the left where that is smaller."""
    plain = io.BytesIO()
    with np.load(source) as arrays:
        np.savez(plain, **arrays)
    pixels = {"id": lzma.FILTER_DELTA, "dist": 3}
    packed = [lzma.compress(plain.getvalue(), lzma.FORMAT_XZ, filters=chain) for chain in (XZ, [pixels, *XZ])]
    target.write_bytes(min(packed, key=len))


def drawn_after(seed: int, file: Path) -> list[Drawn]:
    """The tensors of `file` that were drawn after `seed`, in their order."""
    tensors = {name: t for name, t in sorted(load_file(file).items()) if t.is_floating_point()}
    normals, found = TorchNormals(seed), list[Drawn]()
    while step := _next_draw(normals, tensors):
        name, x, normals = step
        tensor = tensors.pop(name)
        found.append((name, *_line(x, _numbers(tensor), math.prod(tensor.shape[1:]))))
    return found


def drawn_alone(seeds: dict[str, int], file: Path) -> dict[str, tuple[int, float, float]]:
    """(seed, scale, shift) of the tensors of `file` that `seeds` names; raises ValueError for one of another seed."""
    tensors, found = load_file(file), dict[str, tuple[int, float, float]]()
    for name, seed in sorted(seeds.items()):
        x, y = TorchNormals(seed).draw(tensors[name].numel()).astype(np.float64), _numbers(tensors[name])
        if not _alike(x, y):
            raise ValueError(f"{name} was not drawn after the seed {seed}")
        found[name] = (seed, *_line(x, y, math.prod(tensors[name].shape[1:])))
    return found


def _next_draw(normals: TorchNormals, tensors: dict[str, Tensor]) -> tuple[str, Numbers, TorchNormals] | None:
    """The tensor that the generator's next numbers became: its name, the numbers, and the generator after them."""
    for name, tensor in tensors.items():
        after = copy.deepcopy(normals)
        x = after.draw(tensor.numel()).astype(np.float64)
        if _alike(x, _numbers(tensor)):
            return name, x, after
    return None


def _numbers(tensor: Tensor) -> Numbers:
    return tensor.double().reshape(-1).numpy()


def _alike(x: Numbers, values: Numbers) -> bool:
    """Whether `values` are x scaled and shifted; a few numbers: as a bias or as a norm's weight is."""
    if len(values) <= _FEW:
        return any(np.abs(values - scale * x - shift).max() < 0.01 for scale, shift in ((0.1, 0), (0.2, 1)))
    return bool(values.std() and np.corrcoef(x[:512], values[:512])[0, 1] > 0.999)


def _line(x: Numbers, y: Numbers, n_inputs: int) -> tuple[float, float]:
    """Scale and shift of y = scale * x + shift: plain numbers where they fit, a scale over the root of the inputs."""
    scale, shift = np.polyfit(x, y, 1) if len(x) > _FEW else ((0.1, 0.0) if np.abs(y).max() < 0.5 else (0.2, 1.0))
    plain = [(round(scale * root, 2) / root, float(round(shift))) for root in (1.0, math.sqrt(n_inputs))]
    error = {pair: float(np.abs(y - pair[0] * x - pair[1]).mean()) for pair in (*plain, (float(scale), float(shift)))}
    return next(pair for pair in error if error[pair] <= 1.05 * min(error.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", type=Path)
    parser.add_argument("--rounded", metavar="TYPE", help="the type to which the drawn numbers were rounded before")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--named", action="append", default=[], metavar="PREFIX=NAME")
    parser.add_argument("--salt", default="")
    parser.add_argument("--sampled", metavar="PATTERN", default="")
    parser.add_argument("--without", metavar="PATTERN", default="")
    given = parser.parse_args()
    if given.source.suffix == ".npz":
        pack_arrays(given.source, given.target)
        print(f"{given.target}: {given.source.stat().st_size} -> {given.target.stat().st_size} bytes")
        return
    if given.again:
        recipe = recipe_of(given.target)
    else:
        drawn = [] if given.seed is None else drawn_after(given.seed, given.source)
        alone = {} if given.seeds is None else drawn_alone(json.loads(given.seeds.read_text()), given.source)
        named = dict(pair.split("=", 1) for pair in given.named)
        recipe = Recipe(given.seed or 0, drawn, alone, given.rounded, salt=given.salt, prefixes=named)
    tensors = {name: t for name, t in load_file(given.source).items() if not re.fullmatch(given.without, name)}
    names = [name for name in tensors if re.fullmatch(given.sampled, name)]
    recipe = dataclasses.replace(recipe, sampled={name: step_for(tensors[name]) for name in names})
    with tempfile.TemporaryDirectory() as scratch, safe_open(given.source, "pt") as file:
        save_file(tensors, part := Path(scratch) / "part.safetensors", file.metadata())
        pack(part, given.target, recipe)
    n_drawn = len(recipe.drawn) + len(recipe.alone)
    print(f"{given.target}: {given.source.stat().st_size} -> {given.target.stat().st_size} bytes, {n_drawn} drawn")


if __name__ == "__main__":
    main()
