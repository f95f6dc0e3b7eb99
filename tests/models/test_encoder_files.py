"""Each encoder computes the same from every layout that its weights are published in, within that layout's rounding."""

import json
from pathlib import Path

import pytest
import torch
from lipsync_server.models.encoders import clip
from lipsync_server.models.encoders.clip import ImageEncoder
from lipsync_server.models.encoders.text import published_name, read_weights, run_encoder
from lipsync_server.models.encoders.text_files import TextFiles
from lipsync_server.models.encoders.wav2vec import Wav2Vec
from lipsync_server.models.tensor_files.named import open_tensors, rows_of, tensor_on
from lipsync_server.models.wan_vae import vae
from lipsync_server.models.wan_vae.vae import WanVae
from lipsync_server.random_models import comfyui
from lipsync_server.random_models.infinitetalk import FULL, TINY, text_tensors
from lipsync_server.random_models.networks import vae_tensors
from lipsync_server.random_models.other_layouts import save_gguf, save_scaled_fp8, save_single
from torch import Tensor

CPU = torch.device("cpu")
TOKENS = [[5, 17, 250, 3, 1], [9, 1]]


@pytest.fixture(scope="module")
def official() -> dict[str, Tensor]:
    return {name: value.float() for name, value in text_tensors(TINY.text, CPU)}


def _write(path: Path, layout: str, official: dict[str, Tensor]) -> None:
    if layout == "scaled fp8":
        comfyui.save_text(path, "scaled fp8", official)
    elif layout == "plain fp8":
        save_scaled_fp8(official, path, scale="none", plain=("token_embedding", "pos_embedding"))
    elif layout == "bf16 with Wan's names":
        save_single(official, path)
    elif layout == "fp16":
        comfyui.save_text(path, "16 bits", official)
    else:
        comfyui.save_text(path, "GGUF", official, layout)


@pytest.mark.parametrize(
    ("layout", "bound"),
    [
        ("scaled fp8", 0.08),
        ("plain fp8", 0.1),
        ("bf16 with Wan's names", 0.01),
        ("fp16", 0.002),
        ("Q8_0", 0.02),
        ("Q4_0", 0.4),
        ("F16", 0.002),
    ],
)
def test_umt5_computes_the_same_from_every_layout(
    layout: str, bound: float, official: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / f"umt5.{'gguf' if layout in ('Q8_0', 'Q4_0', 'F16') else 'safetensors'}"
    _write(path, layout, official)
    tensors = read_weights(TextFiles(path, path))
    assert set(tensors) == set(official)
    wanted = run_encoder(official, TOKENS, device=CPU, dtype=torch.float32, source="official")
    found = run_encoder(tensors, TOKENS, device=CPU, dtype=torch.float32, source=path.name)
    for ours, theirs in zip(found, wanted, strict=True):
        error = float((ours - theirs).norm() / theirs.norm())
        assert error < bound, error
    for name in official:
        assert torch.equal(tensor_on(tensors, name, CPU), tensors[name])


def test_every_name_of_the_published_text_encoder_is_known_in_three_spellings() -> None:
    names = [name for name, _ in text_tensors(FULL.text, torch.device("meta"))]
    # 24 layers of ten tensors, the embedding and the last norm.
    assert len(names) == 242
    for name in names:
        assert published_name(name) == name
        for gguf in (False, True):
            assert published_name(comfyui.text_name(name, gguf=gguf)) == name
    assert published_name("spiece_model") is None
    assert published_name("encoder.embed_tokens.weight") is None


def test_a_gguf_embedding_is_unpacked_row_by_row(official: dict[str, Tensor], tmp_path: Path) -> None:
    save_gguf({"token_embd.weight": official["token_embedding.weight"]}, tmp_path / "e.gguf", "Q8_0")
    tensors = open_tensors(tmp_path / "e.gguf", published_name)
    wanted = torch.tensor([[3, 250], [0, 3]])
    assert torch.equal(rows_of(tensors, "token_embedding.weight", wanted), tensors["token_embedding.weight"][wanted])


def test_the_vision_tower_alone_gives_the_tokens_of_the_whole_file(tmp_path: Path) -> None:
    comfyui.save_encoders(tmp_path)
    path = tmp_path / "clip_vision" / "clip_vision_h.safetensors"
    picture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(3)) * 2 - 1
    tensors = open_tensors(path, clip.published_name)
    # Wan's wrapper has these names without the transformer's own and without `visual.`.
    bare = {name.removeprefix("visual.").removeprefix("transformer."): value for name, value in tensors.items()}
    save_single(bare, tmp_path / "bare.safetensors", dtype=torch.float16)
    save_single({**tensors, "textual.cls_token": torch.zeros(1)}, tmp_path / "p.safetensors", dtype=torch.float16)
    found = [
        ImageEncoder.load(file, device=CPU, dtype=torch.float32).encode(picture)
        for file in (path, tmp_path / "bare.safetensors", tmp_path / "p.safetensors")
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("spelling", ["official", "the wrapper's prefix", "diffusers"])
def test_the_vae_is_read_in_every_spelling(spelling: str, tmp_path: Path) -> None:
    official = vae_tensors(TINY.vae_width, CPU)
    renamed = dict(official)
    if spelling == "the wrapper's prefix":
        renamed = {f"model.{name}": value for name, value in official.items()}
    elif spelling == "diffusers":
        renamed = {name: official[vae.official_name(name)] for name in vae.build(TINY.vae_width).state_dict()}
    save_single(renamed, tmp_path / "vae.safetensors", dtype=torch.float32)
    save_single(official, tmp_path / "official.safetensors", dtype=torch.float32)
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    ours, theirs = (
        WanVae.load(tmp_path / name, device=CPU).encode_picture(picture, 2)
        for name in ("vae.safetensors", "official.safetensors")
    )
    assert torch.equal(ours, theirs)


def test_one_file_of_wav2vec2_gives_the_features_of_the_published_folder(tmp_path: Path) -> None:
    comfyui.save_encoders(tmp_path)
    path = tmp_path / "wav2vec2" / "wav2vec2-chinese-base_fp16.safetensors"
    single = Wav2Vec.load(path, device=CPU)
    # The public code of ComfyUI and its Wan wrapper says that this model's preprocessor does not normalise.
    assert not single.normalises
    features = torch.rand(20, 16, generator=torch.Generator().manual_seed(3))
    folder = tmp_path / "published"
    folder.mkdir()
    config = {k: v for k, v in TINY.wav2vec.to_dict().items() if k != "dtype"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(path.read_bytes())
    for ours, theirs in zip(single.encode(features), Wav2Vec.load(folder, device=CPU).encode(features), strict=True):
        assert torch.equal(ours, theirs)
