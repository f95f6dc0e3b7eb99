"""The official files as they are: which ones a size needs, and their tensors as networks.

Nothing may be missing and nothing left over; what only training used is named in official.py and not read. A mapping
file is 155 MB of which 41 are mapped in. Errors name the file and the tensor. Knows no device and no precision.
"""

import pickle
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lipsync_server.engines.sadtalker.audio.audio_nets import ExpNet
from lipsync_server.engines.sadtalker.audio.pose_vae import PoseVAE
from lipsync_server.engines.sadtalker.face.reconstruction import FaceReconstruction
from lipsync_server.engines.sadtalker.layout import Layout, fill, layout_of
from lipsync_server.engines.sadtalker.loading import official
from lipsync_server.engines.sadtalker.loading.official import (
    COMBINED,
    MAPPING_70,
    MAPPING_73,
    UNUSED_PREFIXES,
    combined,
)
from lipsync_server.engines.sadtalker.renderer.generator import Generator
from lipsync_server.engines.sadtalker.renderer.keypoints import KeypointDetector
from lipsync_server.engines.sadtalker.renderer.mapping import MappingNet
from lipsync_server.errors import WeightsError

_M = TypeVar("_M", bound=nn.Module)

_USED = frozenset(name for name in combined() if not name.startswith(UNUSED_PREFIXES))
_UNUSED = frozenset(combined()) - _USED


@dataclass(frozen=True)
class Networks:
    """All that one size needs, float32 on the CPU, in evaluation mode, in the published form (not yet fused)."""

    keypoints: KeypointDetector
    generator: Generator
    exp_net: ExpNet
    pose_vae: PoseVAE
    reconstruction: FaceReconstruction
    mappings: Mapping[int, MappingNet]  # by number of coefficients: 70 for crop modes, 73 for full ones


def combined_path(folder: Path, size: int) -> Path:
    return folder / COMBINED.format(size=size)


def mapping_path(folder: Path, n_coefficients: int) -> Path:
    return folder / (MAPPING_73 if n_coefficients == 73 else MAPPING_70)


def load_networks(folder: Path, size: int) -> Networks:
    """Everything from `folder`; raises WeightsError that names the file and, where it is one tensor, the tensor."""
    path = combined_path(folder, size)
    tensors = _read_combined(path)
    parts = {prefix: _below(tensors, prefix) for prefix in ("kp_extractor", "generator", "audio2exp", "face_3drecon")}
    networks = Networks(
        keypoints=build(KeypointDetector, parts["kp_extractor"], "kp_extractor", path.name),
        generator=build(Generator, parts["generator"], "generator", path.name),
        exp_net=build(ExpNet, parts["audio2exp"], "audio2exp", path.name),
        pose_vae=build(PoseVAE, _below(tensors, "audio2pose"), "audio2pose", path.name),
        reconstruction=build(FaceReconstruction, parts["face_3drecon"], "face_3drecon", path.name),
        mappings={n: load_mapping(mapping_path(folder, n), n) for n in (70, 73)},
    )
    _check_agreement(networks, path.name)
    return networks


def build(network: Callable[[Layout], _M], tensors: Mapping[str, Tensor], prefix: str, source: str) -> _M:
    """One network from its tensors, whose names are those below `prefix` in the file."""
    with torch.device("meta"):
        empty = network(layout_of(tensors, f"{prefix} of {source}"))
    return fill(empty, tensors, f"{prefix} of {source}")


def load_mapping(path: Path, n_coefficients: int) -> MappingNet:
    """The MappingNet of a mapping file; the optimiser's state and the discriminator beside it are not read."""
    _require(path)
    zipped = zipfile.is_zipfile(path)  # only these can be mapped instead of read
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{path} cannot be read as a torch checkpoint ({str(error).splitlines()[0]}); download it again."
        ) from error
    tensors = content.get("mapping") if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise WeightsError(f"{path} has no key 'mapping' with tensors in it; download the file again.")
    _check_names(tensors, official.mapping(n_coefficients), path)
    mapping = build(MappingNet, {name: value.clone() for name, value in tensors.items()}, "mapping", path.name)
    if mapping.n_coefficients != n_coefficients:
        raise WeightsError(
            f"first.0.weight in {path} takes {mapping.n_coefficients} coefficients, not {n_coefficients}; "
            "the two mapping files may have been exchanged."
        )
    return mapping


def _read_combined(path: Path) -> dict[str, Tensor]:
    _require(path)
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            _check_names(names - _UNUSED, _USED, path)
            return {name: file.get_tensor(name) for name in sorted(_USED)}
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged or incomplete ({error}); download it again.") from error


def _check_names(given: Collection[str], expected: Collection[str], path: Path) -> None:
    """Shapes are checked against each other later; here whole blocks that are absent would be noticed first."""
    if surplus := set(given) - set(expected):
        raise WeightsError(
            f"{path} holds {min(surplus)} ({len(surplus)} such tensors), which SadTalker V0.0.2 has not; it is another "
            "model's file."
        )
    if missing := set(expected) - set(given):
        raise WeightsError(f"{path} lacks the tensor {min(missing)} ({len(missing)} in all); download it again.")


def _require(path: Path) -> None:
    if not path.is_file():
        raise WeightsError(
            f"{path.name} is missing in {path.parent}; fetch SadTalker's files with "
            "`lipsync weights pull sadtalker-256`."
        )


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(prefix + ".")}


def _check_agreement(networks: Networks, source: str) -> None:
    """Parts of different files must speak of the same keypoints and coefficients."""
    n_keypoints = networks.keypoints.kp.out_channels
    for n, mapping in networks.mappings.items():
        if mapping.n_keypoints != n_keypoints:
            raise WeightsError(
                f"mapping of {n} coefficients moves {mapping.n_keypoints} keypoints (fc_exp.weight), {source} has "
                f"{n_keypoints} (kp_extractor.kp.weight); the files belong to different models."
            )
    n_masks = networks.generator.dense_motion_network.mask.out_channels
    if n_masks != n_keypoints + 1:
        raise WeightsError(
            f"generator.dense_motion_network.mask.weight of {source} has {n_masks} outputs, {n_keypoints + 1} expected."
        )
