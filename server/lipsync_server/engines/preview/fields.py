"""Smooth displacement fields: from scattered points to a grid, and from "moves to" to "comes from".

Knows arrays only. A grid covers a rectangle of the picture with one node every `stride` pixels; fields on it are
float32 (rows, columns, 2) displacements in pixels.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Grid:
    """Nodes over the picture's rectangle that starts at (left, top); node (row, column) lies at pixel
    (left + column * stride, top + row * stride)."""

    left: int
    top: int
    width: int
    height: int
    stride: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns: enough to cover the rectangle and one node beyond."""
        return -(-self.height // self.stride) + 1, -(-self.width // self.stride) + 1

    def places(self) -> NDArray[np.float32]:
        """Pixel coordinates of the nodes, (rows, columns, 2)."""
        rows, columns = self.shape
        y, x = np.mgrid[:rows, :columns].astype(np.float32) * self.stride
        return np.stack([x + self.left, y + self.top], axis=-1)

    def sample(self, field: NDArray[np.float32], x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values of a field (rows, columns, n <= 4) at pixel coordinates, bilinear, 0 outside the grid."""
        inverse = np.float32(1 / self.stride)
        gx, gy = (x - np.float32(self.left)) * inverse, (y - np.float32(self.top)) * inverse
        return np.asarray(
            cv2.remap(field, gx, gy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0), np.float32
        )

    def enlarge(self, field: NDArray[np.float32]) -> NDArray[np.float32]:
        """A field at every pixel of the rectangle, (height, width, n)."""
        # An affine map keeps node (0, 0) on pixel (0, 0); cv2.resize would shift by half a node.
        matrix = np.array([[1 / self.stride, 0, 0], [0, 1 / self.stride, 0]], np.float32)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(
            cv2.warpAffine(field, matrix, (self.width, self.height), flags=flags, borderMode=cv2.BORDER_REPLICATE),
            np.float32,
        )


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

    moves: displacement of the content at each node, in pixels. Solves d(y) = -moves(y + d(y)) by fixed-point steps,
    which converges while the field changes by less than a pixel per pixel.
    """
    rows, columns = moves.shape[:2]
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    inverse = np.float32(1 / stride)
    back = -moves
    for _ in range(n_steps):
        back = -np.asarray(
            cv2.remap(
                moves, x + back[..., 0] * inverse, y + back[..., 1] * inverse, cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            ),
            np.float32,
        )  # fmt: skip
    return back


def smooth_step(x: NDArray[np.floating], start: float, stop: float) -> NDArray[np.float64]:
    """0 up to `start`, 1 from `stop` on, and a curve without corners between them."""
    t = np.clip((x - start) / (stop - start), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float64)
