"""Displacement fields: arrays with the movement of the picture's content at each place.

Two directions are needed. A forward field says "the content here moves by d". Landmarks give a forward field at
scattered points, and `spline` fills the rest. A backward field says "the content here comes from d away". Drawing needs
this one, because cv2.remap reads a source for each target pixel. `come_from` inverts a forward field.

Knows arrays only. A grid covers a rectangle of the picture with one node every `stride` pixels; a field on a grid is
float32 (rows, columns, 2), displacements (x, y) in pixels.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Pixel = TypeVar("Pixel", np.uint8, np.float32)
_ROWS_AT_ONCE = 4096
_EDGE = cv2.BORDER_REPLICATE


@dataclass(frozen=True)
class Grid:
    """A grid of nodes over the picture's rectangle that starts at (left, top), all lengths in pixels.

    One node stands in the middle of every `stride` x `stride` cell, and one more row or column on every side.
    """

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
        """Pixel coordinates (x, y) of the nodes, float32 (rows, columns, 2)."""
        corner = np.array([self.left, self.top], np.float32) - np.float32(0.5 * self.stride + 0.5)
        return nodes(*self.shape) * np.float32(self.stride) + corner

    def node_coordinates(self, places: NDArray[np.float32]) -> NDArray[np.float32]:
        """Pixel coordinates (x, y), (h, w, 2) -> fractional node coordinates (column, row), float32 (h, w, 2)."""
        corner = np.array([self.left, self.top], np.float32) - np.float32(0.5 * self.stride + 0.5)
        return scaled(places, corner, 1 / self.stride)

    def cells(self, inner: "Grid", margin: int) -> tuple[slice, slice]:
        """The rows and columns of the nodes around the rectangle of `inner`, widened by `margin` pixels."""
        n_rows, n_columns = self.shape
        top, bottom = inner.top - margin - self.top, inner.top + inner.height + margin - self.top
        left, right = inner.left - margin - self.left, inner.left + inner.width + margin - self.left
        rows, columns = (
            slice(min(max(low // self.stride, 0), n - 1), min(max(-(-high // self.stride), 0) + 1, n))
            for low, high, n in ((top, bottom, n_rows), (left, right, n_columns))
        )
        return rows, columns

    def part(self, field: NDArray[np.float32], rows: slice, columns: slice) -> tuple["Grid", NDArray[np.float32]]:
        """A smaller grid over the nodes `rows` and `columns` with one more node on every side, and the field on it.

        field: float32 (rows, columns, n) on this grid. A value between two nodes depends on both, so the outer nodes
        are needed.
        """
        n_rows, n_columns = self.shape
        first_row, first_column = max(rows.start - 1, 0), max(columns.start - 1, 0)
        last_row, last_column = min(rows.stop + 1, n_rows - 1), min(columns.stop + 1, n_columns - 1)
        left, top = self.left + first_column * self.stride, self.top + first_row * self.stride
        width = min((last_column - 1 - first_column) * self.stride, self.left + self.width - left)
        height = min((last_row - 1 - first_row) * self.stride, self.top + self.height - top)
        return Grid(left, top, width, height, self.stride), np.ascontiguousarray(
            field[first_row : last_row + 1, first_column : last_column + 1]
        )

    def sample(self, field: NDArray[np.float32], places: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values of a field at given places, interpolated bilinearly; 0 outside the grid.

        field: float32 (rows, columns, n), n at most 4. places: pixel coordinates (h, w, 2). Returns float32 (h, w, n).
        """
        return resample(field, self.node_coordinates(places), cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)

    def enlarge(self, field: NDArray[np.float32]) -> NDArray[np.float32]:
        """A field (rows, columns, n) at every pixel of the rectangle, float32 (height, width, n), bilinear."""
        rows, columns = self.shape
        # cv2.resize also counts from the middle of a cell. The outermost nodes only serve the interpolation.
        size = columns * self.stride, rows * self.stride
        large = np.asarray(cv2.resize(field, size, interpolation=cv2.INTER_LINEAR), np.float32)
        return large[self.stride : self.stride + self.height, self.stride : self.stride + self.width]


def spline(
    centres: NDArray[np.float64], values: NDArray[np.float64], places: NDArray[np.float64], smoothing: float = 1e-6
) -> NDArray[np.float32]:
    """Interpolate scattered values with a thin-plate spline: the smoothest surface through them (Bookstein, 1989).

    f(x) = a + b x + sum_i w_i U(|x - c_i|) with U(r) = r^2 log r. centres: float64 (n, 2). values: float64 (n, k) at
    the centres. places: float64 (m, 2). Returns float32 (m, k). `smoothing` is added to the kernel's diagonal: larger
    values give a flatter surface that misses the points a little. It assumes lengths near 1.
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
    """U(|a_i - b_j|) with U(r) = r^2 log r. a: float64 (n, 2). b: float64 (m, 2). Returns float64 (n, m)."""
    squared = ((a[:, None] - b[None]) ** 2).sum(axis=-1)
    return np.asarray(0.5 * squared * np.log(np.maximum(squared, 1e-12)))


def come_from(moves: Field, stride: int, n_steps: int) -> Field:
    """Invert a forward field: for each node, the displacement back to the place from which its content came.

    moves: float32 (rows, columns, 2), the displacement of the content at each node in pixels. The result has the same
    form. Solves d(y) = -moves(y + d(y)) by `n_steps` fixed-point steps. All steps except the first go half the way, so
    that they converge even where the content is stretched to four times its size.
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
    """Values at node coordinates, interpolated bilinearly; outside the grid the outermost nodes repeat.

    values: float32 (rows, columns, n), n at most 4. at: float32 (h, w, 2) = (column, row). Returns float32 (h, w, n).
    """
    return resample(values, at, cv2.INTER_LINEAR)


def resample(
    values: NDArray[Pixel], at: NDArray[np.float32], interpolation: int, border: int = _EDGE
) -> NDArray[Pixel]:
    """Values at fractional coordinates, by cv2's interpolation and border rules.

    values: uint8 or float32 (rows, columns, n). at: float32 (h, w, 2) = (column, row). Returns (h, w, n) of the same
    dtype as `values`.
    """
    # OpenCV 5 would use an empty second map as a map, so it gets None.
    no_second_map: Any = None  # the stubs of cv2 lack it
    return cast(NDArray[Pixel], cv2.remap(values, at, no_second_map, interpolation, borderMode=border))


def scaled(places: Field, corner: Field, factor: float) -> Field:
    """(places - corner) * factor. places: float32 (h, w, 2). corner: float32 (2,). Returns float32 (h, w, 2)."""
    # Rows of (x, y, x, y, ...), because numpy is slow on arrays whose last axis has two elements.
    height, width = places.shape[:2]
    rows = places.reshape(height, 2 * width) * np.float32(factor)
    rows -= np.tile(corner * np.float32(factor), width)
    return rows.reshape(height, width, 2)


@lru_cache(maxsize=16)
def nodes(rows: int, columns: int) -> NDArray[np.float32]:
    """(column, row) of every node, float32 (rows, columns, 2). The array is cached: do not write to it."""
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    return np.stack([x, y], axis=-1)


def smooth_step(x: NDArray[np.floating], start: float, stop: float) -> NDArray[np.float64]:
    """0 up to `start`, 1 from `stop` on, and a curve without corners between them. Same shape as x, float64."""
    t = np.clip((x - start) / (stop - start), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float64)
