"""Names and shapes of the tensors in the model files, and layers built to fit them.

Every network of this engine takes its widths from the tensors that it will hold, so the published files, a tiny
random model for tests and a block of the golden data are all read by the same code. Knows torch layers; does not know
files (loading/model_files.py) or the computation of a network.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from lipsync_server.errors import WeightsError
from lipsync_server.models.tensor_files.into_modules import rename_and_check

Shapes = Mapping[str, tuple[int, ...]]
_M = TypeVar("_M", bound=nn.Module)


@dataclass(frozen=True)
class Layout:
    """The tensors whose names start with `prefix`; `source` names their file in error messages."""

    shapes: Shapes
    prefix: str = ""
    source: str = "the model file"

    def __truediv__(self, name: str) -> "Layout":
        return Layout(self.shapes, f"{self.prefix}{name}.", self.source)

    def has(self, name: str) -> bool:
        """Whether a tensor of this name, or one below it, exists."""
        full = self.prefix + name
        return full in self.shapes or any(key.startswith(full + ".") for key in self.shapes)

    def shape(self, name: str, n_dims: int | None = None) -> tuple[int, ...]:
        """The shape of one tensor; raises WeightsError when it is missing or has another number of dimensions."""
        full = self.prefix + name
        shape = self.shapes.get(full)
        if shape is None:
            raise WeightsError(f"{self.source} lacks the tensor {full}; download the file again.")
        if n_dims is not None and len(shape) != n_dims:
            raise WeightsError(f"{full} in {self.source} has shape {list(shape)}; {n_dims} dimensions were expected.")
        return shape

    def count(self, pattern: str) -> int:
        """The number of names pattern.format(0), pattern.format(1), ... that exist without a gap."""
        n = 0
        while self.has(pattern.format(n)):
            n += 1
        return n

    def conv(self, name: str, *, stride: int | tuple[int, int] = 1, padding: int = 0, bias: bool = True) -> nn.Conv2d:
        """A 2-D convolution; one stored with spectral norm (`weight_orig`) counts as the folded `weight`."""
        scope = self / name
        out, inputs, height, width = scope.shape("weight_orig" if scope.has("weight_orig") else "weight", 4)
        return nn.Conv2d(inputs, out, (height, width), stride=stride, padding=padding, bias=bias)

    def conv1d(self, name: str, *, dilation: int = 1) -> nn.Conv1d:
        """A 1-D convolution without padding."""
        out, inputs, kernel = (self / name).shape("weight", 3)
        return nn.Conv1d(inputs, out, kernel, dilation=dilation)

    def conv3d(self, name: str, *, padding: int = 0) -> nn.Conv3d:
        """A 3-D convolution with a cubic kernel."""
        out, inputs, kernel, _, _ = (self / name).shape("weight", 5)
        return nn.Conv3d(inputs, out, kernel, padding=padding)

    def linear(self, name: str) -> nn.Linear:
        """A linear layer with a bias."""
        out, inputs = (self / name).shape("weight", 2)
        return nn.Linear(inputs, out)

    def norm2d(self, name: str) -> nn.BatchNorm2d:
        """A batch norm over pictures."""
        return nn.BatchNorm2d((self / name).shape("weight", 1)[0])

    def norm3d(self, name: str) -> nn.BatchNorm3d:
        """A batch norm over volumes."""
        return nn.BatchNorm3d((self / name).shape("weight", 1)[0])


def layout_of(tensors: Mapping[str, torch.Tensor], source: str = "the model file") -> Layout:
    """The layout of `tensors`: their names and shapes. source: their file, for messages."""
    return Layout({name: tuple(tensor.shape) for name, tensor in tensors.items()}, source=source)


def fold_spectral_norm(tensors: Mapping[str, torch.Tensor], source: str = "the model file") -> dict[str, torch.Tensor]:
    """Replace every weight_orig, weight_u, weight_v by the weight for evaluation, of weight_orig's shape and dtype.

    Spectral normalisation (https://arxiv.org/abs/1802.05957) divides a weight by its largest singular value sigma, so
    that the layer cannot amplify. Training keeps vectors u and v close to the singular ones; with W the weight as a
    matrix (outputs, the rest), sigma = u . (W v), and the layer computes with weight_orig / sigma.
    """
    folded: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        if kind == "weight_orig":
            u, v = tensors.get(f"{stem}.weight_u"), tensors.get(f"{stem}.weight_v")
            if u is None or v is None:
                lost = f"{stem}.weight_{'u' if u is None else 'v'}"
                raise WeightsError(f"{source} lacks the tensor {lost}; download the file again.")
            sigma = torch.dot(u, torch.mv(tensor.reshape(tensor.shape[0], -1), v))
            folded[f"{stem}.weight"] = tensor / sigma
        elif kind not in ("weight_u", "weight_v"):
            folded[name] = tensor
    return folded


def fill(module: _M, tensors: Mapping[str, torch.Tensor], source: str = "the model file") -> _M:
    """Put `tensors` into `module`, which was built on the meta device; returns the module in evaluation mode.

    Raises WeightsError for a tensor that is missing, left over or of another shape.
    """
    folded = fold_spectral_norm(tensors, source)
    checked = rename_and_check(module.state_dict(), folded, lambda name: name, source=source)
    module.load_state_dict(checked, assign=True)
    return module.eval().requires_grad_(False)
