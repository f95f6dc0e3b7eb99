"""The random numbers that the golden data was made from, the same on every machine and with every version of torch.

Two kinds of recipe exist. `TorchNormals` computes `torch.randn` after a seed; the tensors of a file were drawn
one after the other. `named` computes SadTalker's weights: each tensor is a function of its name in the model files.

The generators work on integers, and the logarithm, sine and cosine here use +, -, *, / and the square root alone,
which IEEE 754 rounds in one way. Only the last bits of some numbers differ from torch's own.
"""

import json
import math
import re
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_RECIPE = Path(__file__).resolve().parents[1] / "data" / "sadtalker" / "weight_recipe.json"


class TorchNormals:
    """The numbers of `torch.randn` on a CPU, computed without torch, so that they do not depend on its version.

    torch draws 32-bit words from a Mersenne twister and turns pairs of uniform numbers into pairs of normal ones
    (Box and Muller). From 16 numbers on it works on float32 in groups of 16; below, on float64 one by one.
    """

    def __init__(self, seed: int) -> None:
        self._twister = np.random.RandomState(seed)
        self._kept: float | None = None

    def draw(self, n: int) -> NDArray[np.float32]:
        """The next `n` numbers, as one call of torch.randn with n elements returns them, but for the last bits."""
        if n < 16:
            return np.array([self._one() for _ in range(n)], np.float32)
        uniform = self._uniform(n)
        whole = n - n % 16
        out = np.empty(n, np.float32)
        out[:whole] = _box_muller(uniform[:whole].reshape(-1, 2, 8)).reshape(-1)
        if n % 16:  # torch draws the last sixteen anew
            out[-16:] = _box_muller(self._uniform(16).reshape(1, 2, 8)).reshape(-1)
        return out

    def _words(self, n: int) -> NDArray[np.uint64]:
        return self._twister.randint(0, 2**32, n, dtype=np.uint32).astype(np.uint64)

    def _uniform(self, n: int) -> NDArray[np.float32]:
        return (self._words(n) & np.uint64(2**24 - 1)).astype(np.float32) / np.float32(2**24)

    def _one(self) -> float:
        if self._kept is not None:
            one, self._kept = self._kept, None
            return one
        high, low = self._words(4).reshape(2, 2).T
        share, other = (((high << np.uint64(32)) | low) & np.uint64(2**53 - 1)).astype(np.float64)[:, None] / 2**53
        length = np.sqrt(-2 * _log(1 - other))
        cosine, sine = _circle(2 * math.pi * share)
        self._kept = float((length * sine)[0])
        return float((length * cosine)[0])


def _box_muller(pairs: NDArray[np.float32]) -> NDArray[np.float32]:
    """pairs: (groups, 2, 8) uniform numbers -> as many normal ones, each step rounded to float32 as torch does."""
    logarithm = _log((1 - pairs[:, 0]).astype(np.float64)).astype(np.float32)
    length = np.sqrt(np.float32(-2) * logarithm)
    angle = np.float32(2 * math.pi) * pairs[:, 1]
    cosine, sine = _circle(angle.astype(np.float64))
    return np.stack((length * cosine.astype(np.float32), length * sine.astype(np.float32)), axis=1)


def _log(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural logarithm for x > 0: ln(m * 2^e) = e ln 2 + 2 atanh((m - 1) / (m + 1)), the latter as its series."""
    mantissa, exponent = np.frexp(x)
    low = mantissa < math.sqrt(0.5)
    mantissa, exponent = np.where(low, 2 * mantissa, mantissa), exponent - low
    z = (mantissa - 1) / (mantissa + 1)
    total = np.zeros_like(z)
    for power in range(25, 0, -2):
        total = total * (z * z) + 1 / power
    logarithm: NDArray[np.float64] = exponent * math.log(2) + 2 * z * total
    return logarithm


def _circle(angle: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosine and sine of an angle in radians, by their series within an eighth of the circle."""
    quarter = np.round(angle / (math.pi / 2))
    x = angle - quarter * (math.pi / 2)
    cosine, sine = np.zeros_like(x), np.zeros_like(x)
    for n in range(9, -1, -1):
        cosine = cosine * (x * x) + (-1) ** n / math.factorial(2 * n)
        sine = sine * (x * x) + (-1) ** n / math.factorial(2 * n + 1)
    sine = sine * x
    quadrant = quarter.astype(np.int64) % 4
    cases = [quadrant == i for i in range(4)]
    return np.select(cases, [cosine, -sine, -cosine, sine]), np.select(cases, [sine, cosine, -sine, -cosine])


def named(name: str, shape: tuple[int, ...], salt: str) -> NDArray[np.float32]:
    """The tensor that the README of SadTalker's golden data prescribes for a full name in the model files."""
    u = np.random.RandomState(zlib.crc32(f"{salt}|{name}".encode())).random_sample(math.prod(shape)).reshape(shape)
    s = 2 * u - 1
    if name.endswith("running_mean"):
        value = 0.2 * s
    elif name.endswith("running_var"):
        value = 0.5 + u
    elif len(shape) >= 2:
        gain = next((gain for pattern, gain in _gains() if pattern.search(name)), math.sqrt(2))
        value = s if name.endswith("classbias") else s * gain * math.sqrt(3 / math.prod(shape[1:]))
    elif name.endswith("weight"):
        value = 0.75 + 0.5 * u
    else:
        value = 0.1 * s
    return value.astype(np.float32)


@cache
def _gains() -> list[tuple[re.Pattern[str], float]]:
    rules = json.loads(_RECIPE.read_text())["gain_rules_in_order"]
    return [(re.compile(rule["regex_on_full_name"]), rule["gain"]) for rule in rules]
