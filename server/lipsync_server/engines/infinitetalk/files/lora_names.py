"""Layer names in LoRA files: the spellings of the training programs, turned into the model's official names.

Programs put their own prefix before a name (`diffusion_model.`, `lora_unet_`, `lora_unet__`, `pipe.dit.`, `lycoris_`),
write dots as underscores, and diffusers names the layers of a block in its own way (`attn1.to_q` for `self_attn.q`).
All spellings of a layer are the same once dots are underscores and prefixes are gone, so one table serves them all.
Sources: ComfyUI's LoRA loader and its conversion of Wan-Fun's names, the Wan wrapper's `standardize_lora_key_format`,
and diffusers' conversion of Wan's names. Does not know what the tensors mean.
"""

import re
from collections.abc import Iterable

_PREFIX = re.compile(
    r"^(?:lora_unet__?|lora_transformer_|lycoris_|base_model_model_|model_diffusion_model_|diffusion_model_|"
    r"transformer_|pipe_dit_|dit_|unet_|model_)"
)
_OTHER_MODELS = re.compile(
    r"^(?:lora_te\d?_|text_encoder\d?[._]|lora_te\.|(?:diffusion_model\.)?vace_|lora_unet_+vace_)"
)
# Official part of a layer's name -> diffusers' part; whole names first.
_DIFFUSERS = (
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("img_emb.proj.0", "condition_embedder.image_embedder.norm1"),
    ("img_emb.proj.1", "condition_embedder.image_embedder.ff.net.0.proj"),
    ("img_emb.proj.3", "condition_embedder.image_embedder.ff.net.2"),
    ("img_emb.proj.4", "condition_embedder.image_embedder.norm2"),
    ("head.head", "proj_out"),
    (".self_attn.o", ".attn1.to_out.0"),
    (".cross_attn.o", ".attn2.to_out.0"),
    (".cross_attn.k_img", ".attn2.add_k_proj"),
    (".cross_attn.v_img", ".attn2.add_v_proj"),
    (".cross_attn.norm_k_img", ".attn2.norm_added_k"),
    (".self_attn.norm_", ".attn1.norm_"),
    (".cross_attn.norm_", ".attn2.norm_"),
    (".self_attn.", ".attn1.to_"),
    (".cross_attn.", ".attn2.to_"),
    (".ffn.0", ".ffn.net.0.proj"),
    (".ffn.2", ".ffn.net.2"),
    (".norm3", ".norm2"),
)


def is_of_another_model(key: str) -> bool:
    """Whether a key changes a part that no video of ours uses: a text encoder, or the blocks that VACE adds."""
    return _OTHER_MODELS.match(key) is not None


class LayerNames:
    """Official layer names by every spelling. layers: names without `.weight`."""

    def __init__(self, layers: Iterable[str]) -> None:
        self._official: dict[str, str] = {}
        for layer in layers:
            self._official.setdefault(_diffusers(layer).replace(".", "_"), layer)
        for layer in layers:
            self._official[layer.replace(".", "_")] = layer

    def official(self, spelled: str) -> str | None:
        """The official name of a layer, or None for a layer that the model does not have."""
        name = spelled.replace(".", "_")
        while name not in self._official:
            shorter = _PREFIX.sub("", name)
            if shorter == name:
                return None
            name = shorter
        return self._official[name]


def _diffusers(layer: str) -> str:
    """diffusers' name of an official layer."""
    for official, theirs in _DIFFUSERS:
        if official in layer:
            return layer.replace(official, theirs)
    return layer
