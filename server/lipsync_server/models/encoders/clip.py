"""CLIP's picture encoder: a picture becomes the image tokens that the video model attends to.

CLIP (https://arxiv.org/abs/2103.00020) was trained to match pictures with captions, so its tokens describe the content
of a picture: (257, 1280) for one picture. The module runs transformers' vision tower of ViT-H/14 with the official
file's names. The reference uses the tokens before the last block, so only 31 of the 32 blocks are built. Files with the
vision tower alone are read too, under Wan's names and under transformers' (ComfyUI's clip_vision_h.safetensors). Knows
no window.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel

from lipsync_server.errors import WeightsError
from lipsync_server.models.tensor_files import into_modules
from lipsync_server.models.tensor_files.named import open_tensors

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
# ViT-H/14 as published: 1280 wide, heads of 80, 224 pixels.
VIT_H = CLIPVisionConfig(
    hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, image_size=224,
    patch_size=14, hidden_act="gelu", layer_norm_eps=1e-5,
)  # fmt: skip
_HEAD_WIDTH = 80
_BLOCK = re.compile(r"visual\.transformer\.(\d+)\.")
_IN_BLOCK = {
    "layer_norm1": "norm1", "layer_norm2": "norm2", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2",
    "self_attn.out_proj": "attn.proj", "self_attn.q_proj": "attn.to_qkv.q", "self_attn.k_proj": "attn.to_qkv.k",
    "self_attn.v_proj": "attn.to_qkv.v",
}  # fmt: skip
_OUTSIDE = {
    "embeddings.class_embedding": "visual.cls_embedding",
    "embeddings.position_embedding.weight": "visual.pos_embedding",
    "embeddings.patch_embedding.weight": "visual.patch_embedding.weight",
    "pre_layrnorm.weight": "visual.pre_norm.weight",
    "pre_layrnorm.bias": "visual.pre_norm.bias",
}


def official_name(name: str) -> str:
    """Name in CLIPVisionModel -> name in the published file, whose joined q, k, v are split by `split_qkv`."""
    name = name.removeprefix("vision_model.")
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    _, _, index, *inside, kind = name.split(".")
    return f"visual.transformer.{index}.{_IN_BLOCK['.'.join(inside)]}.{kind}"


_NOT_IN_A_TOWER = ("visual_projection.", "vision_model.embeddings.position_ids", "text_model.", "logit_")
# Names of the tower's tensors in files with the tower alone: the published file's names without their prefix.
_BARE = re.compile(
    r"^(?:(?P<block>\d+\.(?:norm[12]|attn|mlp)\.)|(?:cls_embedding|pos_embedding|patch_embedding|pre_norm|post_norm|head)\b)"
)


def published_name(name: str) -> str | None:
    """Name in a file of any program -> name in the published file; None for a tensor that is not the vision tower's."""
    if name.startswith(_NOT_IN_A_TOWER):
        return None
    if name.startswith("vision_model."):
        inside = name.removeprefix("vision_model.")
        if inside.startswith("post_layernorm."):
            return inside.replace("post_layernorm.", "visual.post_norm.")
        try:
            return official_name(inside)
        except (KeyError, ValueError):
            return name
    bare = _BARE.match(name)
    if bare is None:
        return name
    return f"visual.transformer.{name}" if bare["block"] else f"visual.{name}"


def split_qkv(tensors: Mapping[str, Tensor], source: str = "the CLIP file") -> dict[str, Tensor]:
    """The file's tensors with `attn.to_qkv.weight` as `attn.to_qkv.q.weight`, k and v."""
    split: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith("visual.") and name.endswith((".attn.to_qkv.weight", ".attn.to_qkv.bias")):
            if tensor.shape[0] % 3:
                raise WeightsError(
                    f"{source}: the tensor {name} has the shape {tuple(tensor.shape)}, whose rows are no three equal "
                    "parts. This is not the published file."
                )
            before, kind = name.rsplit(".", 1)
            split.update({f"{before}.{part}.{kind}": t for part, t in zip("qkv", tensor.chunk(3), strict=True)})
        else:
            split[name] = tensor
    return split


