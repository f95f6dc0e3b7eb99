"""Write the transformer in bfloat16 once, so that each start reads 3.0 GB and not 6.0 GB.

The published file is float32 and the model computes in bfloat16, so the copy loses no accuracy. The copy is beside the
published file, appears by a rename, and lacks the layers that the model does not have. Knows files; computes nothing.
"""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from lipsync_server.engines.flashhead.loading.transformer_files import (
    CONVERTED,
    UNUSED,
    check,
    read_config,
    weight_files,
)
from lipsync_server.errors import WeightsError
from lipsync_server.models.tensor_files.writer import appears_whole, write_tensors

log = logging.getLogger(__name__)
# Disk space in bytes that stays free for other files.
_SPARE_BYTES = 8 * 10**9
# A copy of a smaller file would save no noticeable time.
_WORTH_BYTES = 10**9


def convert(folder: Path) -> Path:
    """Write the bfloat16 copy of the published file in `folder`; returns its path. Raises WeightsError."""
    target = folder / CONVERTED
    if target.is_file():
        return target
    files = weight_files(folder)
    check(files, read_config(folder, files))
    layout = {
        name: torch.empty(entry.shape, dtype=torch.bfloat16, device="meta")
        for name, entry in files.entries.items()
        if not name.startswith(UNUSED)
    }

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for _, file in files:
            for entry in file.entries:
                if entry.key in layout:
                    yield entry.key, file.tensor(entry.key).to(torch.bfloat16)

    with appears_whole(target) as part:
        write_tensors(part, layout, tensors())
    return target


def keep_converted(folder: Path) -> None:
    """Call `convert` if the published file is large and the disk has space. A failure is only logged."""
    try:
        files = weight_files(folder)
        wide = any(entry.dtype == "F32" for entry in files.entries.values())
        if wide and files.n_bytes > _WORTH_BYTES and shutil.disk_usage(folder).free > _SPARE_BYTES:
            log.info("FlashHead: wrote %s for the next start", convert(folder))
    except (OSError, WeightsError) as error:
        log.info("FlashHead: no bfloat16 copy for the next start: %s", error)
