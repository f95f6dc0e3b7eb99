"""Stores the resume points of a running render, so that a render continues after a crash at any moment.

A resume point states that the first `n_frames` frames are stored, and holds the engine's state at that frame. Each is
one npz file without pickle: arrays as they are, plain values and the identity of the render as one JSON text. This
module knows nothing of video segments: render.py stores the frames before it saves the resume point that counts them.
"""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lipsync_server.durable import write_file
from lipsync_server.engines.base import ResumePoint, State

_HEADER = "header"
_ARRAY = "array/"
_N_KEPT = 2
# The files have the name from older versions, so that a render of an older server can be resumed.
_STEM = "checkpoint"
RESUME_POINT_FILES = f"{_STEM}-*.npz"
"""The files of resume points, as a pattern of names."""


def save_resume_point(folder: Path, point: ResumePoint, identity: str) -> None:
    """Store `point` durably in `folder` and remove all but the newest two.

    identity: names the render of this point; load_resume_points() skips points of other renders. Raises
    TypeError when the state holds anything but arrays of plain numbers and int, float, str, bool.
    """
    values: dict[str, int | float | str | bool] = {}
    arrays: dict[str, NDArray[np.generic]] = {}
    for key, value in point.state.items():
        if isinstance(value, np.ndarray):
            # Kinds V and O would need pickle, or come back as another type (bfloat16 reads as void).
            if value.dtype.kind not in "biufcSU":
                raise TypeError(f"resume point entry {key!r} has dtype {value.dtype}, which cannot be stored plainly")
            arrays[_ARRAY + key] = value
        elif isinstance(value, bool | int | float | str):
            values[key] = value
        else:
            raise TypeError(f"resume point entry {key!r} is a {type(value).__name__}, not an array or a plain value")
    header = json.dumps({"identity": identity, "n_frames": point.n_frames, "values": values})
    arrays[_HEADER] = np.frombuffer(header.encode(), dtype=np.uint8)

    write_file(
        folder / f"{_STEM}-{point.n_frames:09d}.npz",
        lambda file: np.savez(file, **arrays),  # type: ignore[arg-type]  # the stub takes the names for allow_pickle
    )
    for old in _newest_first(folder)[_N_KEPT:]:
        old.unlink(missing_ok=True)


def load_resume_points(folder: Path, identity: str) -> Iterator[ResumePoint]:
    """The readable resume points of the render `identity`, newest first; damaged files are skipped."""
    for path in _newest_first(folder):
        point = _read(path, identity)
        if point is not None:
            yield point


def clear_resume_points(folder: Path) -> None:
    """Remove every resume point in `folder`."""
    for path in (*_newest_first(folder), *folder.glob(f".{_STEM}-*.part")):
        path.unlink(missing_ok=True)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob(RESUME_POINT_FILES), reverse=True)


def _read(path: Path, identity: str) -> ResumePoint | None:
    """The resume point in a file; None for a damaged file or another render's."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            header = json.loads(stored[_HEADER].tobytes())
            if header["identity"] != identity:
                return None
            state: State = dict(header["values"])
            state.update({name.removeprefix(_ARRAY): stored[name] for name in stored.files if name != _HEADER})
            return ResumePoint(n_frames=int(header["n_frames"]), state=state)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
