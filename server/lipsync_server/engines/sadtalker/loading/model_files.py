"""SadTalker's published files: the files that a size needs, and the networks made from their tensors.

No tensor may be missing and none may be left over. Tensors that only training used are named in official.py and not
read: 41 of a mapping file's 155 MB are needed. Errors name the file and the tensor. Knows no device and no precision.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
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
from lipsync_server.models.tensor_files.into_modules import check_names, read_tensors

_M = TypeVar("_M", bound=nn.Module)

_USED = tuple(name for name in combined() if not name.startswith(UNUSED_PREFIXES))
_UNUSED = frozenset(combined()).difference(_USED)
_PULL = "sadtalker-256"


@dataclass(frozen=True)
class Networks:
    """The networks of one size, float32 on the CPU, in evaluation mode, in the published form (not yet fused)."""

    keypoints: KeypointDetector
    generator: Generator
    exp_net: ExpNet
    pose_vae: PoseVAE
    reconstruction: FaceReconstruction
    mappings: Mapping[int, MappingNet]  # by number of coefficients: 70 for crop modes, 73 for full ones


def combined_path(folder: Path, size: int) -> Path:
    """The path of the file with all networks of a size but MappingNet."""
    return folder / COMBINED.format(size=size)


def mapping_path(folder: Path, n_coefficients: int) -> Path:
    """The path of the file with MappingNet for 70 or 73 coefficients."""
    return folder / (MAPPING_73 if n_coefficients == 73 else MAPPING_70)


def load_networks(folder: Path, size: int) -> Networks:
    """All networks of a size; raises WeightsError that names the file, and the tensor when one tensor is at fault."""
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
    """One network from its float tensors, of the file's shapes. `network` sees their names without `prefix`."""
    with torch.device("meta"):
        empty = network(layout_of(tensors, f"{prefix} of {source}"))
    return fill(empty, tensors, f"{prefix} of {source}")


def load_mapping(path: Path, n_coefficients: int) -> MappingNet:
    """The MappingNet of a mapping file; the optimiser's state and the discriminator beside it are not read."""
    tensors = read_tensors(path, pull=_PULL, below="mapping")
    check_names(official.mapping(n_coefficients), tensors, source=str(path))
    # A clone, because the memory map of the file must not stay open inside the network.
    mapping = build(MappingNet, {name: value.clone() for name, value in tensors.items()}, "mapping", path.name)
    if mapping.n_coefficients != n_coefficients:
        raise WeightsError(
            f"first.0.weight in {path} takes {mapping.n_coefficients} coefficients, not {n_coefficients}; "
            "the two mapping files may have been exchanged."
        )
    return mapping


def _read_combined(path: Path) -> dict[str, Tensor]:
    """The tensors that rendering needs, memory-mapped."""
    tensors = {name: value for name, value in read_tensors(path, pull=_PULL).items() if name not in _UNUSED}
    # Checked here by name: `build` would take a file that lacks a whole block for a smaller network.
    check_names(_USED, tensors, source=str(path))
    return tensors


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(prefix + ".")}


def _check_agreement(networks: Networks, source: str) -> None:
    """Check that networks of different files have the same number of keypoints."""
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
