"""Load tensors of model files into modules: read, rename and check them, with one clear error for each mismatch.

Used for the encoders and the VAE; transformer_files.py reads the transformer. Tensors stay memory-mapped until they
are copied to their device. Pickled files are read with `weights_only=True` and in no other way, because a pickle can
run code.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lipsync_server.errors import WeightsError
from lipsync_server.models.tensor_files.headers import read_header

Official = Callable[[str], str]
"""Name of a tensor in our module -> its name in the published file."""


def read_tensors(path: Path, *, pull: str = "", below: str | None = None) -> dict[str, Tensor]:
    """All tensors of a .safetensors file or of a pickled file, memory-mapped on the CPU.

    pull: the set of model files to download when this one is missing. below: the key of a pickled file under which the
    tensors are; values of other keys, such as an optimiser's state, are not returned.
    """
    if not path.is_file():
        command = f"lipsync weights pull {pull}" if pull else "lipsync weights"
        raise WeightsError(f"{path.name} is missing: expected it at {path}. Download it with `{command}`.")
    try:
        if path.suffix == ".safetensors":
            # First, because it names the tensor at which a truncated file ends.
            read_header(path)
            return load_file(path)
        loaded = _read_pickled(path)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        # torch's first sentence names the fault; the others explain its own code.
        reason = str(error).partition(". ")[0] or "it ends too early"
        raise WeightsError(f"{path} is damaged or incomplete ({reason}). Delete it and download it again.") from error
    if below is not None:
        loaded = loaded.get(below) if isinstance(loaded, dict) else None
        if not isinstance(loaded, dict):
            raise WeightsError(f"{path} has no key {below!r} with tensors in it; it is not the published file.")
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise WeightsError(f"{path} does not hold a plain table of tensors; it is not the published file.")
    return loaded


def _read_pickled(path: Path) -> object:
    """The contents of a pickled file, which may be tensors in plain containers only. Raises ValueError otherwise."""
    from pickle import UnpicklingError

    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            # Files in torch's old format (before 1.6) cannot be mapped.
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError("it holds more than tensors") from error


def usual_size(tensors: Mapping[str, Tensor], names: Iterable[str], axis: int, default: int) -> int:
    """The size along `axis` that most of the tensors `names` have, `default` where none is there.

    Several tensors vote, so that one tensor with a wrong shape is found by the check and does not set the size.
    """
    sizes = Counter(
        tensors[name].shape[axis]
        for name in names
        if name in tensors and -tensors[name].dim() <= axis < tensors[name].dim()
    )
    return sizes.most_common(1)[0][0] if sizes else default


def shapes_of(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The same names with tensors of the same shapes, without reading tensors that would have to be unpacked."""
    stored = getattr(tensors, "stored", tensors)
    assert isinstance(stored, Mapping)
    return stored


def check_names(expected: Collection[str], given: Collection[str], *, source: str) -> None:
    """Raise WeightsError unless exactly the names in `expected` are given; the first that differs is named."""
    known, wanted = set(given), set(expected)
    missing = [name for name in expected if name not in known]
    if missing:
        raise WeightsError(
            f"{source}: {len(missing)} {'tensors are' if len(missing) > 1 else 'tensor is'} missing, the first is "
            f"{missing[0]}. Delete the file and download it again."
        )
    surplus = [name for name in given if name not in wanted]
    if surplus:
        raise WeightsError(
            f"{source}: {len(surplus)} {'tensors do' if len(surplus) > 1 else 'tensor does'} not belong there, the "
            f"first is {surplus[0]}. This is not the published file."
        )


def rename_and_check(
    expected: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    official: Official,
    *,
    source: str,
    unused: Callable[[str], bool] = lambda name: False,
) -> dict[str, Tensor]:
    """`tensors` under our names: exactly the names of `expected`, with the same shapes.

    Raises WeightsError that names the first missing, surplus or misshapen tensor. Missing tensors come first, because a
    size that was read from one of them may make others look wrong. unused: whether a tensor with this name is in the
    published file and in no model.
    """
    names = {name: official(name) for name in expected}
    needed = [name for name in tensors if not unused(name)]
    # An expected name may also match `unused`.
    check_names(list(names.values()), [*needed, *(set(names.values()) & tensors.keys() - set(needed))], source=source)
    renamed: dict[str, Tensor] = {}
    for name, published in names.items():
        tensor, want = tensors[published], expected[name].shape
        # Some published tensors carry leading axes of one that our modules do not have.
        if tensor.shape != want and tuple(n for n in tensor.shape if n != 1) == tuple(n for n in want if n != 1):
            tensor = tensor.reshape(want)
        if tensor.shape != want:
            raise WeightsError(
                f"{source}: the tensor {published} has the shape {tuple(tensor.shape)}, expected {tuple(want)}. "
                "This is not the published file."
            )
        renamed[name] = tensor
    return renamed


def fill(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    official: Official,
    *,
    source: str,
    device: torch.device,
    dtype: torch.dtype,
    unused: Callable[[str], bool] = lambda name: False,
) -> None:
    """Give `model` (built on the meta device) the published tensors, copied one by one to `device` as `dtype`.

    official, unused: as in `rename_and_check`, whose errors are raised before a tensor is copied.
    """
    expected = model.state_dict()
    rename_and_check(expected, shapes_of(tensors), official, source=source, unused=unused)
    # copy=True: the memory map of the file must not live on inside the model.
    moved = {
        name: tensors[official(name)].reshape(like.shape).to(device=device, dtype=dtype, copy=True)
        for name, like in expected.items()
    }
    model.load_state_dict(moved, strict=True, assign=True)
    model.requires_grad_(False).eval()
