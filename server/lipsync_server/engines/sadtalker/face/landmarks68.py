"""Converts the 478 mesh points of engines/landmarks.py to the 68 landmarks that SadTalker's geometry uses.

The crop and the alignment use fifteen of them (eyes, nose tip, mouth corners); an error of 5 % of the eye distance
per point is small against what the 3-D face network was trained with.
"""

import numpy as np
from numpy.typing import NDArray

from lipsync_server.engines.sadtalker.arrays import Points

# Mesh point of each of the 68 (iBUG) landmarks: jaw 17, brows 10, nose 9, eyes 12, outer lips 12, inner lips 8.
MESH_INDEX: tuple[int, ...] = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301,
    168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,
    78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip


def landmarks68(mesh: NDArray[np.float32]) -> Points:
    """(478, 2 or 3) mesh points -> float32 (68, 2), in the same pixels."""
    return mesh[list(MESH_INDEX), :2].astype(np.float32)
