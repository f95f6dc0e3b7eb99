"""SadTalker's four published files with random weights, tiny (about 3 MB in all, for tests) or at full size.

The pictures are noise, but names, shapes and cost are equal to the published files'. Each tensor is scaled so that the
variance of activations stays near one from layer to layer. So no value overflows in half precision, and every branch of
a network has an effect.
"""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lipsync_server.engines.sadtalker.loading import official
from lipsync_server.engines.sadtalker.loading.official import Dimensions, Shapes

TINY = Dimensions(width=1 / 32, depth=4, n_keypoints=4, compressed=2, mask_kernel=3)
"""The published networks with few channels, for tests of the code around them."""


def random_tensors(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Return a tensor for every shape. The same seed gives the same tensors."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: _tensor(name, shape, generator) for name, shape in shapes.items()}
    for name in [name for name in tensors if name.endswith(".weight_orig")]:
        _power_iteration(tensors, name.removesuffix(".weight_orig"))
    return tensors


def write(
    folder: Path, dimensions: Dimensions = TINY, *, sizes: tuple[int, ...] = official.SIZES, seed: int = 0
) -> None:
    """Write all published files into `folder`, the `sadtalker` folder of a weights directory.

    The folder is made if missing. dimensions: TINY, or official.PUBLISHED for full size. sizes: picture sizes whose
    combined file is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = random_tensors(official.combined(dimensions), seed)
    for size in sizes:
        save_file(tensors, folder / official.COMBINED.format(size=size))
    for n, name in ((70, official.MAPPING_70), (73, official.MAPPING_73)):
        mapping = random_tensors(official.mapping(n, dimensions), seed + n)
        torch.save({"mapping": mapping, "epoch": 0}, folder / name)


def _tensor(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random numbers for one tensor, in the range that fits its kind."""
    kind = name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return torch.zeros((), dtype=torch.int64)
    if name.endswith("kp_extractor.down.weight"):
        return _gaussian(shape)
    values = torch.rand(shape, generator=generator)
    if kind == "running_var" or (kind == "weight" and len(shape) == 1):
        return values * 0.5 + 0.75
    if len(shape) < 2:
        return (values * 2 - 1) * 0.1
    gain = next((gain for part, gain in _GAINS if part in name), math.sqrt(2))
    return (values * 2 - 1) * gain * math.sqrt(3 / math.prod(shape[1:]))


# Gains of tensors whose name contains the text. Other tensors have sqrt(2). Without these gains residual sums grow
# without bound, sigmoids and softmaxes saturate, and keypoints move out of the picture.
_GAINS = (
    ("audio_encoder.", 1.0),
    ("mapping1.", 0.3),
    ("pose_linear.", 0.1),
    ("face_3drecon.final_layers.", 0.05),
    ("face_3drecon.backbone.", 0.7),
    ("fc_t.", 0.05),
    ("fc_exp.", 0.1),
    ("fc_", 0.5),
    (".occlusion.", 0.05),
    (".mask.", 0.3),
    ("mlp_gamma.", 0.5),
    ("mlp_beta.", 0.5),
    ("conv_img.", 0.35),
)


def _gaussian(shape: tuple[int, ...], sigma: float = 1.5) -> Tensor:
    """A Gaussian blur kernel with sum 1, repeated for every channel."""
    position = torch.arange(shape[-1]) - (shape[-1] - 1) / 2
    line = torch.exp(-position.square() / (2 * sigma**2))
    kernel = torch.outer(line, line)
    return (kernel / kernel.sum()).expand(shape).contiguous()


def _power_iteration(tensors: dict[str, Tensor], name: str, n_rounds: int = 3) -> None:
    """Set u and v of a spectral norm to the leading singular vectors, by power iteration, as training does."""
    matrix = tensors[f"{name}.weight_orig"].flatten(1)
    u = torch.nn.functional.normalize(tensors[f"{name}.weight_u"] + 1e-3, dim=0)
    for _ in range(n_rounds):
        v = torch.nn.functional.normalize(matrix.T @ u, dim=0)
        u = torch.nn.functional.normalize(matrix @ v, dim=0)
    tensors[f"{name}.weight_u"], tensors[f"{name}.weight_v"] = u, v
