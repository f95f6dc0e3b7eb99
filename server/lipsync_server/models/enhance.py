"""Face restoration after rendering, on request: GFPGAN through spandrel, both optional.

Knows squares with a face. Does not know frames, pictures or how a square is put back. The square is not aligned again,
because SadTalker and FlashHead cut it out nearly as GFPGAN's training pictures were cut.
"""

import importlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipsync_server.errors import EngineUnavailable, WeightsError
from lipsync_server.extras import extra_is_missing, missing_packages
from lipsync_server.models.tensor_files.into_modules import read_tensors

FILE = "GFPGANv1.4.pth"
SIDE = 512
"""Width and height of the restored squares, for any size of input."""


def load_enhancer(folder: Path, device: torch.device) -> "Enhancer":
    """Load GFPGAN from `folder`. Raises EngineUnavailable without spandrel, and WeightsError without a usable file."""
    if missing := missing_packages(("spandrel",)):
        raise EngineUnavailable(f"{extra_is_missing('Option enhance', missing, 'enhance')}, or leave enhance off.")
    path = folder / FILE
    if not path.is_file():
        raise WeightsError(
            f"enhance needs {FILE} (349 MB, from the releases of TencentARC/GFPGAN) in {folder}; put it there, or "
            "leave enhance off."
        )
    try:
        spandrel = importlib.import_module("spandrel")
    except Exception as error:  # a torchvision of another build than torch may raise any exception
        raise EngineUnavailable(
            f"enhance cannot be used here: spandrel does not load ({error}). Install the torchvision that belongs to "
            "this torch, or leave enhance off."
        ) from error
    # spandrel's own loader is not used, because it unpickles files, and a pickle can run code.
    tensors = read_tensors(path, below="params_ema")
    try:
        network = spandrel.ModelLoader().load_from_state_dict(tensors)
        if network.architecture.id != "GFPGAN":
            raise ValueError(f"it holds {network.architecture.name}")
    except Exception as error:  # spandrel and torch each raise their own
        raise WeightsError(f"{path} is no GFPGAN file that can be used ({error}); fetch it again.") from error
    return Enhancer(network.model, device)


class Enhancer:
    """Restores faces. network: GFPGAN's, (n, 3, 512, 512) in [-1, 1] to the same."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        # GFPGAN's activations overflow float16, but not bfloat16.
        half = device.type == "cuda" and torch.cuda.is_bf16_supported()
        self._dtype = torch.bfloat16 if half else torch.float32
        self._network = network.eval().requires_grad_(False).to(device, self._dtype)

    @torch.inference_mode()
    def __call__(self, squares: Tensor) -> Tensor:
        """(n, 3, S, S) in [0, 1] -> (n, 3, 512, 512) float32 in [0, 1]; the same squares give the same faces."""
        large = F.interpolate(squares.float(), size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)
        # The renderer's tensors are channels-last, and GFPGAN's `view` calls need the usual order.
        given = (large * 2 - 1).to(self._dtype).contiguous()
        restored: Tensor = self._network(given, return_rgb=False, randomize_noise=False)[0]
        return ((restored.float() + 1) / 2).clamp(0, 1)
