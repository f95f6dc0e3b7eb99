"""The transformer as one or two single files of any layout: names and shapes compared, sizes read from shapes.

A base file holds Wan2.1-I2V-14B, and a patch file the layers that InfiniteTalk adds (ComfyUI's `model_patches`, the
wrapper's InfiniteTalk files, the official adapter); one file may also hold both. layouts.py reads names and scales.
Does not know how a tensor becomes a parameter.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from lipsync_server.engines.infinitetalk.files.transformers import TransformerFiles
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.errors import WeightsError
from lipsync_server.models.tensor_files.layouts import Stored, read_layout, without_ones

# Wan's attention heads are 128 wide in every published size.
_HEAD_WIDTH = 128
# The windows in which the published audio projection takes sound, and the layers of wav2vec2 base.
_AUDIO_WINDOW, _AUDIO_BLOCKS = 5, 12


def check_layout(
    layout: Mapping[str, Stored],
    shapes: Mapping[str, tuple[int, ...]],
    holder: Callable[[str], Path],
) -> None:
    """Compare the files with the model. holder: the file that should hold a name, for the message.

    Raises WeightsError naming the first file and tensor that differ. GGUF writers drop leading ones of a shape, so
    these are not compared.
    """
    for name, stored in layout.items():
        entry = stored.entry
        if name not in shapes:
            raise WeightsError(
                f"{entry.file} holds {entry.key}, which this model does not have. Is it another model's file?"
            )
        if without_ones(entry.shape) != without_ones(shapes[name]):
            raise WeightsError(
                f"{entry.file}: {entry.key} is {list(entry.shape)} where the model needs {list(shapes[name])}. "
                "Is it another model's file?"
            )
    for name in shapes:
        if name not in layout:
            raise WeightsError(
                f"{holder(name)} lacks {name}. The download is incomplete, or it is another model's file."
            )


def config_of(layout: Mapping[str, Stored], default: TransformerConfig | None = None) -> TransformerConfig:
    """The sizes of the model whose parameters are stored; `default` (the 14B model) where nothing shows one."""
    known = default or TransformerConfig()

    def size(name: str, axis: int, otherwise: int) -> int:
        stored = layout.get(name)
        shape = () if stored is None else stored.entry.shape
        return shape[axis] if -len(shape) <= axis < len(shape) else otherwise

    dim = size("blocks.0.self_attn.q.weight", 0, known.dim)
    blocks = [int(name.split(".")[1]) for name in layout if name.startswith("blocks.")]
    sound = _AUDIO_WINDOW * _AUDIO_BLOCKS
    output = size("audio_proj.norm.weight", 0, known.output_dim)
    try:
        return TransformerConfig(
            dim=dim,
            ffn_dim=size("blocks.0.ffn.0.weight", 0, known.ffn_dim),
            num_heads=max(1, dim // _HEAD_WIDTH),
            num_layers=max(blocks, default=known.num_layers - 1) + 1,
            freq_dim=size("time_embedding.0.weight", 1, known.freq_dim),
            text_dim=size("text_embedding.0.weight", 1, known.text_dim),
            text_len=known.text_len,
            image_dim=size("img_emb.proj.0.weight", 0, known.image_dim),
            in_dim=size("patch_embedding.weight", 1, known.in_dim),
            out_dim=size("head.head.weight", 0, known.out_dim * known.patch_values) // known.patch_values,
            audio_channels=size("audio_proj.proj1.weight", 1, known.audio_channels * sound) // sound,
            intermediate_dim=size("audio_proj.proj1.weight", 0, known.intermediate_dim),
            output_dim=output,
            context_tokens=size("audio_proj.proj3.weight", 0, known.context_tokens * output) // output,
        )
    except ValueError as error:
        file = next(iter(layout.values())).entry.file if layout else "The file"
        raise WeightsError(f"{file} holds sizes that do not fit together: {error}.") from error


def read_config(files: TransformerFiles) -> TransformerConfig:
    """The sizes of the transformer in `files`: from its config.json, or from the shapes where it has none."""
    if files.config is not None:
        return TransformerConfig.from_json(files.config)
    return config_of(read_layout([files.source, *([] if files.adapter is None else [files.adapter])]))
