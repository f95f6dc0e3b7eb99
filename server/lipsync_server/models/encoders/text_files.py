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


PROMPTS_FOLDER = "prompts"
"""The folder, in the weights folder and among the files that the project ships, of embeddings made elsewhere."""


def prompts_file(encoder: Path) -> str:
    """The path, below such places, of the embeddings that the encoder at `encoder` gives to a few prompts."""
    return f"{PROMPTS_FOLDER}/{encoder.stem}.safetensors"
