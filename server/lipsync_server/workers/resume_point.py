"""Checkpoints of a running render on disk, written so that a crash at any moment leaves a whole one.

A checkpoint says that the first `n_frames` frames are stored and holds what the engine needs to go on. Files are npz
without pickle: arrays as they are, plain values and the identity of the render as one JSON text. Knows nothing of
video segments; render.py stores the frames before it saves the checkpoint that counts them.
"""

import contextlib
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lipsync_server.engines.base import ResumePoint, State

_HEADER = "header"
_ARRAY = "array/"
_KEEP = 2


def save_checkpoint(folder: Path, checkpoint: ResumePoint, identity: str) -> None:
    """Store `checkpoint` durably in `folder` and forget all but the newest two.

    identity: what render this belongs to; load_checkpoints() passes over those of another one. Raises TypeError for
    a state that holds anything but arrays of plain numbers and int, float, str, bool.
    """
    values: dict[str, int | float | str | bool] = {}
    arrays: dict[str, NDArray[np.generic]] = {}
    for key, value in checkpoint.state.items():
        if isinstance(value, np.ndarray):
            # Kinds V and O would need pickle, or come back as another type (bfloat16 reads as void).
            if value.dtype.kind not in "biufcSU":
                raise TypeError(f"checkpoint entry {key!r} has dtype {value.dtype}, which cannot be stored plainly")
            arrays[_ARRAY + key] = value
        elif isinstance(value, bool | int | float | str):
            values[key] = value
        else:
            raise TypeError(f"checkpoint entry {key!r} is a {type(value).__name__}, not an array or a plain value")
    header = json.dumps({"identity": identity, "n_frames": checkpoint.n_frames, "values": values})
    arrays[_HEADER] = np.frombuffer(header.encode(), dtype=np.uint8)

    path = folder / f"checkpoint-{checkpoint.n_frames:09d}.npz"
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub takes the names for its keyword allow_pickle
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _sync_folder(folder)
    for old in _newest_first(folder)[_KEEP:]:
        old.unlink(missing_ok=True)


def load_checkpoints(folder: Path, identity: str) -> Iterator[ResumePoint]:
    """The readable checkpoints of the render `identity`, newest first; damaged ones are passed over."""
    for path in _newest_first(folder):
        checkpoint = _read(path, identity)
        if checkpoint is not None:
            yield checkpoint


def clear_checkpoints(folder: Path) -> None:
    """Forget every checkpoint in `folder`."""
    for path in (*_newest_first(folder), *folder.glob("checkpoint-*.partial")):
        path.unlink(missing_ok=True)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*.npz"), reverse=True)


def _read(path: Path, identity: str) -> ResumePoint | None:
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


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse to sync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
