"""The text encoder: a prompt is cleaned, cut into tokens, and passed through UMT5-XXL one layer at a time.

UMT5 (https://arxiv.org/abs/2304.09151) has 5.7 billion weights (11 GB), and a prompt needs them for a fraction of a
second. So the model is never loaded whole. One layer after the other is copied from the memory-mapped file to the
device, runs on all prompts, and is dropped. That costs one read of the file and about half a gigabyte of GPU memory.
Reads the official .pth, optimum-quanto files (t5_int8, t5_fp8), and files of other programs under any of three sets of
names: Wan's, transformers' (ComfyUI's umt5_xxl_*.safetensors) and llama.cpp's (umt5-xxl-encoder-*.gguf). Knows no
pictures and no audio.
"""

import html
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import ftfy
import torch
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel

from lipsync_server.errors import WeightsError
from lipsync_server.models.encoders.text_cache import EmbeddingCache
from lipsync_server.models.encoders.text_files import TextFiles
from lipsync_server.models.encoders.tokenizer import read_tokenizer
from lipsync_server.models.tensor_files import into_modules
from lipsync_server.models.tensor_files.named import open_tensors, rows_of, tensor_on

MAX_TOKENS = 512
# The reference's fixed negative prompt.
NEGATIVE_PROMPT = (
    "bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, images, static, overall "
    "gray, worst quality, low quality, JPEG compression residue, ugly, incomplete, extra fingers, poorly drawn hands, "
    "poorly drawn faces, deformed, disfigured, misshapen limbs, fused fingers, still picture, messy background, three "
    "legs, many people in the background, walking backwards"
)
DEFAULT_PROMPT = "A person is talking to the camera with natural expressions and small movements of the head."
NAMES_OF_TRANSFORMERS = {
    "layer.0.SelfAttention.q": "attn.q", "layer.0.SelfAttention.k": "attn.k", "layer.0.SelfAttention.v": "attn.v",
    "layer.0.SelfAttention.o": "attn.o", "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
    "layer.0.layer_norm": "norm1", "layer.1.layer_norm": "norm2", "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
    "layer.1.DenseReluDense.wi_1": "ffn.fc1", "layer.1.DenseReluDense.wo": "ffn.fc2",
}  # fmt: skip
# Names inside a layer in llama.cpp's conversion of T5 encoders.
NAMES_OF_GGUF = {
    "attn_q": "attn.q", "attn_k": "attn.k", "attn_v": "attn.v", "attn_o": "attn.o", "attn_norm": "norm1",
    "attn_rel_b": "pos_embedding.embedding", "ffn_gate": "ffn.gate.0", "ffn_up": "ffn.fc1", "ffn_down": "ffn.fc2",
    "ffn_norm": "norm2",
}  # fmt: skip
_PREFIX = re.compile(r"^(?:text_model\.|text_encoders?\.|umt5xxl\.|transformer\.)+")
_IN_OTHERS = re.compile(
    r"^(?:encoder\.block\.(?P<block>\d+)\.(?P<inside>.+)|enc\.blk\.(?P<blk>\d+)\.(?P<part>\w+))\.weight$"
)
_OUTSIDE = {
    "shared.weight": "token_embedding.weight", "token_embd.weight": "token_embedding.weight",
    "encoder.final_layer_norm.weight": "norm.weight", "enc.output_norm.weight": "norm.weight",
}  # fmt: skip
# ComfyUI's files hold the tokenizer's model beside the weights, and the embedding twice.
_UNUSED = ("spiece_model", "encoder.embed_tokens.weight", "logit_scale")
_LAYER = re.compile(r"blocks\.(\d+)\.")
_EMBEDDING, _FINAL_NORM = "token_embedding.weight", "norm.weight"


def clean_prompt(text: str) -> str:
    """Repair encoding accidents, unescape HTML twice, and make every run of white space one space."""
    repaired = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return re.sub(r"\s+", " ", repaired).strip()


def official_name(name: str, layer: int) -> str:
    """Name in a one-layer UMT5 block -> name of layer `layer` in the published file."""
    inside, kind = name.rsplit(".", 1)
    return f"blocks.{layer}.{NAMES_OF_TRANSFORMERS[inside]}.{kind}"


