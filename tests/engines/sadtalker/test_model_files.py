"""The official files: nothing missing, nothing surplus, and an error that names the file and the tensor."""

import gzip
import json
import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lipsync_server.engines.sadtalker.audio.audio_nets import ExpNet
from lipsync_server.engines.sadtalker.audio.pose_vae import PoseVAE
from lipsync_server.engines.sadtalker.face.reconstruction import FaceReconstruction
from lipsync_server.engines.sadtalker.layout import Layout
from lipsync_server.engines.sadtalker.loading import official
from lipsync_server.engines.sadtalker.loading.model_files import load_mapping, load_networks
from lipsync_server.engines.sadtalker.renderer.generator import Generator
from lipsync_server.engines.sadtalker.renderer.keypoints import KeypointDetector
from lipsync_server.engines.sadtalker.renderer.mapping import MappingNet
from lipsync_server.errors import WeightsError
from lipsync_server.random_models import sadtalker as random_sadtalker
from sadtalker_golden import small
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

# Parts of the combined file that rendering reads.
USED_PREFIXES = (
    "kp_extractor.",
    "generator.",
    "audio2exp.",
    "audio2pose.audio_encoder.",
    "audio2pose.netG.decoder.",
    "face_3drecon.",
)
COMBINED = "SadTalker_V0.0.2_256.safetensors"


def contract(name: str) -> dict[str, Any]:
    tensors: dict[str, Any] = json.loads(gzip.decompress(small(name).read_bytes()))
    return tensors


def combined_contract() -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in contract("combined_safetensors.json.gz")["tensors"]}


def test_the_published_files_hold_exactly_these_tensors() -> None:
    wanted: dict[str, tuple[int, ...]] = {name: tuple(entry["shape"]) for name, entry in combined_contract().items()}
    assert official.combined() == wanted
    for name, entry in contract("mapping_checkpoints.json.gz")["files"].items():
        n = entry["coeff_channels"]
        assert official.mapping(n) == {tensor["name"]: tuple(tensor["shape"]) for tensor in entry["mapping"]}
        assert name == (official.MAPPING_70 if n == 70 else official.MAPPING_73)


def test_only_tensors_that_inference_does_not_use_are_not_read() -> None:
    for name, entry in combined_contract().items():
        counter = name.endswith("num_batches_tracked")
        assert name.startswith(official.UNUSED_PREFIXES) == (not entry["used_at_inference"]) or counter, name
        assert name.startswith(official.UNUSED_PREFIXES) != name.startswith(USED_PREFIXES), name


@pytest.mark.parametrize(
    ("prefix", "network"),
    [
        ("kp_extractor", KeypointDetector),
        ("generator", Generator),
        ("audio2exp", ExpNet),
        ("audio2pose", PoseVAE),
        ("face_3drecon", FaceReconstruction),
    ],
)
def test_every_published_tensor_has_its_place(prefix: str, network: Callable[[Layout], nn.Module]) -> None:
    shapes = {
        name[len(prefix) + 1 :]: tuple(entry["shape"])
        for name, entry in combined_contract().items()
        if name.startswith(f"{prefix}.") and not name.startswith(official.UNUSED_PREFIXES)
    }
    with torch.device("meta"):
        built = network(Layout(shapes))
    folded = {name.replace("weight_orig", "weight"): shape for name, shape in shapes.items()}
    wanted = {name: shape for name, shape in folded.items() if not name.endswith(("weight_u", "weight_v"))}
    assert {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()} == wanted


def test_both_mapping_networks_have_a_place_for_every_tensor() -> None:
    for n in (70, 73):
        with torch.device("meta"):
            built = MappingNet(Layout(official.mapping(n)))
        assert {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()} == official.mapping(n)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_sadtalker.write(tmp_path)
    return tmp_path


def drop(tensors: dict[str, Tensor], prefix: str) -> None:
    for name in [name for name in tensors if name.startswith(prefix)]:
        del tensors[name]


def change(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / COMBINED)
    edit(tensors)
    save_file(tensors, folder / COMBINED)


def test_tiny_model_files_have_the_official_names_and_load(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "SadTalker_V0.0.2_256.safetensors",
        "SadTalker_V0.0.2_512.safetensors",
        "mapping_00109-model.pth.tar",
        "mapping_00229-model.pth.tar",
    }
    assert set(load_file(folder / COMBINED)) == set(official.combined())
    networks = load_networks(folder, 512)
    assert {n: mapping.n_coefficients for n, mapping in networks.mappings.items()} == {70: 70, 73: 73}


