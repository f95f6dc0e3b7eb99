"""Write a tiny random-weight checkpoint in the official file layout: every file, the right names, tiny shapes.

    python -m lipsync_server.engines.infinitetalk.tiny_checkpoint FOLDER

FOLDER then serves as LIPSYNC_WEIGHTS_DIR. The videos it makes are noise; everything else is real, so the whole engine
runs on a CPU in seconds. Knows the file layout; the names come from the loaders' own mappings.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, Wav2Vec2Config

from lipsync_server.engines.infinitetalk import clip, state_files, text, vae, wav2vec
from lipsync_server.engines.infinitetalk.quant import Kind
from lipsync_server.engines.infinitetalk.random_weights import quantized_tensors, random_parameters, save_shards
from lipsync_server.engines.infinitetalk.transformer_config import TransformerConfig

_CPU = torch.device("cpu")
TRANSFORMER = TransformerConfig(
    dim=64, ffn_dim=96, num_heads=2, num_layers=2, freq_dim=32, text_dim=32, image_dim=160,
    audio_channels=32, intermediate_dim=8, output_dim=32, context_tokens=4,
)  # fmt: skip
_TEXT = UMT5Config(
    vocab_size=300, d_model=32, d_kv=16, d_ff=48, num_heads=2, num_layers=2, feed_forward_proj="gated-gelu",
    dropout_rate=0.0,
)  # fmt: skip
_CLIP = CLIPVisionConfig(
    hidden_size=160, intermediate_size=160, num_hidden_layers=3, num_attention_heads=2, image_size=224, patch_size=14,
    hidden_act="gelu", layer_norm_eps=1e-5,
)  # fmt: skip
_WAV2VEC = Wav2Vec2Config(
    hidden_size=32, num_hidden_layers=12, num_attention_heads=2, intermediate_size=48, conv_dim=(16,) * 7,
    num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
)  # fmt: skip
# One channel: the pictures keep their full size, and this is what costs.
_VAE_WIDTH = 1
_KINDS: tuple[Kind, ...] = ("int8", "fp8")


def write(folder: Path) -> None:
    """Write all files below `folder`, which is made when missing."""
    base, talk, sound = folder / "Wan2.1-I2V-14B-480P", folder / "InfiniteTalk", folder / "chinese-wav2vec2-base"
    quantised = talk / "quant_models"
    for place in (base / "google" / "umt5-xxl", quantised, sound):
        place.mkdir(parents=True, exist_ok=True)
    _write_transformers(base, talk, quantised)
    encoder = _text_tensors()
    torch.save(encoder, base / "models_t5_umt5-xxl-enc-bf16.pth")
    data, quant_map = quantized_tensors(
        encoder, "fp8", keep=("token_embedding", *(f"blocks.{i}.pos_embedding" for i in range(_TEXT.num_layers)))
    )
    save_file(data, quantised / "t5_fp8.safetensors")
    _write_json(quantised / "t5_map_fp8.json", quant_map)
    _tokenizer().save(str(base / "google" / "umt5-xxl" / "tokenizer.json"))
    torch.save(_clip_tensors(), base / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")
    torch.save(_vae_tensors(), base / "Wan2.1_VAE.pth")
    _write_wav2vec(sound)


def _write_transformers(base: Path, talk: Path, quantised: Path) -> None:
    sizes = {name: getattr(TRANSFORMER, name) for name in TRANSFORMER.__dataclass_fields__}
    _write_json(base / "config.json", {"_class_name": "WanModel", "model_type": "i2v", **sizes})
    for seed, people in enumerate(("single", "multi")):
        parameters = dict(random_parameters(TRANSFORMER, seed=seed))
        save_shards(parameters, base, talk / people / "infinitetalk.safetensors")
        for kind in _KINDS:
            for suffix in ("", "_lora"):
                half = {name: tensor.to(torch.bfloat16) for name, tensor in parameters.items()}
                data, quant_map = quantized_tensors(half, kind, keep=("img_emb", "audio_proj", "time_"))
                stem = f"infinitetalk_{people}_{kind}{suffix}"
                save_file(data, quantised / f"{stem}.safetensors")
                _write_json(quantised / f"{stem}.json", quant_map)


def _text_tensors() -> dict[str, Tensor]:
    """UMT5 under its official names, bfloat16."""
    tensors = {
        "token_embedding.weight": torch.empty(_TEXT.vocab_size, _TEXT.d_model).normal_(generator=_generator(1)),
        "norm.weight": torch.ones(_TEXT.d_model),
    }
    for layer in range(_TEXT.num_layers):
        model = text.one_layer(_TEXT)
        state_files.randomise(model, device=_CPU, dtype=torch.float32, seed=layer)
        block = model.encoder.block[0].state_dict()
        tensors |= {text.official_name(name, layer): tensor.clone() for name, tensor in block.items()}
    return {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}


def _tokenizer() -> Tokenizer:
    """Bytes as tokens, with the published tokenizer's special ones: <pad> 0, </s> 1 at the end, <unk> 2."""
    special = ["<pad>", "</s>", "<unk>"]
    vocabulary = {token: index for index, token in enumerate([*special, *pre_tokenizers.ByteLevel.alphabet()])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))  # noqa: S106 - a text token
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def _clip_tensors() -> dict[str, Tensor]:
    """The vision tower under its official names with joined q, k, v, some of the unused tensors, float16."""
    whole = CLIPVisionConfig(**{**_CLIP.to_dict(), "num_hidden_layers": _CLIP.num_hidden_layers})
    model = CLIPVisionModel(whole)
    tensors: dict[str, Tensor] = {"log_scale": torch.zeros(()), "textual.cls_token": torch.zeros(1, 1, 8)}
    for name, tensor in model.state_dict().items():
        if "post_layernorm" not in name:
            tensors[clip.official_name(name)] = tensor
    for name in [name for name in tensors if ".to_qkv.q." in name]:
        parts = [tensors.pop(name.replace(".q.", f".{part}.")) for part in "qkv"]
        tensors[name.replace(".q.", ".")] = torch.cat(parts)
    tensors["visual.cls_embedding"] = tensors["visual.cls_embedding"].view(1, 1, -1)
    tensors["visual.pos_embedding"] = tensors["visual.pos_embedding"][None]
    return {name: tensor.half().clone() for name, tensor in tensors.items()}


def _vae_tensors() -> dict[str, Tensor]:
    model = vae.build(_VAE_WIDTH)
    state_files.randomise(model, device=_CPU, dtype=torch.float32)
    return {vae.official_name(name): tensor.clone() for name, tensor in model.state_dict().items()}


def _write_wav2vec(folder: Path) -> None:
    model = wav2vec.build(_WAV2VEC)
    state_files.randomise(model, device=_CPU, dtype=torch.float32)
    save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    _write_json(folder / "config.json", {k: v for k, v in _WAV2VEC.to_dict().items() if k != "dtype"})
    _write_json(folder / "preprocessor_config.json", {"do_normalize": True, "sampling_rate": 16000})


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a tiny random InfiniteTalk checkpoint in the official layout.")
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)


if __name__ == "__main__":
    main()
