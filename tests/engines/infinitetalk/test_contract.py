"""The published files' own key lists fit our modules at full size: nothing missing, nothing left over."""

import pytest
import torch
from infinitetalk_golden import equal, golden_json
from lipsync_server.errors import WeightsError
from lipsync_server.models.encoders import clip, text, wav2vec
from lipsync_server.models.tensor_files.into_modules import rename_and_check
from lipsync_server.models.wan_vae import vae
from torch import Tensor
from transformers import Wav2Vec2Config


def _published(name: str) -> dict[str, Tensor]:
    keys = golden_json(f"K_contract/{name}.json.gz")["keys"]
    return {key: torch.empty(entry["shape"], device="meta") for key, entry in keys.items()}


def _check_vae(tensors: dict[str, Tensor]) -> None:
    rename_and_check(vae.build().state_dict(), tensors, vae.official_name, source="Wan2.1_VAE.pth")


def _check_clip(tensors: dict[str, Tensor]) -> None:
    visual = clip.split_qkv(tensors)
    config = clip.config_of(visual)
    rename_and_check(
        clip.build(config).state_dict(), visual, clip.official_name, source="clip.pth",
        unused=lambda name: clip.unused(config, name),
    )  # fmt: skip


def _check_text(tensors: dict[str, Tensor]) -> None:
    text.check(text.config_of(tensors), tensors, "t5.pth")


def _check_wav2vec(tensors: dict[str, Tensor]) -> None:
    rename_and_check(wav2vec.build(Wav2Vec2Config()).state_dict(), tensors, lambda name: name, source="wav2vec2")


_FILES = {
    "wan_vae": (_check_vae, "decoder.middle.0.residual.2.weight"),
    "clip_xlm_roberta_vit_h_14": (_check_clip, "visual.transformer.17.mlp.0.weight"),
    "umt5_xxl_encoder": (_check_text, "blocks.11.attn.k.weight"),
    "wav2vec2_base": (_check_wav2vec, "encoder.layers.5.attention.k_proj.weight"),
}


@pytest.mark.parametrize("name", _FILES)
def test_the_published_key_list_fits_exactly(name: str) -> None:
    check, _ = _FILES[name]
    check(_published(name))
    equal(f"K {name}: all {len(_published(name))} tensors placed, none left over", True, True)


@pytest.mark.parametrize("name", _FILES)
def test_a_missing_a_surplus_and_a_wrongly_shaped_tensor_are_named(name: str) -> None:
    check, key = _FILES[name]
    tensors = _published(name)
    with pytest.raises(WeightsError, match=r"missing.*" + key.rsplit(".", 1)[0].replace(".", r"\.")):
        check({k: t for k, t in tensors.items() if k != key})
    with pytest.raises(WeightsError, match=r"visual\.more|more"):
        check({**tensors, "visual.more" if "clip" in name else "more": torch.empty(1, device="meta")})
    with pytest.raises(WeightsError, match="shape"):
        check({**tensors, key: torch.empty(3, 5, device="meta")})


def test_the_clip_towers_used_tensors_are_all_loaded() -> None:
    keys = golden_json("K_contract/clip_xlm_roberta_vit_h_14.json.gz")["keys"]
    used = {name for name, entry in keys.items() if entry["used"]}
    config = clip.config_of(clip.split_qkv(_published("clip_xlm_roberta_vit_h_14")))
    ours = {clip.official_name(name) for name in clip.build(config).state_dict()}
    ours = {
        name.replace(f".to_qkv.{part}.", ".to_qkv.") for name in ours for part in "qkv" if f".to_qkv.{part}." in name
    } | {name for name in ours if ".to_qkv." not in name}
    assert ours == used
