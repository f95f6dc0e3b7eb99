"""Names the files that a running server still downloads while its engine works without them.

A text encoder is needed only for a prompt whose embedding is not known. So a server starts to work before its text
encoder is here, and downloads the encoder afterwards. The server's workers are other processes. They read the names of
the missing files from a small file in the weights folder. The file counts only while the process that wrote it lives,
so a killed server leaves no promise behind. Knows no engine and no network.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from lipsync_server.durable import write_file

_NAME = ".arriving.json"


class _Arriving(BaseModel):
    """The contents of the file. pid, started_at: the process that downloads. files: paths below the weights folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pid: int
    started_at: float
    files: tuple[str, ...]


def announce(weights_dir: Path, files: Iterable[Path]) -> None:
    """Promise `files`, which are paths below `weights_dir`, until `withdraw` or this process's end."""
    process = psutil.Process()
    names = tuple(str(path.relative_to(weights_dir)) for path in files)
    entry = _Arriving(pid=process.pid, started_at=process.create_time(), files=names).model_dump_json().encode()
    write_file(weights_dir / _NAME, lambda file: file.write(entry))


def withdraw(weights_dir: Path) -> None:
    """End the promise: the files are here and verified, or they will not come."""
    (weights_dir / _NAME).unlink(missing_ok=True)


def arriving(weights_dir: Path) -> frozenset[Path]:
    """The promised files; an empty set if the process that downloads them has ended."""
    try:
        entry = _Arriving.model_validate_json((weights_dir / _NAME).read_bytes())
    except (OSError, ValueError):
        return frozenset()
    with suppress(psutil.Error):
        if psutil.Process(entry.pid).create_time() == entry.started_at:
            return frozenset(weights_dir / name for name in entry.files)
    return frozenset()
