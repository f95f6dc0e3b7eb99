"""Where a text encoder's files lie. No torch here, so that the server process can look for them."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TextFiles:
    """weights: the official .pth, or an optimum-quanto .safetensors with its `quant_map`. tokenizer: its folder."""

    weights: Path
    tokenizer: Path
    quant_map: Path | None = None
