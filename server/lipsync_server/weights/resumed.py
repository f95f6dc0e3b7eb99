"""Download one file from the model hub into a partial file that survives the process, so that a later pull resumes it.

huggingface_hub removes its partial file when a download fails, and gives it another name each time. After a restart of
the machine, 18 of 19 GB would be downloaded again. The partial file here is named after the content (the hub's ETag),
so bytes of two versions of a file never mix. Knows one transfer. download.py has retries, progress and checksums.
"""

from pathlib import Path
from typing import Any

from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub._local_folder import write_download_metadata
from huggingface_hub.file_download import http_get
from huggingface_hub.utils._fixes import WeakFileLock
from huggingface_hub.utils._headers import build_hf_headers

from lipsync_server.weights.manifest import Source

_FOLDER = Path(".cache") / "lipsync"
_SUFFIX = ".incomplete"


def fetch(source: Source, path: str, folder: Path, *, endpoint: str | None, tqdm_class: type[Any]) -> None:
    """Download `path` of `source` into `folder`, and resume an earlier attempt.

    Records the hub's checksum for verify.py. Raises huggingface_hub's errors, and OSError; the partial file is kept.
    """
    url = hf_hub_url(source.repository, path, revision=source.revision, endpoint=endpoint)
    announced = get_hf_file_metadata(url, endpoint=endpoint)
    etag, commit = announced.etag or "", announced.commit_hash or source.revision
    partial = _partials(path, folder) / f"{etag}{_SUFFIX}"
    partial.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(partial.with_suffix(".lock")):
        with partial.open("ab") as file:
            if announced.size is not None and file.tell() > announced.size:
                file.truncate(0)
                file.seek(0)
            http_get(
                hf_hub_url(source.repository, path, revision=commit, endpoint=endpoint),
                file,
                resume_size=file.tell(),
                headers=build_hf_headers(),
                expected_size=announced.size,
                displayed_filename=path,
                tqdm_class=tqdm_class,
            )
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(target)
    for left_over in (*partial.parent.iterdir(), partial.parent):
        left_over.rmdir() if left_over.is_dir() else left_over.unlink(missing_ok=True)
    write_download_metadata(folder, path, commit, etag)


def arrived_bytes(path: str, folder: Path) -> int:
    """Number of bytes of `path` that the next attempt need not download: the size of the largest partial file."""
    return max((partial.stat().st_size for partial in _partials(path, folder).glob(f"*{_SUFFIX}")), default=0)


def _partials(path: str, folder: Path) -> Path:
    """The folder for partial files of `path`, one for each version that the hub has announced."""
    return folder / _FOLDER / path