def test_a_file_without_the_training_parts_gives_the_same_networks(folder: Path) -> None:
    whole = load_networks(folder, 256)
    for prefix in official.UNUSED_PREFIXES:
        change(folder, partial(drop, prefix=prefix))
    cut = load_networks(folder, 256)
    for name in ("keypoints", "generator", "exp_net", "pose_vae", "reconstruction"):
        weights = getattr(whole, name).state_dict()
        assert weights
        torch.testing.assert_close(getattr(cut, name).state_dict(), weights, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda t: t.pop("generator.third.conv.bias"), ["generator", "third.conv.bias"]),
        (lambda t: t.pop("audio2exp.mapping1.weight"), ["audio2exp", "mapping1.weight"]),
        (lambda t: t.pop("generator.decoder.up_0.conv_s.weight_u"), ["up_0.conv_s.weight_u"]),
        (lambda t: t.update({"generator.extra": torch.zeros(2)}), ["generator.extra", "not the published file"]),
        (lambda t: t.update({"unet.mid.weight": torch.zeros(2)}), ["unet.mid.weight", "not the published file"]),
        (lambda t: drop(t, "generator.resblocks_3d.3dr5."), ["3dr5", "14 tensors are missing"]),
        (lambda t: t.update({"generator.fourth.bias": torch.zeros(3)}), ["fourth.bias", "(3,)"]),
        (lambda t: t.update({"kp_extractor.kp.weight": torch.zeros(3)}), ["kp.weight", "5 dimensions"]),
    ],
)
def test_a_wrong_file_is_refused_by_name(
    folder: Path, edit: Callable[[dict[str, Tensor]], object], says: list[str]
) -> None:
    change(folder, edit)
    with pytest.raises(WeightsError) as raised:
        load_networks(folder, 256)
    for part in [COMBINED, *says]:
        assert part in raised.value.detail


@pytest.mark.parametrize("n_bytes", [0, 7, 1000, -1])
def test_a_torn_download_is_refused_by_name(folder: Path, n_bytes: int) -> None:
    path = folder / COMBINED
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(WeightsError, match=COMBINED):
        load_networks(folder, 256)


@pytest.mark.parametrize("name", ["SadTalker_V0.0.2_512.safetensors", official.MAPPING_70, official.MAPPING_73])
def test_a_missing_file_is_named_with_the_remedy(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(WeightsError, match="lipsync weights pull") as raised:
        load_networks(folder, 512)
    assert name in raised.value.detail


def test_exchanged_mapping_files_are_noticed(folder: Path) -> None:
    path = folder / official.MAPPING_70
    path.write_bytes((folder / official.MAPPING_73).read_bytes())
    with pytest.raises(WeightsError, match="exchanged"):
        load_networks(folder, 256)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("/tmp/pwned-by-a-pickle"),))


def test_a_mapping_file_runs_no_code(folder: Path) -> None:
    path = folder / official.MAPPING_70
    torch.save({"mapping": {}, "optimizer": Evil()}, path)
    with pytest.raises(WeightsError, match=official.MAPPING_70):
        load_mapping(path, 70)
    path.write_bytes(pickle.dumps({"mapping": Evil()}))
    with pytest.raises(WeightsError, match=official.MAPPING_70):
        load_mapping(path, 70)
    assert not Path("/tmp/pwned-by-a-pickle").exists()


@pytest.mark.parametrize("content", [{}, {"mapping": 3}, {"mapping": {"first": 1}}, [1, 2]])
def test_a_torch_file_of_something_else_is_refused(folder: Path, content: object) -> None:
    path = folder / official.MAPPING_73
    torch.save(content, path)
    with pytest.raises(WeightsError, match="not the published file"):
        load_mapping(path, 73)


def test_training_state_beside_the_mapping_is_not_read(folder: Path) -> None:
    """The published file also holds an optimiser and a discriminator, several times the size of the needed tensors."""
    path = folder / official.MAPPING_70
    content = torch.load(path, weights_only=True)
    content |= {"optimizer": {"state": [torch.zeros(100_000)]}, "discriminator": {"w": torch.zeros(7)}, "epoch": 229}
    torch.save(content, path)
    assert zipfile.is_zipfile(path)
    mapping = load_mapping(path, 70)
    assert torch.equal(mapping.get_parameter("fc_t.weight"), content["mapping"]["fc_t.weight"])
