"""The tensors of public model files, names and shapes only, and files with these headers and no numbers.

No published file was at hand. The names are those of public code: Wan2.1's and InfiniteTalk's modules, transformers'
UMT5, CLIP and wav2vec2, llama.cpp's names for T5 encoders, and the loaders of ComfyUI, its Wan wrapper and
ComfyUI-GGUF. The types are inferred from the sizes in bytes that the model hub shows: all tensors together and the
header that safetensors writes for them fall short of these sizes by 10 kB at most, which metadata in the header take.
For files whose exact size is not known the types are a guess. Written apart from the product's own mappings of names,
so that the two check each other.
"""

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_Tensor = tuple[str, tuple[int, ...]]
"""A tensor's type, as safetensors or GGUF calls it, and its shape."""
_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "I8": 1, "U8": 1}
# GGUF's number of a type, numbers in a block, bytes of a block.
_GGUF = {
    "F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176), "Q6_K": (14, 256, 210),
}  # fmt: skip
_D, _FFN, _N_BLOCKS, _TEXT, _IMAGE = 5120, 13824, 40, 4096, 1280


def wan_i2v_14b() -> dict[str, tuple[int, ...]]:
    """Wan2.1-I2V-14B: 1,303 tensors (Wan-Video/Wan2.1, wan/modules/model.py)."""
    shapes: dict[str, tuple[int, ...]] = {"patch_embedding.weight": (_D, 36, 1, 2, 2), "patch_embedding.bias": (_D,)}

    def linear(name: str, rows: int, columns: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (rows, columns), (rows,)

    linear("text_embedding.0", _D, _TEXT)
    linear("text_embedding.2", _D, _D)
    linear("time_embedding.0", _D, 256)
    linear("time_embedding.2", _D, _D)
    linear("time_projection.1", 6 * _D, _D)
    for index in range(_N_BLOCKS):
        block = f"blocks.{index}"
        shapes[f"{block}.modulation"] = (1, 6, _D)
        shapes[f"{block}.norm3.weight"] = shapes[f"{block}.norm3.bias"] = (_D,)
        for name in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q", "cross_attn.k"):
            linear(f"{block}.{name}", _D, _D)
        for name in ("cross_attn.v", "cross_attn.o", "cross_attn.k_img", "cross_attn.v_img"):
            linear(f"{block}.{name}", _D, _D)
        for name in ("self_attn.norm_q", "self_attn.norm_k", "cross_attn.norm_q", "cross_attn.norm_k"):
            shapes[f"{block}.{name}.weight"] = (_D,)
        shapes[f"{block}.cross_attn.norm_k_img.weight"] = (_D,)
        linear(f"{block}.ffn.0", _FFN, _D)
        linear(f"{block}.ffn.2", _D, _FFN)
    linear("head.head", 64, _D)
    shapes["head.modulation"] = (1, 2, _D)
    for name, width in (("0", _IMAGE), ("4", _D)):
        shapes[f"img_emb.proj.{name}.weight"] = shapes[f"img_emb.proj.{name}.bias"] = (width,)
    linear("img_emb.proj.1", _IMAGE, _IMAGE)
    linear("img_emb.proj.3", _D, _IMAGE)
    return shapes


def infinitetalk_patch() -> dict[str, tuple[int, ...]]:
    """InfiniteTalk's own layers: 330 tensors (MeiGen-AI/InfiniteTalk, wan/modules/multitalk_model.py)."""
    shapes: dict[str, tuple[int, ...]] = {"audio_proj.norm.weight": (768,), "audio_proj.norm.bias": (768,)}
    # 5 or 8 windows of sound, 12 layers of wav2vec2, 768 numbers each; 32 tokens of 768.
    sizes = {"proj1": (512, 46080), "proj1_vf": (512, 73728), "proj2": (512, 512), "proj3": (24576, 512)}
    for name, shape in sizes.items():
        shapes[f"audio_proj.{name}.weight"], shapes[f"audio_proj.{name}.bias"] = shape, shape[:1]
    for index in range(_N_BLOCKS):
        block = f"blocks.{index}"
        for name, shape in {"q_linear": (_D, _D), "kv_linear": (2 * _D, 768), "proj": (_D, _D)}.items():
            shapes[f"{block}.audio_cross_attn.{name}.weight"] = shape
            shapes[f"{block}.audio_cross_attn.{name}.bias"] = shape[:1]
        shapes[f"{block}.norm_x.weight"] = shapes[f"{block}.norm_x.bias"] = (_D,)
    return shapes


def umt5_xxl(*, names: str) -> dict[str, tuple[int, ...]]:
    """UMT5-XXL's encoder: 242 tensors. names: "wan", "transformers" or "gguf" (llama.cpp's arch t5encoder)."""
    outside = {
        "wan": ("token_embedding.weight", "norm.weight"),
        "transformers": ("shared.weight", "encoder.final_layer_norm.weight"),
        "gguf": ("token_embd.weight", "enc.output_norm.weight"),
    }[names]
    attention, feed = "layer.0.SelfAttention", "layer.1.DenseReluDense"
    inside = {
        "wan": ("blocks.{}.", "norm1", "attn.q", "attn.k", "attn.v", "attn.o", "pos_embedding.embedding", "norm2",
                "ffn.gate.0", "ffn.fc1", "ffn.fc2"),
        "transformers": ("encoder.block.{}.", "layer.0.layer_norm", f"{attention}.q", f"{attention}.k",
                         f"{attention}.v", f"{attention}.o", f"{attention}.relative_attention_bias",
                         "layer.1.layer_norm", f"{feed}.wi_0", f"{feed}.wi_1", f"{feed}.wo"),
        "gguf": ("enc.blk.{}.", "attn_norm", "attn_q", "attn_k", "attn_v", "attn_o", "attn_rel_b", "ffn_norm",
                 "ffn_gate", "ffn_up", "ffn_down"),
    }[names]  # fmt: skip
    square, wide = (_TEXT, _TEXT), (10240, _TEXT)
    sizes = ((_TEXT,), square, square, square, square, (32, 64), (_TEXT,), wide, wide, wide[::-1])
    shapes: dict[str, tuple[int, ...]] = {outside[0]: (256384, _TEXT), outside[1]: (_TEXT,)}
    for index in range(24):
        prefix = inside[0].format(index)
        shapes |= {f"{prefix}{name}.weight": shape for name, shape in zip(inside[1:], sizes, strict=True)}
    return shapes


def clip_vit_h() -> dict[str, tuple[int, ...]]:
    """The vision tower of CLIP ViT-H/14 under transformers' names, with its projection."""
    width, inner, tower = _IMAGE, 5120, "vision_model"
    shapes: dict[str, tuple[int, ...]] = {
        f"{tower}.embeddings.class_embedding": (width,),
        f"{tower}.embeddings.patch_embedding.weight": (width, 3, 14, 14),
        f"{tower}.embeddings.position_embedding.weight": (257, width),
        "visual_projection.weight": (1024, width),
    }
    norms = [f"{tower}.pre_layrnorm", f"{tower}.post_layernorm"]
    for index in range(32):
        layer = f"{tower}.encoder.layers.{index}"
        norms += [f"{layer}.layer_norm1", f"{layer}.layer_norm2"]
        linears = {f"self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}
        linears |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
        for name, shape in linears.items():
            shapes[f"{layer}.{name}.weight"], shapes[f"{layer}.{name}.bias"] = shape, shape[:1]
    return shapes | {f"{name}.{part}": (width,) for name in norms for part in ("weight", "bias")}


def wan_vae() -> dict[str, tuple[int, ...]]:
    """Wan2.1's VAE (Wan-Video/Wan2.1, wan/modules/vae.py): widths 96, 192, 384, 384, and 16 latent channels."""
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, out: int, inside: int, *kernel: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, inside, *kernel), (out,)

    def residual(name: str, inside: int, out: int) -> None:
        shapes[f"{name}.residual.0.gamma"] = (inside, 1, 1, 1)
        convolution(f"{name}.residual.2", out, inside, 3, 3, 3)
        shapes[f"{name}.residual.3.gamma"] = (out, 1, 1, 1)
        convolution(f"{name}.residual.6", out, out, 3, 3, 3)
        if inside != out:
            convolution(f"{name}.shortcut", out, inside, 1, 1, 1)

    def middle(name: str) -> None:
        residual(f"{name}.0", 384, 384)
        shapes[f"{name}.1.norm.gamma"] = (384, 1, 1)
        convolution(f"{name}.1.to_qkv", 3 * 384, 384, 1, 1)
        convolution(f"{name}.1.proj", 384, 384, 1, 1)
        residual(f"{name}.2", 384, 384)

    convolution("encoder.conv1", 96, 3, 3, 3, 3)
    widths, place, last = (96, 192, 384, 384), 0, 96
    for level, width in enumerate(widths):
        for _ in range(2):
            residual(f"encoder.downsamples.{place}", last, width)
            last, place = width, place + 1
        if level < 3:
            convolution(f"encoder.downsamples.{place}.resample.1", width, width, 3, 3)
            if level:
                convolution(f"encoder.downsamples.{place}.time_conv", width, width, 3, 1, 1)
            place += 1
    middle("encoder.middle")
    shapes["encoder.head.0.gamma"] = (384, 1, 1, 1)
    convolution("encoder.head.2", 32, 384, 3, 3, 3)
    convolution("conv1", 32, 32, 1, 1, 1)
    convolution("conv2", 16, 16, 1, 1, 1)
    convolution("decoder.conv1", 384, 16, 3, 3, 3)
    middle("decoder.middle")
    place, last = 0, 384
    for level, width in enumerate(reversed(widths)):
        for _ in range(3):
            residual(f"decoder.upsamples.{place}", last, width)
            last, place = width, place + 1
        if level < 3:
            convolution(f"decoder.upsamples.{place}.resample.1", width // 2, width, 3, 3)
            if level < 2:
                convolution(f"decoder.upsamples.{place}.time_conv", 2 * width, width, 3, 1, 1)
            last, place = width // 2, place + 1
    shapes["decoder.head.0.gamma"] = (96, 1, 1, 1)
    convolution("decoder.head.2", 3, 96, 3, 3, 3)
    return shapes


def wav2vec2_base() -> dict[str, tuple[int, ...]]:
    """chinese-wav2vec2-base as transformers' Wav2Vec2Model holds it: 211 tensors, with torch's old weight norm."""
    width, inner = 768, 3072
    shapes: dict[str, tuple[int, ...]] = {"masked_spec_embed": (width,)}
    for index, kernel in enumerate((10, 3, 3, 3, 3, 2, 2)):
        shapes[f"feature_extractor.conv_layers.{index}.conv.weight"] = (512, 512 if index else 1, kernel)
    norms = {"feature_extractor.conv_layers.0.layer_norm": 512, "feature_projection.layer_norm": 512}
    norms["encoder.layer_norm"] = width
    linears = {"feature_projection.projection": (width, 512)}
    for index in range(12):
        layer = f"encoder.layers.{index}"
        norms |= {f"{layer}.layer_norm": width, f"{layer}.final_layer_norm": width}
        linears |= {f"{layer}.attention.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}
        linears |= {f"{layer}.feed_forward.intermediate_dense": (inner, width)}
        linears |= {f"{layer}.feed_forward.output_dense": (width, inner)}
    for name, size in norms.items():
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (size,)
    for name, shape in linears.items():
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]
    position = "encoder.pos_conv_embed.conv"
    return shapes | {
        f"{position}.weight_g": (1, 1, 128), f"{position}.weight_v": (width, 48, 128), f"{position}.bias": (width,)
    }  # fmt: skip


@dataclass(frozen=True)
class PublicFile:
    """One file. published_bytes: its size as the hub shows it, None where only a rounded size is known."""

    name: str
    tensors: Mapping[str, _Tensor]
    published_bytes: int | None = None

    @property
    def n_bytes(self) -> int:
        return sum(math.prod(shape) * _BYTES[kind] for kind, shape in self.tensors.values())

    @property
    def header(self) -> bytes:
        """The safetensors header as its library writes it: wide types first, then by name."""
        begin, described = 0, {}
        for name, (kind, shape) in self._in_order():
            end = begin + math.prod(shape) * _BYTES[kind]
            described[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}
            begin = end
        text = json.dumps(described, separators=(",", ":")).encode()
        return text + b" " * (-len(text) % 8)

    @property
    def size_bytes(self) -> int:
        return 8 + len(self.header) + self.n_bytes

    def write(self, folder: Path) -> Path:
        """A file with this header whose tensors are a hole in the disk, so that the file needs kilobytes only."""
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        head, size = self._gguf_header() if path.suffix == ".gguf" else (b"", 0)
        with path.open("wb") as file:
            file.write(head or struct.pack("<Q", len(self.header)) + self.header)
            file.truncate(size or self.size_bytes)
        return path

    def _in_order(self) -> list[tuple[str, tuple[str, tuple[int, ...]]]]:
        return sorted(self.tensors.items(), key=lambda entry: (-_BYTES[entry[1][0]], entry[0]))

    def _gguf_header(self) -> tuple[bytes, int]:
        """The header as ComfyUI-GGUF's converter writes it, and the size of the whole file in bytes."""

        def text(value: str) -> bytes:
            return struct.pack("<Q", len(value)) + value.encode()

        values, listed, begin = [text("general.architecture") + struct.pack("<I", 8) + text("wan")], [], 0
        for name, (kind, shape) in self.tensors.items():
            if len(shape) > 4:
                sizes = struct.pack(f"<{len(shape)}i", *shape)
                noted = text(f"comfy.gguf.orig_shape.{name}") + struct.pack("<IIQ", 9, 5, len(shape)) + sizes
                values.append(noted)
                shape = (shape[0], math.prod(shape[1:]))
            number, in_block, block_bytes = _GGUF[kind]
            turned = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
            listed.append(text(name) + turned + struct.pack("<IQ", number, begin))
            begin += -(-math.prod(shape) // in_block * block_bytes // -32) * -32
        head = struct.pack("<4sIQQ", b"GGUF", 3, len(listed), len(values)) + b"".join(values) + b"".join(listed)
        head += bytes(-len(head) % 32)
        return head, len(head) + begin


def _typed(shapes: Mapping[str, tuple[int, ...]], kind: Callable[[str, tuple[int, ...]], str]) -> dict[str, _Tensor]:
    return {name: (kind(name, shape), shape) for name, shape in shapes.items()}


def _is_linear(name: str, shape: tuple[int, ...], *plain: str) -> bool:
    return len(shape) == 2 and name.endswith(".weight") and not any(part in name for part in plain)


def _scaled_fp8(
    shapes: Mapping[str, tuple[int, ...]], rest: str, *plain: str, scale: tuple[int, ...] = (1,), marker: int = 2
) -> dict[str, _Tensor]:
    """Linear layers in fp8 with one scale each; `rest` is the type of the other tensors."""
    tensors = _typed(shapes, lambda name, shape: "F8_E4M3" if _is_linear(name, shape, *plain) else rest)
    layers = [name for name, (kind, _) in tensors.items() if kind == "F8_E4M3"]
    scales = {f"{name.removesuffix('.weight')}.scale_weight": ("F32", scale) for name in layers}
    return tensors | scales | {"scaled_fp8": ("F8_E4M3", (marker,))}


def _lightx2v(shapes: Mapping[str, tuple[int, ...]], kind: str) -> dict[str, _Tensor]:
    """LightX2V's converter (tools/convert): the matrices of the blocks in 8 bits, with a scale for each row."""
    inside = [name for name, shape in shapes.items() if name.startswith("blocks.") and _is_linear(name, shape)]
    scales = {f"{name}_scale": ("F32", (shapes[name][0], 1)) for name in inside}
    return _typed(shapes, lambda name, _: kind if name in inside else "BF16") | scales


def _quanto(shapes: Mapping[str, tuple[int, ...]], *plain: str) -> dict[str, _Tensor]:
    """WanGP's files: optimum-quanto's int8 with a scale for each row in bf16, and without the official files' map."""
    tensors: dict[str, _Tensor] = {}
    for name, shape in shapes.items():
        if not _is_linear(name, shape, *plain):
            tensors[name] = "BF16", shape
            continue
        layer = name.removesuffix(".weight")
        tensors |= {f"{name}._data": ("I8", shape), f"{name}._scale": ("BF16", (shape[0], 1))}
        tensors |= {f"{layer}.input_scale": ("BF16", ()), f"{layer}.output_scale": ("BF16", ())}
    return tensors


def lightx2v_lora(rank: int) -> dict[str, _Tensor]:
    """The Wan wrapper's copy of lightx2v's step-distilled LoRA, in bf16.

    Two factors for each matrix, differences of all other weights and biases, but none of the modulations and of the
    first convolution's weight. LightX2V's extractor (tools/extract/lora_extractor.py), and a public log of ComfyUI that
    lists keys of this file which a text-to-video model has no layers for, name the parts. These tensors give the
    published size of the file of rank 64 to the byte, and no other choice of parts does.
    """
    tensors: dict[str, _Tensor] = {}
    for name, shape in wan_i2v_14b().items():
        layer, _, part = f"diffusion_model.{name}".rpartition(".")
        if part == "bias":
            tensors[f"{layer}.diff_b"] = "BF16", shape
        elif part == "weight" and len(shape) == 2:
            tensors[f"{layer}.lora_down.weight"] = "BF16", (rank, shape[1])
            tensors[f"{layer}.lora_up.weight"] = "BF16", (shape[0], rank)
        elif part == "weight" and len(shape) == 1:
            tensors[f"{layer}.diff"] = "BF16", shape
    return tensors


def _gguf(shapes: Mapping[str, tuple[int, ...]], kind: str) -> dict[str, _Tensor]:
    """Matrices in blocks, small tensors in float32, others in float16, as ComfyUI-GGUF's converter chooses."""

    def of(name: str, shape: tuple[int, ...]) -> str:
        if _is_linear(name, shape, "attn_rel_b"):
            return kind
        return "F32" if len(shape) < 3 else "F16"

    return _typed(shapes, of)


def _bases() -> Iterator[PublicFile]:
    shapes, comfy, kijai = wan_i2v_14b(), "diffusion_models", "diffusion_models/I2V"
    yield PublicFile(f"{comfy}/wan2.1_i2v_480p_14B_fp8_scaled.safetensors", _scaled_fp8(shapes, "F16"), 16_401_356_938)
    yield PublicFile(f"{comfy}/wan2.1_i2v_480p_14B_fp16.safetensors", _typed(shapes, lambda *_: "F16"))
    outside = ("img_emb", "text_embedding", "time_", "head.")
    yield PublicFile(
        f"{kijai}/Wan2_1-I2V-14B-480p_fp8_e4m3fn_scaled_KJ.safetensors", _scaled_fp8(shapes, "F32", *outside)
    )
    plain = _typed(shapes, lambda name, shape: "F8_E4M3" if _is_linear(name, shape, *outside) else "F16")
    yield PublicFile(f"{kijai}/Wan2_1-I2V-14B-480P_fp8_e4m3fn.safetensors", plain)
    prefixed = {f"model.diffusion_model.{name}": ("BF16", shape) for name, shape in shapes.items()}
    yield PublicFile(f"{comfy}/with_comfyuis_prefix.safetensors", prefixed)
    for name, eight_bit in (("int8", "I8"), ("scaled_fp8_e4m3", "F8_E4M3")):
        yield PublicFile(f"{comfy}/wan2.1_i2v_480p_{name}_lightx2v_4step.safetensors", _lightx2v(shapes, eight_bit))
    yield PublicFile("ckpts/wan2.1_image2video_480p_14B_quanto_mbf16_int8.safetensors", _quanto(shapes))
    for kind in ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_0"):
        yield PublicFile(f"unet/wan2.1-i2v-14b-480p-{kind}.gguf", _gguf(shapes, kind))


def _patches() -> Iterator[PublicFile]:
    shapes = infinitetalk_patch()

    def fp16(name: str, shape: tuple[int, ...]) -> str:
        return "F16" if _is_linear(name, shape, "audio_proj") else "F32"

    yield PublicFile("model_patches/wan2.1_infiniteTalk_single_fp16.safetensors", _typed(shapes, fp16), 5_125_258_232)
    multi = _typed(shapes, lambda name, shape: "F16" if "norm_x" in name else fp16(name, shape))
    yield PublicFile("model_patches/wan2.1_infiniteTalk_multi_fp16.safetensors", multi, 5_124_439_112)
    yield PublicFile(
        "diffusion_models/InfiniteTalk/Wan2_1-InfiniteTalk-Single_fp8_e4m3fn_scaled_KJ.safetensors",
        _scaled_fp8(shapes, "F32", "audio_proj"),
    )
    for who, kind in (("Single", "Q8_0"), ("Single", "Q6_K"), ("Single", "Q4_K"), ("Multi", "Q8_0")):
        yield PublicFile(f"unet/Wan2_1-InfiniteTalk_{who}_{kind[:2]}.gguf", _gguf(shapes, kind))
    yield PublicFile("ckpts/wan2.1_infinitetalk_single_14B_quanto_mbf16_int8.safetensors", _quanto(shapes))
    yield PublicFile("official/single/infinitetalk.safetensors", _typed(shapes, lambda *_: "F32"))


def _texts() -> Iterator[PublicFile]:
    theirs, plain = umt5_xxl(names="transformers"), ("shared", "relative_attention_bias")
    comfy = _scaled_fp8(theirs, "F16", *plain, scale=(), marker=0) | {"spiece_model": ("U8", (4_548_313,))}
    yield PublicFile("text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors", comfy, 6_735_906_897)
    yield PublicFile("text_encoders/umt5-xxl-enc-bf16.safetensors", _typed(umt5_xxl(names="wan"), lambda *_: "BF16"))
    linear = _typed(umt5_xxl(names="wan"), lambda n, s: "F8_E4M3" if _is_linear(n, s, "embedding") else "BF16")
    yield PublicFile("text_encoders/umt5-xxl-enc-fp8_e4m3fn.safetensors", linear)
    yield PublicFile(
        "ckpts/umt5-xxl/models_t5_umt5-xxl-enc-quanto_int8.safetensors",
        _quanto(umt5_xxl(names="wan"), "embedding"),
    )
    yield PublicFile("clip/umt5-xxl-encoder-Q8_0.gguf", _gguf(umt5_xxl(names="gguf"), "Q8_0"))


def _training_of_wav2vec2() -> dict[str, tuple[int, ...]]:
    """Tensors that only the training of wav2vec2 needs; published files have them."""
    linears = {"quantizer.weight_proj": (640, 512), "project_hid": (256, 768), "project_q": (256, 256)}
    shapes: dict[str, tuple[int, ...]] = {"quantizer.codevectors": (1, 640, 128)}
    for name, shape in linears.items():
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]
    return shapes


BASES, PATCHES, TEXTS = tuple(_bases()), tuple(_patches()), tuple(_texts())
CLIP = PublicFile("clip_vision/clip_vision_h.safetensors", _typed(clip_vit_h(), lambda *_: "F16"), 1_264_219_396)
VAE = PublicFile("vae/wan_2.1_vae.safetensors", _typed(wan_vae(), lambda *_: "BF16"), 253_815_318)
SOUND = PublicFile(
    "wav2vec2/wav2vec2-chinese-base_fp16.safetensors",
    _typed({f"wav2vec2.{n}": s for n, s in wav2vec2_base().items()} | _training_of_wav2vec2(), lambda *_: "F16"),
    190_115_368,
)
LORA = PublicFile(
    "loras/lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors", lightx2v_lora(64), 738_005_744
)
FILES = (*BASES, *PATCHES, *TEXTS, CLIP, VAE, SOUND, LORA)
