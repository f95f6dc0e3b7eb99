"""Recognises a model file by the names and shapes in its header: a part of InfiniteTalk, or something else.

People rename files, and thousands of other models are in the same folders. So a file's header decides its kind. Its
name decides only two questions that no header answers: the number of people of InfiniteTalk's layers, and which of
several models with the same shapes it is. No torch here. Does not know the folders (weights/places.py).
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from lipsync_server.errors import WeightsError
from lipsync_server.models.tensor_files.entries import Entry
from lipsync_server.models.tensor_files.headers import known_entries, plain_name

Kind = Literal["base", "patch", "whole", "text", "clip", "vae", "sound", "lora", "other", "damaged"]
People = Literal["single", "multi"]
BASE_SIGN = "blocks.0.self_attn.q.weight"
"""A tensor that every base file has; its first size is the model's width."""
_AUDIO_SIGN = "audio_proj.proj1.weight"
_LORA_SIGN = re.compile(
    r"[._](?:lora_(?:A|B|up|down|mid|linear_layer)|lokr_w\d|hada_w\d|oft_(?:blocks|diag|r|R)|boft_R|diff(?:_b|_m)?"
    r"|lora\.(?:up|down)|vera_lambda_[bd]|on_input|set_weight)\b|^(?:lora_unet|lycoris)_|\.(?:a|b)1\.weight$"
)
# The half of a LoRA whose second size is the model's width: of self-attention's q, as each program spells it.
_LORA_INPUT = re.compile(r"(?:self_attn[._]q|attn1[._]to_q)[._]lora[._](?:A|down)\b")
# Models with the same names and shapes as the file that is wanted, known by their file names alone.
_OTHER_BASES = re.compile(r"720p|flf2v|[-_. ]fun[-_. ]|vace|skyreels|phantom|wan2[._]?2", re.IGNORECASE)
_OTHER_PATCHES = re.compile(r"multitalk|longcat", re.IGNORECASE)
_OTHER_VAES = re.compile(r"qwen", re.IGNORECASE)
_STEP_DISTILLED = re.compile(
    r"lightx2v|lightning|step[-_ ]?distill|cfg[-_ ]?distill|distill|causvid|fusionx|fastwan|accvid|self[-_ ]?forcing|"
    r"dmd|turbo|\b[48][-_ ]?steps?\b|[-_][48]steps?[-_.]",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ModelFile:
    """One file. numbers: how it holds a large weight ("bf16", "fp8", "Q4_K"). remark: why it is not used, or "".

    width: of the transformer that a base file holds, or that a LoRA was made for; 0 where it is not known.
    """

    path: Path
    kind: Kind
    numbers: str
    n_bytes: int
    people: People | None = None
    remark: str = ""
    width: int = 0

    @property
    def is_usable(self) -> bool:
        """Whether InfiniteTalk can take this file."""
        return not self.remark and self.kind not in ("other", "damaged")


def recognise(path: Path) -> ModelFile:
    """The kind of the file; a damaged one is returned as such, with the reason."""
    found = path.stat()
    return _recognised(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=4096)
def _recognised(path: Path, size: int, mtime_ns: int) -> ModelFile:
    try:
        entries = known_entries(path)
        named = {plain_name(entry.key): entry for entry in entries}
    except (WeightsError, OSError) as error:
        return ModelFile(path, "damaged", "", size, remark=str(error))
    has_map = any(entry.key.endswith("._data") for entry in entries) and path.with_suffix(".json").is_file()
    kind: Kind
    kind, remark = ("other", _WITH_MAP) if has_map else _kind(path, named)
    people: People | None = people_of(path) if kind in ("patch", "whole") else None
    return ModelFile(path, kind, _numbers(named), size, people, remark, _width(kind, named))


def people_of(path: Path) -> People:
    """The number of people that InfiniteTalk's layers in this file drive, from the name of the file or of its folder.

    "single" if neither name has the number.
    """
    for name in (path.name, path.parent.name):
        if match := re.search(r"(single|multi)", re.sub("multitalk", "", name.lower())):
            return "multi" if match[1] == "multi" else "single"
    return "single"


def is_step_distilled(name: str) -> bool:
    """Whether a LoRA file's name says that it lets the model take few steps."""
    return _STEP_DISTILLED.search(name) is not None


_WITH_MAP = "an official 8-bit file: it is found in its published folder, by its .json map"


def _kind(path: Path, named: Mapping[str, Entry]) -> tuple[Kind, str]:
    """The kind of a file and the remark why it is not used, or "". named: its header by plain tensor names."""
    if any(_LORA_SIGN.search(name) for name in named):
        return "lora", ""
    if BASE_SIGN in named or _AUDIO_SIGN in named:
        return _transformer(path, named)
    encoders: tuple[tuple[Kind, str | None], ...] = (
        ("text", _text(named)), ("clip", _clip(named)), ("vae", _vae(path, named)), ("sound", _sound(path, named)),
    )  # fmt: skip
    for kind, remark in encoders:
        if remark is not None:
            return kind, remark
    return "other", "no part of InfiniteTalk"


def _transformer(path: Path, named: Mapping[str, Entry]) -> tuple[Kind, str]:
    """`_kind` of a file with a transformer's layers.

    The input channels tell Wan's models apart: 16 latent channels for text to video; 36 for image to video, which adds
    4 mask channels and the picture's 16.
    """
    has_audio = _AUDIO_SIGN in named
    if BASE_SIGN not in named:
        other = _OTHER_PATCHES.search(path.name)
        return "patch", f"by its name {other[0]}'s audio layers, not InfiniteTalk's" if other else ""
    kind: Kind = "whole" if has_audio else "base"
    patch = named.get("patch_embedding.weight")
    if patch is None or "head.head.weight" not in named:
        return kind, "a part of a model in several files, which is read in its published folder only"
    in_dim = patch.shape[1] if len(patch.shape) > 1 else 0
    if any(name.startswith(("vace_", "control_", "face_adapter", "pose_")) for name in named):
        return kind, "a Wan model with layers for control, not the image-to-video base"
    if in_dim == 16:
        return kind, "a text-to-video model; InfiniteTalk needs Wan2.1's image-to-video base"
    if in_dim != 36 or "blocks.0.cross_attn.k_img.weight" not in named or "img_emb.emb_pos" in named:
        return kind, "another Wan model; InfiniteTalk needs Wan2.1-I2V-14B-480P"
    dim = named[BASE_SIGN].shape[0]
    if dim >= 1024 and dim != 5120:
        return kind, f"a Wan model of width {dim}; InfiniteTalk needs the 14B model, whose width is 5120"
    if other := _OTHER_BASES.search(path.name):
        return kind, f"by its name ({other[0]}) another model of this shape; InfiniteTalk was made for the 480p base"
    return kind, ""


def _text(named: Mapping[str, Entry]) -> str | None:
    """The remark about a T5 text encoder, "" for UMT5, which Wan needs; None if the file is no text encoder."""
    umt5 = (
        "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight", "enc.blk.1.attn_rel_b.weight",
        "blocks.1.pos_embedding.embedding.weight",
    )  # fmt: skip
    if any(name in named for name in umt5):
        return ""
    if "encoder.block.0.layer.0.SelfAttention.q.weight" in named or "enc.blk.0.attn_q.weight" in named:
        return "a T5 text encoder that is not UMT5, which Wan reads prompts with"
    return None


def _clip(named: Mapping[str, Entry]) -> str | None:
    """The remark about a CLIP vision tower, "" for ViT-H; None if the file is none."""
    for tower in ("vision_model.embeddings.", "visual.", ""):
        entry = named.get(f"{tower}patch_embedding.weight")
        if entry is None or len(entry.shape) != 4:
            continue
        width = entry.shape[0]
        wrong = width % 80 or (width >= 1024 and width != 1280)
        return f"a CLIP tower of width {width}; Wan needs ViT-H, whose width is 1280" if wrong else ""
    return None


def _vae(path: Path, named: Mapping[str, Entry]) -> str | None:
    """The remark about a video VAE, "" for Wan 2.1's; None if the file is none."""
    signs = (("conv2.weight", "decoder.head.0.gamma"), ("post_quant_conv.weight", "decoder.norm_out.gamma"))
    for prefix in ("", "model.", "vae.", "first_stage_model."):
        for latent, sign in signs:
            entry = named.get(prefix + latent)
            if entry is None or prefix + sign not in named:
                continue
            if entry.shape[0] != 16:
                return f"a video VAE with {entry.shape[0]} channels (Wan 2.2's has 48); Wan 2.1's has 16"
            return "by its name Qwen-Image's VAE, which has Wan's shape" if _OTHER_VAES.search(path.name) else ""
    return None


def _sound(path: Path, named: Mapping[str, Entry]) -> str | None:
    """The remark about a wav2vec2 speech encoder, "" for chinese-wav2vec2-base; None if the file is none."""
    plain = {name.removeprefix("wav2vec2.") for name in named}
    if "feature_extractor.conv_layers.0.conv.weight" not in plain:
        return None
    if "feature_extractor.conv_layers.1.layer_norm.weight" in plain:
        return "a large wav2vec2 model; InfiniteTalk needs chinese-wav2vec2-base"
    if "lm_head.weight" in plain or "960h" in path.name:
        return "wav2vec2-base-960h, FlashHead's speech encoder; InfiniteTalk needs chinese-wav2vec2-base"
    return ""


def _width(kind: Kind, named: Mapping[str, Entry]) -> int:
    """The width of the transformer that the file holds or, for a LoRA, changes; 0 if its header does not show one."""
    if kind in ("base", "whole") and BASE_SIGN in named:
        return named[BASE_SIGN].shape[0]
    if kind == "lora":
        for name, entry in named.items():
            if _LORA_INPUT.search(name) and len(entry.shape) > 1:
                return entry.shape[1]
    return 0


def _numbers(named: Mapping[str, Entry]) -> str:
    """The format of most bytes of the file."""
    sizes: Counter[str] = Counter()
    for entry in named.values():
        sizes[entry.dtype] += entry.n_bytes
    most = sizes.most_common(1)[0][0] if sizes else ""
    known = {"F8_E4M3": "fp8", "F8_E5M2": "fp8", "I8": "int8", "F16": "fp16", "BF16": "bf16", "F32": "fp32"}
    return known.get(most, most)
