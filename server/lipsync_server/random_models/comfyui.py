"""A whole ComfyUI `models/` folder for InfiniteTalk with random weights: tiny for tests, or at full size for a card.

Writes three sets of files: scaled fp8, GGUF, and 16 bits with a patch file. Folders, file names and tensor names are
the published ones. They come from public code (ComfyUI, its Wan wrapper, ComfyUI-GGUF and llama.cpp); no published file
was read. random_models/infinitetalk.py writes the same weights in the official layout.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from lipsync_server.engines.infinitetalk.loading.transformer_files import is_adapter
from lipsync_server.models.encoders import text, wav2vec
from lipsync_server.models.encoders.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, Piece, sentencepiece_model
from lipsync_server.random_models.infinitetalk import TINY, Sizes, text_tensors
from lipsync_server.random_models.infinitetalk_transformer import random_parameters
from lipsync_server.random_models.networks import vae_tensors
from lipsync_server.random_models.numbers import randomise
from lipsync_server.random_models.other_layouts import save_gguf, save_scaled_fp8, save_single

FileSet = Literal["scaled fp8", "GGUF", "16 bits"]
BASES: dict[FileSet, str] = {
    "scaled fp8": "diffusion_models/Wan2_1-I2V-14B-480p_fp8_e4m3fn_scaled_KJ.safetensors",
    "GGUF": "unet/wan2.1-i2v-14b-480p-{kind}.gguf",
    "16 bits": "diffusion_models/wan2.1_i2v_480p_14B_fp16.safetensors",
}
PATCHES: dict[FileSet, str] = {
    "scaled fp8": "diffusion_models/InfiniteTalk/Wan2_1-InfiniteTalk-Single_fp8_e4m3fn_scaled_KJ.safetensors",
    "GGUF": "unet/Wan2_1-InfiniteTalk_Single_{kind}.gguf",
    "16 bits": "model_patches/wan2.1_infiniteTalk_single_fp16.safetensors",
}
TEXTS: dict[FileSet, str] = {
    "scaled fp8": "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    "GGUF": "clip/umt5-xxl-encoder-{kind}.gguf",
    "16 bits": "text_encoders/umt5_xxl_fp16.safetensors",
}
_OF_TRANSFORMERS = {"token_embedding.weight": "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}
_OF_GGUF = {"token_embedding.weight": "token_embd.weight", "norm.weight": "enc.output_norm.weight"}


def write(folder: Path, files: FileSet, sizes: Sizes = TINY, *, kind: str = "Q8_0") -> None:
    """Write every file that InfiniteTalk needs below `folder`. kind: the block format of GGUF files, such as Q8_0."""
    parameters = dict(random_parameters(sizes.transformer))
    parts = ((BASES, False), (PATCHES, True))
    for names, of_adapter in parts:
        tensors = {name: value for name, value in parameters.items() if is_adapter(name) == of_adapter}
        _save(folder / names[files].format(kind=kind), files, tensors, kind)
    device = torch.device("cpu")
    prompts = dict(text_tensors(sizes.text, device))
    save_text(folder / TEXTS[files].format(kind=kind), files, prompts, kind)
    save_encoders(folder, sizes)


def save_text(path: Path, files: FileSet, official: Mapping[str, Tensor], kind: str = "Q8_0") -> None:
    """Write the text encoder with its tokenizer inside, under transformers' or llama.cpp's names.

    official: UMT5's tensors under their official names.
    """
    renamed = {text_name(name, gguf=files == "GGUF"): value.float() for name, value in official.items()}
    if files == "GGUF":
        save_gguf(renamed, path, kind, arch="t5encoder", pieces=byte_pieces())
        return
    tokenizer = {"spiece_model": torch.frombuffer(bytearray(sentencepiece_model(byte_pieces())), dtype=torch.uint8)}
    if files == "scaled fp8":
        save_scaled_fp8(renamed, path, plain=("shared", "relative_attention_bias"), extra=tokenizer)
    else:
        save_single(renamed, path, dtype=torch.float16, extra=tokenizer)


def save_encoders(folder: Path, sizes: Sizes = TINY) -> None:
    """Write CLIP's vision tower under transformers' names, the VAE in bf16, and wav2vec2 as one fp16 file."""
    tower = CLIPVisionModel(CLIPVisionConfig(**sizes.clip.to_dict()))
    randomise(tower, device=torch.device("cpu"), dtype=torch.float32)
    named = {
        name if name.startswith("vision_model.") else f"vision_model.{name}": value
        for name, value in tower.state_dict().items()
    }
    named["visual_projection.weight"] = torch.zeros(8, sizes.clip.hidden_size)
    save_single(named, folder / "clip_vision" / "clip_vision_h.safetensors", dtype=torch.float16)
    save_single(vae_tensors(sizes.vae_width, torch.device("cpu")), folder / "vae" / "wan_2.1_vae.safetensors")
    model = wav2vec.build(sizes.wav2vec)
    randomise(model, device=torch.device("cpu"), dtype=torch.float32)
    sound = {f"wav2vec2.{_old_norm(name)}": value for name, value in model.state_dict().items()}
    # These tensors are left over from training. The published file and the Wan wrapper's file have them.
    sound |= {"quantizer.codevectors": torch.zeros(1, 4, 2), "project_q.weight": torch.zeros(2, 2)}
    save_single(sound, folder / "wav2vec2" / "wav2vec2-chinese-base_fp16.safetensors", dtype=torch.float16)


def text_name(official: str, *, gguf: bool = False) -> str:
    """The name of a text encoder's tensor in transformers, or in llama.cpp."""
    outside = (_OF_GGUF if gguf else _OF_TRANSFORMERS).get(official)
    if outside is not None:
        return outside
    _, layer, inside = official.removesuffix(".weight").split(".", 2)
    if gguf:
        part = next(theirs for theirs, ours in text.NAMES_OF_GGUF.items() if ours == inside)
        return f"enc.blk.{layer}.{part}.weight"
    part = next(theirs for theirs, ours in text.NAMES_OF_TRANSFORMERS.items() if ours == inside)
    return f"encoder.block.{layer}.{part}.weight"


def byte_pieces() -> list[Piece]:
    """A tokenizer of 263 pieces: the special pieces, a space, the most frequent letters, and every byte."""
    special = [Piece("<pad>", 0.0, CONTROL), Piece("</s>", 0.0, CONTROL), Piece("<unk>", 0.0, UNKNOWN)]
    letters = [Piece(letter, -float(index + 1), NORMAL) for index, letter in enumerate("▁eta")]
    return [*special, *(Piece(f"<0x{byte:02X}>", -10.0, BYTE) for byte in range(256)), *letters]


def _old_norm(name: str) -> str:
    """The names of weight norm's two halves before torch 2.1. Published files have these names."""
    for old, new in (
        ("weight_g", "parametrizations.weight.original0"),
        ("weight_v", "parametrizations.weight.original1"),
    ):
        name = name.replace(new, old)
    return name


def _save(path: Path, files: FileSet, tensors: Mapping[str, Tensor], kind: str) -> None:
    """Write the tensors in the layout of this set of files."""
    if files == "GGUF":
        save_gguf(tensors, path, kind)
    elif files == "scaled fp8":
        save_scaled_fp8(tensors, path)
    else:
        save_single(tensors, path, dtype=torch.float16)
