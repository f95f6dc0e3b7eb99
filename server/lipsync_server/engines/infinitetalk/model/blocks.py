"""One block of the InfiniteTalk transformer: self-attention, text/image and audio cross-attention, feed-forward.

Knows the block's mathematics, for one person and for two. Does not know embeddings, model files or devices. Tokens are
unbatched: x is (N, D), float32 or bfloat16, with N = T * S tokens, frame-major (T latent frames of S tokens, D model
width). The keys and values of text, picture and sound are the same in all denoising steps of a window;
`project_context` makes them, and every `forward` gets them.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.models.kernels.attention import Kernel, sdpa
from lipsync_server.models.kernels.rope import RotaryTable, rotate, speaker_table
from lipsync_server.models.layers.cross_attention import CrossAttentionLayers, KeysValues, feed_forward
from lipsync_server.models.layers.norms import LayerNorm, RMSNorm
from lipsync_server.models.layers.self_attention import SelfAttentionLayers

# Positions of the two speakers and of the background on the one-dimensional rotary axis of the audio attention.
FIRST_SPEAKER, SECOND_SPEAKER, BACKGROUND, SPAN = 0.0, 20.0, 12.0, 4.0
FIRST_SPEAKER_KEYS, SECOND_SPEAKER_KEYS = 2.0, 22.0


class BlockContext(NamedTuple):
    """Keys and values that one block attends to: text, image with B = 1, audio with B = T, one a latent frame."""

    text: KeysValues
    image: KeysValues
    audio: KeysValues


def speaker_map(q: Tensor, k: Tensor, masks: Tensor, attend: Kernel) -> Tensor:
    """The attention of each token to each masked region of the first latent frame: (3, N) float32.

    q, k (N, heads, head_dim) rotated; masks (3, S) of 0 and 1, none of them empty. The mean over heads of the summed
    probabilities, over the mask's size. Attention whose values are the masks gives those sums without ever holding
    the N x S probabilities.
    """
    S, heads, head_dim = masks.shape[1], q.shape[1], q.shape[2]
    values = q.new_zeros(1, S, heads, head_dim)
    values[..., :3] = masks.t().to(q.dtype)[None, :, None]
    sums = attend(q[None], k[None, :S], values)[0, ..., :3]
    return (sums.float().mean(dim=1) / masks.sum(dim=1)).t()


def speaker_positions(regions: Tensor) -> Tensor:
    """regions (3, N) from `speaker_map` -> rotary positions (N,): 0..4 first person, 20..24 second, 12 background."""
    low = regions.amin(dim=1, keepdim=True)
    high = regions.amax(dim=1, keepdim=True)
    graded = (regions - low) / (high - low + 1e-8) * SPAN
    background = torch.full_like(graded[0], BACKGROUND)
    candidates = torch.stack((graded[0] + FIRST_SPEAKER, graded[1] + SECOND_SPEAKER, background))
    return candidates.gather(0, regions.argmax(dim=0, keepdim=True))[0]


def speaker_key_positions(n_tokens: int, device: torch.device) -> Tensor:
    """Rotary positions of one frame's audio tokens, float32 (n_tokens,): first half person 1, second half person 2."""
    positions = torch.full((n_tokens,), SECOND_SPEAKER_KEYS, device=device)
    positions[: n_tokens // 2] = FIRST_SPEAKER_KEYS
    return positions


class SelfAttention(SelfAttentionLayers):
    """Attention of all tokens to all tokens; for two people it also computes `speaker_map`."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config.dim, config.num_heads, config.eps)
        self.attend_regions: Kernel = sdpa
        self.regions = speaker_map

    def forward(self, x: Tensor, rope: RotaryTable, masks: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The attention (N, D), and `speaker_map` of its queries and keys where there are masks."""
        q, k, v = self.queries_keys_values(x, rope)
        return self.mix(q, k, v), None if masks is None else self.regions(q, k, masks, self.attend_regions)


class CrossAttention(CrossAttentionLayers):
    """Attention to the text and, with keys and values of its own, to the picture; the two results are added."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config.dim, config.num_heads, config.eps)
        self.k_img = nn.Linear(config.dim, config.dim)
        self.v_img = nn.Linear(config.dim, config.dim)
        self.norm_k_img = RMSNorm(config.dim, config.eps)

    def project_text(self, text: Tensor) -> KeysValues:
        """text (text_len, D) -> its keys and values with B = 1, in its type."""
        k, v = self.keys_values(text)
        return KeysValues(k[None], v[None])

    def project_image(self, image: Tensor) -> KeysValues:
        """image (257, D) -> its keys and values with B = 1, in its type."""
        k = self.norm_k_img(self.k_img(image)).to(image.dtype)
        v = self.v_img(image).to(image.dtype)
        return KeysValues(self.split_heads(k)[None], self.split_heads(v)[None])

    def forward(self, x: Tensor, text: KeysValues, image: KeysValues) -> Tensor:
        """x (N, D) -> (N, D) in x's type: attention to the text plus attention to the picture."""
        q = self.queries(x)[None]
        out: Tensor = self.o((self.attend(q, *text) + self.attend(q, *image))[0].flatten(1))
        return out


class AudioAttention(nn.Module):
    """Attention of each latent frame's tokens to the audio tokens of the same frame."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.q_linear = nn.Linear(config.dim, config.dim)
        self.kv_linear = nn.Linear(config.output_dim, 2 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)
        self.attend: Kernel = sdpa
        self.positions = speaker_positions

    def project_context(self, audio: Tensor, n_people: int) -> KeysValues:
        """audio (T, context_tokens * people, output_dim). With two people the keys are rotated to their speaker."""
        k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.kv_linear(audio).chunk(2, dim=-1))
        if n_people > 1:
            table = speaker_table(speaker_key_positions(audio.shape[1], audio.device), k.shape[-1])
            k = rotate(k, table).to(audio.dtype)
        return KeysValues(k.contiguous(), v.contiguous())

    def forward(self, x: Tensor, audio: KeysValues, regions: Tensor | None) -> Tensor:
        """x (N, D) -> (N, D) in x's type. regions: `speaker_map` (3, N) for two people, else None."""
        q = self.q_linear(x).unflatten(-1, (self.heads, -1))
        if regions is not None:
            q = rotate(q, speaker_table(self.positions(regions), q.shape[-1])).to(x.dtype)
        frames = q.unflatten(0, (audio.k.shape[0], -1))
        out: Tensor = self.proj(self.attend(frames, *audio).flatten(0, 1).flatten(1))
        return out


class Block(nn.Module):
    """norm -> self-attention -> text/image -> audio -> feed-forward, with the time's shifts, scales and gates."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.dim, config.eps, affine=False)
        self.self_attn = SelfAttention(config)
        self.norm3 = LayerNorm(config.dim, config.eps, affine=True)
        self.cross_attn = CrossAttention(config)
        self.norm_x = LayerNorm(config.dim, config.eps, affine=True)
        self.audio_cross_attn = AudioAttention(config)
        self.norm2 = LayerNorm(config.dim, config.eps, affine=False)
        self.ffn = feed_forward(config.dim, config.ffn_dim)
        self.modulation = nn.Parameter(torch.empty(1, 6, config.dim), requires_grad=False)

    def project_context(self, text: Tensor, image: Tensor, audio: Tensor, n_people: int) -> BlockContext:
        """text (text_len, D), image (257, D), audio (T, context_tokens * people, C) -> `BlockContext`."""
        return BlockContext(
            self.cross_attn.project_text(text),
            self.cross_attn.project_image(image),
            self.audio_cross_attn.project_context(audio, n_people),
        )

    def forward(self, x: Tensor, e0: Tensor, context: BlockContext, rope: RotaryTable, masks: Tensor | None) -> Tensor:
        """x (N, D); e0 (1, 6, D) float32; masks (3, S) float32 at token resolution for two people, else None."""
        dtype = x.dtype
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation.float() + e0)[0]
        y, regions = self.self_attn((self.norm1(x) * (1 + scale1) + shift1).to(dtype), rope, masks)
        x = (x + y.float() * gate1).to(dtype)
        x = x + self.cross_attn(self.norm3(x).to(dtype), context.text, context.image)
        x = x + self.audio_cross_attn(self.norm_x(x).to(dtype), context.audio, regions)
        y = self.ffn((self.norm2(x) * (1 + scale2) + shift2).to(dtype))
        return cast(Tensor, x + y.float() * gate2).to(dtype)
