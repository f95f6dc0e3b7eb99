"""Load FlashHead's transformer from its published folder: 843 float32 tensors in one file, or in shards.

The file also has layers of the text-to-video model from which FlashHead was trained (text and audio embeddings). The
model does not have these layers, so they are skipped. All names and shapes are checked from the header before the first
tensor is read. Does not know how the model computes.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from lipsync_server.engines.flashhead.model.config import HeadConfig
from lipsync_server.engines.flashhead.model.transformer import FlashHeadTransformer
from lipsync_server.errors import WeightsError
from lipsync_server.models.kernels.choice import Chooser
from lipsync_server.models.tensor_files.joined_qkv import official_names, place_of, rows_of
from lipsync_server.models.tensor_files.safetensors_files import WeightFiles, shards

UNUSED = ("text_embedding.", "audio_emb.", "img_emb.")
"""Layers that the file holds and the model does not have."""
CONVERTED = "diffusion_pytorch_model.bf16.safetensors"
"""The same tensors in bfloat16, without the unused ones; written by us beside the published file (convert.py)."""
_FLOATS = ("F32", "BF16", "F16", "F64")
Progress = Callable[[int, int], None]


def weight_files(folder: Path) -> WeightFiles:
    """The transformer's file or shards in `folder`; our bfloat16 copy if there is one, because it is half as large."""
    converted = folder / CONVERTED
    if converted.is_file():
        return WeightFiles([converted])
    return WeightFiles([path for path in shards(folder) if path.name != CONVERTED])


def read_config(folder: Path, files: WeightFiles) -> HeadConfig:
    """The sizes of the model: from config.json, and from the shapes in the file where config.json lacks them."""
    shapes = {name: entry.shape for name, entry in files.entries.items()}
    return HeadConfig.from_json(folder / "config.json").with_sound_of(shapes)


def official_shapes(config: HeadConfig) -> dict[str, tuple[int, ...]]:
    """Every parameter that the model needs, under its official name."""
    with torch.device("meta"):
        return official_names(FlashHeadTransformer(config))


def check(files: WeightFiles, config: HeadConfig) -> None:
    """Compare the tensors of the files with the model's. Raises WeightsError with the file and the tensor's name."""
    wanted = official_shapes(config)
    for name, entry in files.entries.items():
        if name.startswith(UNUSED):
            continue
        if name not in wanted:
            raise WeightsError(f"{entry.file} holds {name}, which FlashHead does not have. Is it another model's file?")
        if entry.shape != wanted[name]:
            raise WeightsError(
                f"{entry.file}: {name} is {list(entry.shape)} where the model needs {list(wanted[name])}."
            )
        if entry.dtype not in _FLOATS:
            raise WeightsError(f"{entry.file}: {name} is stored as {entry.dtype}, expected {' or '.join(_FLOATS)}.")
    missing = [name for name in wanted if name not in files.entries]
    if missing:
        raise WeightsError(
            f"{files.paths[-1]} lacks {missing[0]}. The download is incomplete, or it is another model's file."
        )


def load_transformer(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    attention: str = "auto",
    chooser: Chooser | None = None,
    progress: Progress | None = None,
) -> FlashHeadTransformer:
    """Read the published folder, ready to compute on `device`.

    chooser: measures attention "auto" and keeps the choice. progress: called with bytes done and bytes in all.
    """
    device = torch.device(device)
    files = weight_files(folder)
    config = read_config(folder, files)
    check(files, config)
    done = 0

    def stored() -> Iterable[tuple[str, Tensor]]:
        nonlocal done
        for _, file in files:
            for entry in file.entries:
                if not entry.key.startswith(UNUSED):
                    yield entry.key, file.tensor(entry.key)
                done += entry.n_bytes
                if progress:
                    progress(done, files.n_bytes)

    return fill_transformer(stored(), config, device=device, dtype=dtype, attention=attention, chooser=chooser)


def fill_transformer(
    parameters: Iterable[tuple[str, Tensor]],
    config: HeadConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    attention: str = "auto",
    chooser: Chooser | None = None,
) -> FlashHeadTransformer:
    """A model from official names and float tensors of the official shapes; unused tensors are skipped."""
    device = torch.device(device)
    with torch.device("meta"):
        # The type is set before the model has memory. In float32 it would need 6 GB for a moment, too much for a card
        # of 8 GB.
        model = nn.Module.to(FlashHeadTransformer(config), dtype=dtype)
    model.to_empty(device=device)
    modules = dict(model.named_modules())
    for name, tensor in parameters:
        if name.startswith(UNUSED):
            continue
        place = place_of(name)
        rows_of(getattr(modules[place.module], place.parameter), place.part).copy_(tensor)
    model.eval().requires_grad_(False)
    model.set_attention(attention, chooser)
    return model