def build(config: CLIPVisionConfig) -> CLIPVisionModel:
    """The tower without its last block and without its last norm, on the meta device."""
    fewer = CLIPVisionConfig(**{**config.to_dict(), "num_hidden_layers": config.num_hidden_layers - 1})
    with torch.device("meta"):
        model = CLIPVisionModel(fewer)
    tower = getattr(model, "vision_model", model)
    tower.post_layernorm = nn.Identity()
    # Not part of any file, so it must not stay on the meta device.
    tower.embeddings.position_ids = torch.arange((config.image_size // config.patch_size) ** 2 + 1)[None]
    return model


def unused(config: CLIPVisionConfig, name: str) -> bool:
    """Whether a published tensor is never needed: the text tower's, and the layers after the tokens."""
    last = f"visual.transformer.{config.num_hidden_layers - 1}."
    outside = ("log_scale", "visual.head", "visual.post_norm.weight", "visual.post_norm.bias")
    in_block = {f"{inside}.{kind}" for inside in _IN_BLOCK.values() for kind in ("weight", "bias")}
    return name in outside or name.startswith("textual.") or (name.startswith(last) and name[len(last) :] in in_block)


def config_of(tensors: Mapping[str, Tensor]) -> CLIPVisionConfig:
    """The tower's sizes, read from the shapes of the tensors. A size that no shape shows is the published one."""
    blocks = [int(match[1]) for name in tensors if (match := _BLOCK.match(name))]
    n_blocks = max(blocks, default=VIT_H.num_hidden_layers - 1) + 1

    def size(axis: int, default: int, *names: str) -> int:
        every = [name.format(block) for name in names for block in range(n_blocks)]
        return into_modules.usual_size(tensors, every, axis, default)

    width = size(0, VIT_H.hidden_size, "visual.transformer.{}.norm1.weight", "visual.transformer.{}.norm1.bias")
    patch = size(-1, VIT_H.patch_size, "visual.patch_embedding.weight")
    n_tokens = size(-2, (VIT_H.image_size // VIT_H.patch_size) ** 2 + 1, "visual.pos_embedding")
    hidden = size(0, VIT_H.intermediate_size, "visual.transformer.{}.mlp.0.weight", "visual.transformer.{}.mlp.0.bias")
    return CLIPVisionConfig(
        hidden_size=width, intermediate_size=hidden, num_hidden_layers=n_blocks, patch_size=patch,
        num_attention_heads=max(1, width // _HEAD_WIDTH), image_size=int((n_tokens - 1) ** 0.5) * patch,
        hidden_act="gelu", layer_norm_eps=1e-5,
    )  # fmt: skip


def preprocess(picture: Tensor, size: int) -> Tensor:
    """Resize (3, H, W) in [-1, 1] to CLIP's normalised (1, 3, size, size): bicubic, as the reference.

    The aspect is lost.
    """
    resized = F.interpolate(picture[None].float(), size=(size, size), mode="bicubic", align_corners=False)
    mean = torch.tensor(_MEAN, device=picture.device).view(1, 3, 1, 1)
    std = torch.tensor(_STD, device=picture.device).view(1, 3, 1, 1)
    return (resized * 0.5 + 0.5 - mean) / std


class ImageEncoder:
    """The vision tower on one device, in one number format."""

    def __init__(
        self, model: CLIPVisionModel, config: CLIPVisionConfig, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.model, self.device, self.dtype = model.to(device), device, dtype
        self.width: int = config.hidden_size
        self._size: int = config.image_size

    @classmethod
    def load(
        cls, path: Path, *, device: torch.device, dtype: torch.dtype, n_heads: int | None = None
    ) -> "ImageEncoder":
        """Read the vision tower from the file. n_heads: for a tower whose heads are not 80 wide."""
        tensors = open_tensors(path, published_name)
        if any(name.endswith(".attn.to_qkv.weight") for name in tensors):
            tensors = split_qkv(tensors, path.name)
        config = config_of(into_modules.shapes_of(tensors))
        if n_heads is not None:
            config.num_attention_heads = n_heads
        model = build(config)
        into_modules.fill(
            model, tensors, official_name, source=path.name, device=device, dtype=dtype,
            unused=lambda name: unused(config, name),
        )  # fmt: skip
        return cls(model, config, device, dtype)

    def to(self, device: torch.device) -> None:
        """Move the tower to `device`. encode() runs there."""
        if device != self.device:
            self.model.to(device)
            self.device = device

    def encode(self, picture: Tensor) -> Tensor:
        """Tokens (257, 1280) of a picture (3, H, W) in [-1, 1], in the tower's dtype."""
        pixels = preprocess(picture.to(self.device), self._size).to(self.dtype)
        tokens: Tensor = self.model(pixel_values=pixels).last_hidden_state[0]
        return tokens
