"""A cache of prompt embeddings on disk, so that a repeated prompt needs no pass through the text encoder.

A workflow sends the same prompt with every job. Each embedding is one file (at most 4 MB); the oldest files are deleted
when there are more than MAX_ENTRIES. The key is the cleaned prompt and the identity of the encoder's file, so new model
files never match old entries. If the cache is damaged or cannot be written, the prompt is encoded again without an
error.
"""

import hashlib
import logging
import os
import time
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from lipsync_server.errors import WeightsError
from lipsync_server.models.tensor_files.into_modules import read_tensors

MAX_ENTRIES = 200
_ABANDONED_S = 3600
log = logging.getLogger(__name__)


class EmbeddingCache:
    """Prompt -> embedding (n, width) in `folder`."""

    def __init__(self, folder: Path, weights: Path) -> None:
        self._folder = folder
        self._weights = weights

    def get(self, prompt: str) -> Tensor | None:
        """Return the embedding (n, width) of `prompt` in its stored type, or None."""
        path = self._path(prompt)
        if not path.is_file():
            return None
        try:
            embedding = read_tensors(path)["embedding"]
            os.utime(path)
        except (OSError, WeightsError, KeyError) as error:
            log.warning("the cached text embedding %s is unreadable and is made again: %s", path.name, error)
            return None
        # A copy in memory: the mapped file may be removed while the tensor is in use.
        return embedding.clone()

    def put(self, prompt: str, embedding: Tensor) -> None:
        """Store the embedding (n, width) of `prompt`, of any float type. A failure is only logged."""
        path = self._path(prompt)
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_file({"embedding": embedding.detach().cpu().contiguous()}, unfinished)
            unfinished.replace(path)
            self._forget_oldest()
        except OSError as error:
            log.warning("the text embedding cannot be kept in %s: %s", self._folder, error)
            unfinished.unlink(missing_ok=True)

    def _path(self, prompt: str) -> Path:
        stat = self._weights.stat()
        identity = f"{self._weights.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0{prompt}"
        return self._folder / f"{hashlib.sha256(identity.encode()).hexdigest()}.safetensors"

    def _forget_oldest(self) -> None:
        entries = sorted(self._folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        for path in entries[:-MAX_ENTRIES]:
            path.unlink(missing_ok=True)
        # Unfinished files older than an hour belong to a process that was killed, because no write takes that long.
        for path in self._folder.glob("*.part"):
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink(missing_ok=True)
