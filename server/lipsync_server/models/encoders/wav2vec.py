"""The wav2vec2 base model, run layer by layer: transformers' modules in a loop of our own.

transformers 4 and 5 return different values from a layer and collect hidden states differently; this module handles
both. The caller passes the statistics of the group norm to the convolutions, because speech.py measures them over the
whole recording and passes the recording in pieces. Eager attention, float32. Knows no loudness, no windows and no
length limits.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2Model

from lipsync_server.errors import WeightsError
from lipsync_server.models.tensor_files import into_modules
from lipsync_server.models.tensor_files.named import open_tensors

_OLD_WEIGHT_NORM = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
# Tensors of the published files that only training needs, or that turn sound into text.
_TRAINING_ONLY = ("quantizer.", "project_q.", "project_hid.", "lm_head.")
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")
# wav2vec2's heads are 64 wide in both published sizes.
_HEAD_WIDTH = 64
_POSITIONS = "encoder.pos_conv_embed.conv.parametrizations.weight.original1"


def build(config: Wav2Vec2Config) -> Wav2Vec2Model:
    """The model on the meta device with eager attention."""
    config._attn_implementation = "eager"
    with torch.device("meta"):
        return Wav2Vec2Model(config)


def published_name(name: str) -> str:
    """Name in a file -> name in the base class: without the prefix `wav2vec2.`, and with weight norm's new names."""
    plain = name.removeprefix("wav2vec2.")
    stem, _, last = plain.rpartition(".")
    return f"{stem}.{_OLD_WEIGHT_NORM[last]}" if last in _OLD_WEIGHT_NORM else plain


def read_official(path: Path) -> Mapping[str, Tensor]:
    """The published tensors under the base class's names."""
    return open_tensors(path, published_name)


