"""Verifies files on disk by SHA-256, against the manifest or against the checksum that the hub sent with the file.

To hash twenty gigabytes takes a minute. So the result is stored with the file's size and time stamp (.verified.json in
the weights folder), and reused while both are unchanged. Knows no network.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lipsync_server.weights.manifest import Manifest, WeightFile

State = Literal["ok", "present", "missing", "damaged"]
_BLOCK_BYTES = 8 * 1024 * 1024
_notes_lock = threading.Lock()
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Checked:
    """The result for one file. `present`: the file exists, but no checksum was published to compare with."""

    file: WeightFile
    path: Path
    state: State
    detail: str


def sha256_of(path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """The SHA-256 of a file in hex, read in blocks. on_bytes: called with the size of each block in bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
            on_bytes(len(block))
    return digest.hexdigest()


def expected_sha256(file: WeightFile, folder: Path) -> str | None:
    """The manifest's checksum, else the checksum that the hub sent with the file (large files only)."""
    if file.sha256:
        return file.sha256
    from huggingface_hub._local_folder import read_download_metadata  # slow to import, and seldom needed

    metadata = read_download_metadata(folder, file.path)
    if metadata is not None and _SHA256.fullmatch(metadata.etag):
        return metadata.etag
    return None


def check_file(
    manifest: Manifest, file: WeightFile, weights_dir: Path, on_bytes: Callable[[int], None] = lambda _: None
) -> Checked:
    """Compare one file with its published size and checksum. A file unchanged since the last check is not read."""
    path = manifest.local_path(file, weights_dir)
    if not path.is_file():
        return Checked(file, path, "missing", "not downloaded")
    size = path.stat().st_size
    if file.size_exact and size != file.size_bytes:
        return Checked(file, path, "damaged", f"has {size:,} bytes, published are {file.size_bytes:,}")
    expected = expected_sha256(file, manifest.folder(file, weights_dir))
    if expected is None:
        return Checked(file, path, "present", "no checksum was published for it")
    by = "published" if file.sha256 else "the hub announced it at the download, for want of a pinned one"
    if _remembered(weights_dir, path) == expected:
        return Checked(file, path, "ok", f"SHA-256 as {by} (checked before, unchanged since)")
    found = sha256_of(path, on_bytes)
    if found != expected:
        origin = "published is" if file.sha256 else "the hub announced"
        return Checked(file, path, "damaged", f"has SHA-256 {found}, {origin} {expected}")
    _remember(weights_dir, path, found)
    return Checked(file, path, "ok", f"SHA-256 as {by}")


def profile_complete(manifest: Manifest, profile: str, weights_dir: Path) -> bool:
    """Whether every file of a profile exists with a plausible size. Fast, because no file is hashed."""
    return all(is_here(manifest, file, weights_dir) for file in manifest.profile_files(profile, weights_dir))


def files_here(manifest: Manifest, profile: str, weights_dir: Path) -> tuple[int, int]:
    """Count of a profile's files that exist with a plausible size, and count of all its files."""
    files = manifest.profile_files(profile, weights_dir)
    return sum(is_here(manifest, file, weights_dir) for file in files), len(files)


def is_here(manifest: Manifest, file: WeightFile, weights_dir: Path) -> bool:
    """Whether the file exists with a plausible size. Fast, because nothing is hashed."""
    path = manifest.local_path(file, weights_dir)
    return path.is_file() and not (file.size_exact and path.stat().st_size != file.size_bytes)


def _stamp(path: Path) -> str:
    """Size and modification time of a file, as one text."""
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def _notes_path(weights_dir: Path) -> Path:
    """The file with the results of earlier checks."""
    return weights_dir / ".verified.json"


def _read_notes(weights_dir: Path) -> dict[str, list[str]]:
    """The results of earlier checks: path below the weights folder -> [stamp, SHA-256]."""
    try:
        notes = json.loads(_notes_path(weights_dir).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _remembered(weights_dir: Path, path: Path) -> str | None:
    """The stored SHA-256 of a file; None if the file has changed since, or was not checked."""
    note = _read_notes(weights_dir).get(str(path.relative_to(weights_dir)))
    return note[1] if note and note[0] == _stamp(path) else None


def _remember(weights_dir: Path, path: Path, sha256: str) -> None:
    """Store the SHA-256 of a checked file. The notes are a cache: a lost one costs another check."""
    with _notes_lock:
        notes = _read_notes(weights_dir)
        notes[str(path.relative_to(weights_dir))] = [_stamp(path), sha256]
        fresh = _notes_path(weights_dir).with_suffix(".tmp")
        fresh.write_text(json.dumps(notes, indent=1), encoding="utf-8")
        fresh.replace(_notes_path(weights_dir))
