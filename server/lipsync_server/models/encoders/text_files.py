"""The paths of a text encoder's files. This module imports no torch, so that the server process can use it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TextFiles:
    """weights: the official .pth, an optimum-quanto .safetensors with its `quant_map`, or a file of another program.

    tokenizer: a folder with tokenizer.json, a tokenizer.json or spiece.model, or a file of weights with a tokenizer.
    """

    weights: Path
    tokenizer: Path
    quant_map: Path | None = None