def config_of(tensors: Mapping[str, Tensor], source: str) -> Wav2Vec2Config:
    """The sizes of a base model, read from the shapes, because ComfyUI's file has no config.json.

    Raises WeightsError for a large model, which has another architecture and which no engine here uses.
    """
    if "feature_extractor.conv_layers.1.layer_norm.weight" in tensors:
        raise WeightsError(
            f"{source} is a large wav2vec2 model. Use the base model: wav2vec2-chinese-base_fp16.safetensors."
        )
    layers = [int(match[1]) for name in tensors if (match := _LAYER.match(name))]
    convolutions = sorted(
        name for name in tensors if re.fullmatch(r"feature_extractor\.conv_layers\.\d\.conv\.weight", name)
    )

    def size(name: str, axis: int, default: int) -> int:
        return into_modules.usual_size(tensors, (name,), axis, default)

    width = size("feature_projection.projection.weight", 0, 768)
    return Wav2Vec2Config(
        hidden_size=width,
        num_hidden_layers=max(layers, default=11) + 1,
        num_attention_heads=max(1, width // _HEAD_WIDTH),
        intermediate_size=size("encoder.layers.0.feed_forward.intermediate_dense.weight", 0, 3072),
        conv_dim=tuple(size(name, 0, 512) for name in convolutions) if len(convolutions) == 7 else (512,) * 7,
        num_conv_pos_embeddings=size(_POSITIONS, -1, 128),
        num_conv_pos_embedding_groups=max(1, width // max(1, size(_POSITIONS, 1, width // 16))),
    )


class Wav2Vec:
    """A loaded model on one device."""

    def __init__(self, model: Wav2Vec2Model, *, normalises: bool, device: torch.device) -> None:
        config = model.config
        self.device, self.normalises = device, normalises
        self.first_kernel, self.first_stride = int(config.conv_kernel[0]), int(config.conv_stride[0])
        self.n_channels = int(config.conv_dim[0])
        self.width = int(config.hidden_size)
        self.stride, self.receptive_field = 1, 1
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            self.receptive_field += (kernel - 1) * self.stride
            self.stride *= stride
        self._model = model

    @classmethod
    def load(cls, path: Path, *, device: torch.device) -> "Wav2Vec":
        """Read a published folder (config.json, preprocessor_config.json, model.safetensors or pytorch_model.bin), or a
        single file of the same weights, whose sizes are then read from its shapes."""
        if path.is_dir() or not path.suffix:
            config, normalises, file = _published(path)
            tensors = read_official(file)
        else:
            file, tensors = path, read_official(path)
            config = config_of(into_modules.shapes_of(tensors), file.name)
            # The published settings switch normalisation off for the pre-trained Chinese model, and on for 960h. The
            # Chinese model is recognised by the quantizer of its training.
            normalises = not any(name.startswith("quantizer.") for name in tensors)
        model = build(config)
        if "masked_spec_embed" not in tensors:
            # Only training needs this tensor, and some files do not have it.
            tensors = {**tensors, "masked_spec_embed": torch.zeros(model.config.hidden_size)}
        into_modules.fill(
            model, tensors, lambda name: name, source=f"{file.parent.name}/{file.name}", device=device,
            dtype=torch.float32, unused=lambda name: name.startswith(_TRAINING_ONLY),
        )  # fmt: skip
        return cls(model, normalises=normalises, device=device)

    def n_features(self, n_samples: int) -> int:
        """Number of feature frames that the convolutions make from `n_samples`."""
        return max(0, (n_samples - self.receptive_field) // self.stride + 1)

    @torch.inference_mode()
    def first_convolution(self, samples: Tensor) -> Tensor:
        """The first layer's channels before its norm, (channels, n), of normalised samples (n,)."""
        out: Tensor = self._model.feature_extractor.conv_layers[0].conv(samples.to(self.device)[None, None])[0]
        return out

    @torch.inference_mode()
    def convolve(self, samples: Tensor, channel_mean: Tensor, channel_variance: Tensor) -> Tensor:
        """Features (n, channels) of normalised samples, given the first layer's statistics over the whole recording."""
        first, *rest = self._model.feature_extractor.conv_layers
        norm = first.layer_norm
        scale = norm.weight.double() * torch.rsqrt(channel_variance + norm.eps)
        shift = norm.bias.double() - channel_mean * scale
        x = self.first_convolution(samples) * scale.float()[:, None] + shift.float()[:, None]
        x = first.activation(x)[None]
        for layer in rest:
            x = layer(x)
        features: Tensor = x[0].T
        return features

    @torch.inference_mode()
    def encode(self, features: Tensor) -> list[Tensor]:
        """Hidden states of features (n, channels): the encoder's input and each layer's output, (n, width) each."""
        encoder = self._model.encoder
        hidden = self._model.feature_projection(features[None])[0]
        hidden = encoder.layer_norm(hidden + encoder.pos_conv_embed(hidden))
        states = [hidden[0]]
        for layer in encoder.layers:
            out = layer(hidden)
            hidden = out if isinstance(out, Tensor) else out[0]
            states.append(hidden[0])
        return states


def _published(folder: Path) -> tuple[Wav2Vec2Config, bool, Path]:
    """A published folder's configuration, whether it normalises its input, and its file of weights."""
    config = _read_json(folder / "config.json")
    if config.get("feat_extract_norm", "group") != "group" or config.get("do_stable_layer_norm", False):
        raise WeightsError(f"{folder} is not a wav2vec2 base model. Download the folder again.")
    preprocessor = folder / "preprocessor_config.json"
    normalises = bool(_read_json(preprocessor).get("do_normalize", True)) if preprocessor.is_file() else True
    path = folder / "model.safetensors"
    if not path.is_file() and (folder / "pytorch_model.bin").is_file():
        path = folder / "pytorch_model.bin"
    return Wav2Vec2Config(**config), normalises, path


def _read_json(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read ({error}). Download the folder again.") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path} does not hold a JSON object. Download the folder again.")
    return found