def published_name(name: str) -> str | None:
    """Name in a file of any program -> name in the published file; None for a tensor that is no weight."""
    bare = _PREFIX.sub("", name)
    if bare in _UNUSED:
        return None
    if bare in _OUTSIDE:
        return _OUTSIDE[bare]
    match = _IN_OTHERS.match(bare)
    if match is None:
        return bare
    layer, inside = match["block"] or match["blk"], match["inside"]
    official = NAMES_OF_TRANSFORMERS.get(inside) if inside else NAMES_OF_GGUF.get(match["part"])
    return name if official is None else f"blocks.{layer}.{official}.weight"


def config_of(tensors: Mapping[str, Tensor]) -> UMT5Config:
    """The encoder's sizes, read from the shapes of the tensors. A size that no shape shows is the published one."""
    layers = [int(match[1]) for name in tensors if (match := _LAYER.match(name))]
    n_layers = max(layers, default=23) + 1

    def size(axis: int, default: int, *names: str) -> int:
        every = [name.format(layer) for name in names for layer in range(n_layers)]
        return into_modules.usual_size(tensors, every, axis, default)

    heads = max(1, size(1, 64, "blocks.{}.pos_embedding.embedding.weight"))
    return UMT5Config(
        vocab_size=size(0, 256384, _EMBEDDING),
        d_model=size(0, 4096, "blocks.{}.norm1.weight", "blocks.{}.norm2.weight"),
        d_kv=size(0, 4096, "blocks.{}.attn.q.weight", "blocks.{}.attn.k.weight") // heads,
        d_ff=size(0, 10240, "blocks.{}.ffn.fc1.weight", "blocks.{}.ffn.gate.0.weight"),
        num_heads=heads,
        num_layers=n_layers,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128, feed_forward_proj="gated-gelu", dropout_rate=0.0, layer_norm_epsilon=1e-6,
        use_cache=False, tie_word_embeddings=False,
    )  # fmt: skip


def one_layer(config: UMT5Config) -> UMT5EncoderModel:
    """Build transformers' encoder with one layer and no final norm, on the meta device.

    It is run once for each layer.
    """
    single = UMT5Config(**{**config.to_dict(), "num_layers": 1, "vocab_size": 2})
    with torch.device("meta"):
        model = UMT5EncoderModel(single)
    model.encoder.final_layer_norm = nn.Identity()
    return model.eval()


