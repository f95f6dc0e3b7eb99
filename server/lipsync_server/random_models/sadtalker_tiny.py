"""Write a tiny checkpoint in the official layout: python -m lipsync_server.random_models.sadtalker_tiny DIR.

The files have the official names and tensors with few channels and random values (about 3 MB in all), for tests of
everything around the networks. The engine reads them like the real ones.
"""

import sys
from pathlib import Path

from lipsync_server.engines.sadtalker.loading.official import Dimensions
from lipsync_server.random_models.sadtalker import write_checkpoint

TINY = Dimensions(width=1 / 32, depth=4, n_keypoints=4, compressed=2, mask_kernel=3)


def write_tiny_checkpoint(folder: Path, *, seed: int = 0) -> None:
    """Write all four files into `folder` (the `sadtalker` folder of a weights directory)."""
    write_checkpoint(folder, TINY, seed=seed)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m lipsync_server.random_models.sadtalker_tiny DIR")
    write_tiny_checkpoint(Path(sys.argv[1]))
