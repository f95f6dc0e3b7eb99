"""InfiniteTalk's published files with random weights: every file with the right names, tiny or at full size (28 GB).

`write` fills a folder for LIPSYNC_WEIGHTS_DIR. The videos are noise, but all code of the engine runs: with tiny files
in seconds on a CPU, and with full-size files at the same cost on a GPU as with the published weights. Parameters are
made on the device one at a time and streamed to disk. The names come from the loaders' own mappings.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import CLIPVisionConfig, UMT5Config, Wav2Vec2Config

from lipsync_server.engines.infinitetalk.files.places import FLASHTALK_FOLDER
from lipsync_server.engines.infinitetalk.files.transformers import People
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.models.encoders import clip, text
from lipsync_server.models.tensor_files.quanto import save_quantized
from lipsync_server.quantization import EightBit
from lipsync_server.random_models.infinitetalk_transformer import (
    layout_of,
    random_parameters,
    save_shards,
)
from lipsync_server.random_models.networks import vae_tensors, write_json, write_wav2vec
from lipsync_server.random_models.numbers import randomise


@dataclass(frozen=True)
class Sizes:
    """The size of each model.

    vae_width: channels of the VAE's first layer. plain_layers: parts of the names of linear layers that quantised
    transformer files keep in 16 bits.
    """

    transformer: TransformerConfig
    text: UMT5Config
    clip: CLIPVisionConfig
    wav2vec: Wav2Vec2Config
    vae_width: int
    plain_layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contents:
    """The files to write.

    people: for one person, for two, or both. shards: whether to write the transformer in 16 bits. kinds: number formats
    of quantised transformers. merged: one set of quantised transformers for each entry; True adds _lora to their names.
    text: number formats of the text encoder.
    """

    people: tuple[People, ...] = ("single", "multi")
    shards: bool = True
    kinds: tuple[EightBit, ...] = ("int8", "fp8")
    merged: tuple[bool, ...] = (False, True)
    text: tuple[Literal["bf16", "fp8"], ...] = ("bf16", "fp8")


FULL = Sizes(
    transformer=TransformerConfig(),
    text=UMT5Config(
        vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_heads=64, num_layers=24,
        feed_forward_proj="gated-gelu", dropout_rate=0.0,
    ),
    clip=clip.VIT_H,
    wav2vec=Wav2Vec2Config(),
    vae_width=96,
)  # fmt: skip
TINY = Sizes(
    transformer=TransformerConfig(
        dim=64, ffn_dim=96, num_heads=2, num_layers=2, freq_dim=32, text_dim=32, image_dim=160,
        audio_channels=32, intermediate_dim=8, output_dim=32, context_tokens=4,
    ),
    text=UMT5Config(
        vocab_size=300, d_model=32, d_kv=16, d_ff=48, num_heads=2, num_layers=2, feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    ),
    clip=CLIPVisionConfig(
        hidden_size=160, intermediate_size=160, num_hidden_layers=3, num_attention_heads=2, image_size=224,
        patch_size=14, hidden_act="gelu", layer_norm_eps=1e-5,
    ),
    wav2vec=Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=12, num_attention_heads=1, intermediate_size=48, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    ),
    # One channel, because the pictures have their full size, which costs the most time.
    vae_width=1,
    plain_layers=("img_emb", "audio_proj", "time_"),
)  # fmt: skip
EVERYTHING = Contents()
# The smallest set of files with which a server on an H100 renders presets of few steps.
FP8_FEW_STEPS = Contents(people=("single",), shards=False, kinds=("fp8",), merged=(True,), text=("fp8",))


def write(
    folder: Path, sizes: Sizes = TINY, contents: Contents = EVERYTHING, *, device: torch.device | str = "cpu"
) -> None:
    """Write all files of `contents` below `folder`, which is made if missing. device: on which weights are made."""
    device = torch.device(device)
    base, talk, sound = folder / "Wan2.1-I2V-14B-480P", folder / "InfiniteTalk", folder / "chinese-wav2vec2-base"
    quantised, tokenizer = talk / "quant_models", base / "google" / "umt5-xxl"
    for place in (tokenizer, quantised, sound):
        place.mkdir(parents=True, exist_ok=True)
    names = [field.name for field in fields(sizes.transformer)]
    config = {name: getattr(sizes.transformer, name) for name in names}
    write_json(base / "config.json", {"_class_name": "WanModel", "model_type": "i2v", **config})
    for seed, people in enumerate(contents.people):
        if contents.shards:
            parameters = dict(random_parameters(sizes.transformer, seed=seed, device=device))
            save_shards(parameters, base, talk / people / "infinitetalk.safetensors")
        for kind in contents.kinds:
            for suffix in ("_lora" if merged else "" for merged in contents.merged):
                path = quantised / f"infinitetalk_{people}_{kind}{suffix}.safetensors"
                _write_transformer(path, sizes, kind, seed, device)
    if "bf16" in contents.text:
        torch.save(
            {name: tensor.cpu() for name, tensor in text_tensors(sizes.text, device)},
            base / "models_t5_umt5-xxl-enc-bf16.pth",
        )
    if "fp8" in contents.text:
        _write_text_fp8(quantised, sizes.text, device)
    _tokenizer().save(str(tokenizer / "tokenizer.json"))
    torch.save(_clip_tensors(sizes.clip, device), base / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")
    torch.save(vae_tensors(sizes.vae_width, device), base / "Wan2.1_VAE.pth")
    write_wav2vec(sound, sizes.wav2vec, device)


def write_flashtalk(folder: Path, sizes: Sizes = TINY, *, device: torch.device | str = "cpu") -> None:
    """Write FlashTalk's transformer below `folder`, in shards without an adapter. `write` writes its encoders."""
    place = folder / FLASHTALK_FOLDER
    save_shards(dict(random_parameters(sizes.transformer, seed=7, device=device)), place, None, n_shards=3)
    config = {field.name: getattr(sizes.transformer, field.name) for field in fields(sizes.transformer)}
    write_json(place / "config.json", {"_class_name": "WanModel", "model_type": "i2v", **config})