def check(config: UMT5Config, tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise WeightsError unless `tensors` have exactly the names and shapes of the published encoder."""
    block = one_layer(config).encoder.block[0].state_dict()
    expected = {official_name(name, layer): t for layer in range(config.num_layers) for name, t in block.items()}
    expected[_EMBEDDING] = torch.empty(config.vocab_size, config.d_model, device="meta")
    expected[_FINAL_NORM] = torch.empty(config.d_model, device="meta")
    into_modules.rename_and_check(expected, tensors, lambda name: name, source=source)


class TextEncoder:
    """Turns prompts into embeddings (n, 4096), one layer at a time. No weights stay in memory between calls."""

    def __init__(
        self, files: TextFiles, *, device: torch.device, dtype: torch.dtype, cache: Path | None = None
    ) -> None:
        self.files, self.device, self.dtype = files, device, dtype
        self._cache = EmbeddingCache(cache, files.weights) if cache is not None else None

    def encode(self, prompts: list[str]) -> list[Tensor]:
        """Return one (n_tokens, width) tensor for each prompt, on the device. prompts: results of `clean_prompt`."""
        found = [self._cache.get(prompt) if self._cache else None for prompt in prompts]
        wanted = [prompt for prompt, known in zip(prompts, found, strict=True) if known is None]
        if wanted:
            made = dict(zip(wanted, self._run(wanted), strict=True))
            for prompt, embedding in made.items():
                if self._cache:
                    self._cache.put(prompt, embedding)
            found = [made[p] if known is None else known for p, known in zip(prompts, found, strict=True)]
        return [embedding.to(self.device, self.dtype) for embedding in found if embedding is not None]

    def _run(self, prompts: list[str]) -> list[Tensor]:
        ids = self._tokenize(prompts)
        tensors = read_weights(self.files)
        return run_encoder(tensors, ids, device=self.device, dtype=self.dtype, source=self.files.weights.name)

    def _tokenize(self, prompts: list[str]) -> list[list[int]]:
        encode = read_tokenizer(self.files.tokenizer, MAX_TOKENS)
        return [encode(prompt) for prompt in prompts]


def read_weights(files: TextFiles) -> Mapping[str, Tensor]:
    """Official names -> tensors; quantised ones are joined when they are read."""
    if files.quant_map is None:
        return open_tensors(files.weights, published_name)
    tensors = into_modules.read_tensors(files.weights)
    try:
        quantised = json.loads(files.quant_map.read_text())
        modules = {name for name, entry in quantised.items() if entry["weights"] != "none"}
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise WeightsError(f"The map {files.quant_map} cannot be read ({error}). Download it again.") from error
    return QuantisedWeights(tensors, modules, files.weights.name)


class QuantisedWeights(Mapping[str, Tensor]):
    """An optimum-quanto file as plain weights: data * scale, computed at each access.

    stored: the same names with the file's own tensors, of the same shape, so that a check computes nothing. Raises
    WeightsError with file and key if the file differs from its map.
    """

    def __init__(self, tensors: Mapping[str, Tensor], modules: set[str], source: str) -> None:
        self._tensors = tensors
        self._quantised = {f"{module}.weight" for module in modules}
        parts = {f"{name}.{part}" for name in self._quantised for part in ("_data", "_scale")}
        unused = {f"{module}.{part}" for module in modules for part in ("input_scale", "output_scale")}
        for name in sorted(parts - tensors.keys()):
            raise WeightsError(f"{source}: the tensor {name} is missing. Download it again.")
        self.stored: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            if name.endswith("._data"):
                if name not in parts:
                    raise WeightsError(f"{source}: {name} is not in the file's map. Download both again.")
                plain = name.removesuffix("._data")
                scale = tensors[f"{plain}._scale"]
                if scale.shape != (tensor.shape[0], 1):
                    raise WeightsError(
                        f"{source}: the tensor {plain}._scale has the shape {tuple(scale.shape)}, expected "
                        f"{(tensor.shape[0], 1)}. This is not the published file."
                    )
                self.stored[plain] = tensor
            elif name not in parts | unused:
                self.stored[name] = tensor

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._quantised:
            return self.stored[name]
        scale = self._tensors[f"{name}._scale"]
        return self.stored[name].to(scale.dtype) * scale

    def on(self, name: str, device: torch.device) -> Tensor:
        """The tensor `name` as floats on `device`. The 8-bit bytes are copied there and scaled there."""
        if name not in self._quantised:
            return self.stored[name].to(device)
        scale = self._tensors[f"{name}._scale"].to(device)
        return self.stored[name].to(device).to(scale.dtype) * scale

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


def run_encoder(
    tensors: Mapping[str, Tensor],
    ids: list[list[int]],
    *,
    device: torch.device,
    dtype: torch.dtype,
    source: str,
) -> list[Tensor]:
    """Compute the embeddings of the token rows `ids`, without padding. One layer is on the device at a time.

    Raises WeightsError unless `tensors` are exactly those of the published encoder.
    """
    stored = into_modules.shapes_of(tensors)
    config = config_of(stored)
    check(config, stored, source)
    layer_model = one_layer(config)
    layer_names = layer_model.encoder.block[0].state_dict()
    longest = max(len(row) for row in ids)
    padded = torch.zeros(len(ids), longest, dtype=torch.long)
    mask = torch.zeros(len(ids), longest, dtype=torch.long, device=device)
    for row, (tokens, target) in enumerate(zip(ids, padded, strict=True)):
        target[: len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    with torch.inference_mode():
        hidden = rows_of(tensors, _EMBEDDING, padded).to(device, dtype)
        final_norm = tensors[_FINAL_NORM].to(device, dtype)
        for layer in range(config.num_layers):
            official = {name: official_name(name, layer) for name in layer_names}
            moved = {name: tensor_on(tensors, stored_as, device).to(dtype) for name, stored_as in official.items()}
            layer_model.encoder.block[0].load_state_dict(moved, assign=True)
            hidden = layer_model.encoder(inputs_embeds=hidden, attention_mask=mask).last_hidden_state
        wide = hidden.float()
        hidden = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + config.layer_norm_epsilon)).to(dtype)
        hidden = hidden * final_norm
    return [row[: len(tokens)] for row, tokens in zip(hidden, ids, strict=True)]
