"""Golden data of the FlashTalk and FlashHead references: small files beside the tests, large ones in ../shared."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from infinitetalk_golden import TABLE, equal, meets, within
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["FLASHHEAD", "FLASHTALK", "TABLE", "Golden", "equal", "meets", "within"]
_HERE = Path(__file__).resolve()


class Golden:
    """The golden files of one model."""

    def __init__(self, model: str) -> None:
        self._folders = (_HERE.parents[1] / "data" / model, _HERE.parents[3] / "shared" / model)
        self._model = model

    def path(self, name: str) -> Path:
        """The golden file or folder `name`; skips the test where it is not there."""
        for folder in self._folders:
            if (folder / name).exists():
                return folder / name
        pytest.skip(f"the golden file {name} is too large for the repository and ../shared/{self._model} is not here")

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Tensors of a file; bfloat16 ones hold exact values and come as float32."""
        return {key: t.float() if t.is_floating_point() else t for key, t in load_file(self.path(name)).items()}

    def json(self, name: str) -> Any:
        path = self.path(name)
        return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())


FLASHTALK, FLASHHEAD = Golden("flashtalk"), Golden("flashhead")
