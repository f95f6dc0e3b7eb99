"""Embeddings of a few prompts in one small file, made once with a published text encoder.

With the file a server renders the default prompt before its text encoder (4 to 11 GB) is downloaded. The file is named
after the encoder, because another number format gives slightly other embeddings. `lipsync weights embed` writes it.
Knows no encoder.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from lipsync_server.errors import LipsyncError
from lipsync_server.models.encoders.text_files import prompts_file
from lipsync_server.models.tensor_files.into_modules import read_tensors

log = logging.getLogger(__name__)


def write_known_prompts(weights_dir: Path, encoder: Path, embeddings: Mapping[str, Tensor]) -> Path:
    """Write prompt -> embedding (n, width), of any float type, for the encoder's file `encoder`; returns the path."""
    path = weights_dir / prompts_file(encoder)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {prompt: embedding.detach().cpu().contiguous() for prompt, embedding in embeddings.items()}
    save_file(tensors, path, metadata={"encoder": encoder.name})
    path.chmod(0o644)  # safetensors makes files for their owner only, and this one is to be copied
    return path


class KnownPrompts:
    """The embeddings in the first readable file of `paths`, which exist; none when there is no readable one."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._embeddings: dict[str, Tensor] = {}
        for path in paths:
            try:
                self._embeddings = read_tensors(path)
                return
            except LipsyncError as error:
                log.warning("the embeddings in %s cannot be read; the text encoder makes them: %s", path.name, error)

    def get(self, prompt: str) -> Tensor | None:
        """The embedding (n, width) of the cleaned `prompt` in its stored type, or None."""
        return self._embeddings.get(prompt)