def _write_transformer(path: Path, sizes: Sizes, kind: EightBit, seed: int, device: torch.device) -> None:
    """Write a whole transformer with 8-bit weights."""
    config = sizes.transformer
    # Weights are drawn in float32 for every format, so that all files of one seed have the same weights.
    plain = random_parameters(config, seed=seed, device=device)
    halved = ((name, tensor.to(torch.bfloat16)) for name, tensor in plain)
    save_quantized(layout_of(config, torch.bfloat16), halved, kind, path, keep=sizes.plain_layers)


def _write_text_fp8(folder: Path, config: UMT5Config, device: torch.device) -> None:
    """Write the text encoder in fp8, with the map of its rounded layers."""
    positions = (f"blocks.{layer}.pos_embedding" for layer in range(config.num_layers))
    meta = torch.device("meta")
    save_quantized(
        dict(text_tensors(config, meta)), text_tensors(config, device), "fp8", folder / "t5_fp8.safetensors",
        keep=("token_embedding", *positions), quant_map_path=folder / "t5_map_fp8.json",
    )  # fmt: skip


def text_tensors(config: UMT5Config, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Yield UMT5's tensors as (official name, bfloat16 tensor), layer by layer."""
    embedding = torch.empty(config.vocab_size, config.d_model, device=device)
    if not embedding.is_meta:
        embedding.normal_(generator=torch.Generator(device).manual_seed(1))
    yield "token_embedding.weight", embedding.to(torch.bfloat16)
    yield "norm.weight", torch.ones(config.d_model, dtype=torch.bfloat16, device=device)
    for layer in range(config.num_layers):
        model = text.one_layer(config)
        if device.type != "meta":
            randomise(model, device=device, dtype=torch.float32, seed=layer)
        for name, tensor in model.encoder.block[0].state_dict().items():
            yield text.official_name(name, layer), tensor.to(torch.bfloat16)


def _tokenizer() -> Tokenizer:
    """A tokenizer of bytes, with the published special tokens: <pad> 0, </s> 1 at the end, <unk> 2."""
    special = ["<pad>", "</s>", "<unk>"]
    vocabulary = {token: index for index, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))  # noqa: S106 - a text token
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def _clip_tensors(config: CLIPVisionConfig, device: torch.device) -> dict[str, Tensor]:
    """CLIP's vision tower in float16 under its official names, with joined q, k, v and some of the unused tensors."""
    # build() leaves out the last block, which the published file has.
    whole = CLIPVisionConfig(**{**config.to_dict(), "num_hidden_layers": config.num_hidden_layers + 1})
    model = clip.build(whole)
    randomise(model, device=device, dtype=torch.float32)
    tensors: dict[str, Tensor] = {"log_scale": torch.zeros(()), "textual.cls_token": torch.zeros(1, 1, 8)}
    for name, tensor in model.state_dict().items():
        tensors[clip.official_name(name)] = tensor
    for name in [name for name in tensors if ".to_qkv.q." in name]:
        parts = [tensors.pop(name.replace(".q.", f".{part}.")) for part in "qkv"]
        tensors[name.replace(".q.", ".")] = torch.cat(parts)
    tensors["visual.cls_embedding"] = tensors["visual.cls_embedding"].view(1, 1, -1)
    tensors["visual.pos_embedding"] = tensors["visual.pos_embedding"][None]
    return {name: tensor.half().cpu().clone() for name, tensor in tensors.items()}
