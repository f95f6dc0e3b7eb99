"""Smooth displacement fields: from scattered points to a grid, and from "moves to" to "comes from".

Knows arrays only. A grid covers a rectangle of the picture with one node every `stride` pixels; fields on it are
float32 (rows, columns, 2) displacements in pixels.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Pixel = TypeVar("Pixel", np.uint8, np.float32)
_ROWS_AT_ONCE = 4096
_EDGE = cv2.BORDER_REPLICATE


@dataclass(frozen=True)
class Grid:
    """Nodes over the picture's rectangle that starts at (left, top), one in the middle of every `stride` x `stride`
    cell and one more all around."""

    left: int
    top: int
    width: int
    height: int
    stride: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return -(-self.height // self.stride) + 2, -(-self.width // self.stride) + 2

    def places(self) -> NDArray[np.float32]:
        """Pixel coordinates of the nodes, (rows, columns, 2)."""
        corner = np.array([self.left, self.top], np.float32) - np.float32(0.5 * self.stride + 0.5)
        return nodes(*self.shape) * np.float32(self.stride) + corner

    def node_coordinates(self, places: NDArray[np.float32]) -> NDArray[np.float32]:
        """Pixel coordinates (..., 2) -> (column, row), fractional."""
        corner = np.array([self.left, self.top], np.float32) - np.float32(0.5 * self.stride + 0.5)
        return (places - corner) * np.float32(1 / self.stride)

    def sample(self, field: NDArray[np.float32], places: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values of a field (rows, columns, n <= 4) at pixel coordinates (h, w, 2), bilinear, 0 outside the grid."""
        return resample(field, self.node_coordinates(places), cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)

    def enlarge(self, field: NDArray[np.float32]) -> NDArray[np.float32]:
        """A field at every pixel of the rectangle, (height, width, n), bilinear."""
        rows, columns = self.shape
        # Nodes in the middle of cells are what cv2.resize takes them for; the outermost only serve the interpolation.
        size = columns * self.stride, rows * self.stride
        large = np.asarray(cv2.resize(field, size, interpolation=cv2.INTER_LINEAR), np.float32)
        return large[self.stride : self.stride + self.height, self.stride : self.stride + self.width]


def spline(
    centres: NDArray[np.float64], values: NDArray[np.float64], places: NDArray[np.float64], smoothing: float = 1e-6
) -> NDArray[np.float32]:
    """Thin-plate spline through scattered values.

    centres: (n, 2). values: (n, k) at the centres. places: (m, 2). Returns (m, k). Give lengths near 1: `smoothing` is
    added to the kernel's diagonal and trades exactness for evenness.
    """
    n = len(centres)
    flat = np.column_stack([np.ones(n), centres])
    system = np.zeros((n + 3, n + 3))
    system[:n, :n] = _kernel(centres, centres) + smoothing * np.eye(n)
    system[:n, n:], system[n:, :n] = flat, flat.T
    weights = np.linalg.solve(system, np.concatenate([values, np.zeros((3, values.shape[1]))]))
    out = np.empty((len(places), values.shape[1]), np.float32)
    for start in range(0, len(places), _ROWS_AT_ONCE):
        part = places[start : start + _ROWS_AT_ONCE]
        rows = np.column_stack([_kernel(part, centres), np.ones(len(part)), part])
        out[start : start + len(part)] = rows @ weights
    return out


def _kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    squared = ((a[:, None] - b[None]) ** 2).sum(axis=-1)
    return np.asarray(0.5 * squared * np.log(np.maximum(squared, 1e-12)))


def come_from(moves: Field, stride: int, n_steps: int) -> Field:
    """Invert a forward field: the displacement back to where each node's content came from.

    moves: displacement of the content at each node, in pixels. Solves d(y) = -moves(y + d(y)) by fixed-point steps; all
    but the first go half the way, which holds where the content is stretched up to four times its size.
    """
    rows, columns = moves.shape[:2]
    here = nodes(rows, columns)
    inverse = np.float32(1 / stride)
    back = -moves
    for step in range(n_steps):
        found = pull(moves, here + back * inverse)
        back = -found if step == 0 else np.float32(0.5) * (back - found)
    return back


def pull(values: NDArray[np.float32], at: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values (rows, columns, n <= 4) at node coordinates (column, row), bilinear; the outermost nodes go on outside."""
    return resample(values, at, cv2.INTER_LINEAR)


def resample(
    values: NDArray[Pixel], at: NDArray[np.float32], interpolation: int, border: int = _EDGE
) -> NDArray[Pixel]:
    """Values (rows, columns, n) at coordinates (h, w, 2) = (column, row)."""
    # None, which cv2's type stubs forget: OpenCV 5 reads an empty second map as if it were one.
    return cv2.remap(values, at, None, interpolation, borderMode=border)  # type: ignore[call-overload, no-any-return]


@lru_cache(maxsize=16)
def nodes(rows: int, columns: int) -> NDArray[np.float32]:
    """(column, row) of every node, (rows, columns, 2). Shared: do not write to it."""
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    return np.stack([x, y], axis=-1)


def smooth_step(x: NDArray[np.floating], start: float, stop: float) -> NDArray[np.float64]:
    """0 up to `start`, 1 from `stop` on, and a curve without corners between them."""
    t = np.clip((x - start) / (stop - start), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float64)
