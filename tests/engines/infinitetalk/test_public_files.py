"""The public files' tensors fit our models at full size, on the meta device: nothing missing, nothing left over."""

from pathlib import Path

import pytest
import torch
from lipsync_server.engines.infinitetalk.files.recognise import is_step_distilled, recognise
from lipsync_server.engines.infinitetalk.loading.lora import read_lora
from lipsync_server.engines.infinitetalk.loading.transformer_files import official_shapes, open_transformer
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.models.encoders import clip, text, wav2vec
from lipsync_server.models.tensor_files import into_modules
from lipsync_server.models.tensor_files.named import NamedTensors
from lipsync_server.models.wan_vae import vae
from public_files import BASES, CLIP, FILES, LORA, PATCHES, SOUND, TEXTS, VAE, PublicFile, lightx2v_lora

KINDS = {
    **{file.name: "base" for file in BASES}, **{file.name: "patch" for file in PATCHES},
    **{file.name: "text" for file in TEXTS}, CLIP.name: "clip", LORA.name: "lora", VAE.name: "vae", SOUND.name: "sound",
}  # fmt: skip


@pytest.mark.parametrize("file", [file for file in FILES if file.published_bytes], ids=lambda file: file.name)
def test_tensors_and_header_give_the_published_size(file: PublicFile) -> None:
    """The remaining keys are metadata, for example the workflow that wrote the file."""
    assert file.published_bytes is not None
    assert 0 <= file.published_bytes - file.size_bytes < 10_000


def test_the_lora_has_its_published_size_to_the_byte() -> None:
    """So its tensors are known, and no metadata are in its header."""
    assert LORA.size_bytes == LORA.published_bytes
    assert len(LORA.tensors) == 1749


@pytest.mark.parametrize("rank", [4, 64])
def test_the_step_distilled_lora_changes_the_transformer_with_nothing_left_over(rank: int, tmp_path: Path) -> None:
    path = PublicFile(LORA.name, lightx2v_lora(rank)).write(tmp_path)
    shapes = official_shapes(TransformerConfig())
    lora = read_lora(path, 1.0, shapes)
    assert lora.ignored == ()
    unchanged = {name for name in shapes if name not in lora.targets and "audio" not in name and "norm_x" not in name}
    assert unchanged == {"patch_embedding.weight", *(name for name in shapes if name.endswith("modulation"))}
    file = recognise(path)
    assert (file.kind, file.width, is_step_distilled(path.name)) == ("lora", 5120, True)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_public_file_is_recognised(file: PublicFile, tmp_path: Path) -> None:
    found = recognise(file.write(tmp_path))
    assert (found.kind, found.remark) == (KINDS[file.name], "")


@pytest.mark.parametrize("base", BASES, ids=lambda file: file.name)
def test_base_and_patch_files_fill_the_transformer(base: PublicFile, tmp_path: Path) -> None:
    """The loader compares names and shapes in both directions, and reads the 14B model's sizes from the shapes."""
    path = base.write(tmp_path)
    for patch in PATCHES:
        opened = open_transformer(path, patch.write(tmp_path), None)
        assert opened.config == TransformerConfig()
        assert opened.layout.keys() == official_shapes(TransformerConfig()).keys()
        assert len(opened.layout) == 1303 + 330


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: file.name)
def test_text_encoders_have_every_tensor_of_umt5(file: PublicFile, tmp_path: Path) -> None:
    tensors = NamedTensors(file.write(tmp_path), text.published_name).stored
    assert len(tensors) == 242
    config = text.config_of(tensors)
    assert (config.d_model, config.num_layers, config.num_heads, config.vocab_size) == (4096, 24, 64, 256384)
    text.check(config, tensors, file.name)


def test_the_vision_tower_the_vae_and_wav2vec2_are_filled(tmp_path: Path) -> None:
    tower = NamedTensors(CLIP.write(tmp_path), clip.published_name).stored
    config = clip.config_of(tower)
    assert (config.hidden_size, config.num_hidden_layers) == (1280, 32)
    with torch.device("meta"):
        wanted = clip.build(config).state_dict()
    into_modules.rename_and_check(
        wanted, tower, clip.official_name, source=CLIP.name, unused=lambda name: clip.unused(config, name)
    )
    frames = NamedTensors(VAE.write(tmp_path), vae.published_name).stored
    into_modules.rename_and_check(vae.build().state_dict(), frames, vae.official_name, source=VAE.name)
    sound = NamedTensors(SOUND.write(tmp_path), wav2vec.published_name).stored
    listens = wav2vec.build(wav2vec.config_of(sound, SOUND.name))
    into_modules.rename_and_check(
        listens.state_dict(), sound, lambda name: name, source=SOUND.name,
        unused=lambda name: name.startswith(("quantizer.", "project_")),
    )  # fmt: skip
