"""The FlashHead transformer: noisy latent, picture, noise level and sound in, velocity (noise - clean) out.

Knows the order of the parts. Does not know weight files, sampling or windows. One sequence at a time: nothing here has
a batch dimension. Paper letters: T latent frames, h w latent height and width, N tokens, D model width, z channels.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lipsync_server.engines.flashhead.model.blocks import Block, SoundAttention, fast_forward, why_not_fast
from lipsync_server.engines.flashhead.model.config import HeadConfig
from lipsync_server.engines.flashhead.model.graph import GraphedForward
from lipsync_server.models.kernels.attention import Attention, choose
from lipsync_server.models.kernels.choice import Chooser
from lipsync_server.models.kernels.product_8bit import native_8bit
from lipsync_server.models.kernels.rope import RotaryTable, video_table
from lipsync_server.models.layers.cross_attention import KeysValues
from lipsync_server.models.layers.embeddings import Head, unpatchify
from lipsync_server.models.layers.fast import Pending
from lipsync_server.models.layers.linear_8bit import Activations, QuantizedLinear, replace_linears
from lipsync_server.models.layers.self_attention import SelfAttentionLayers
from lipsync_server.models.layers.sound_projection import AudioProjection
from lipsync_server.models.layers.wan_transformer import WanTransformer
from lipsync_server.quantization import EightBit

Grid = tuple[int, int, int]
"""Latent frames, rows and columns of tokens."""
Sound = list[KeysValues]
"""Keys and values of a window's sound, for each block."""
_FEW_TOKENS = 4096
"""The largest number of tokens for a CUDA graph. With fewer tokens the host is slower than the GPU."""
_OVER_ALL_TOKENS = ("self_attn.qkv", "self_attn.o", "cross_attn.q", "cross_attn.o", "ffn.0", "ffn.2")
"""The layers that multiply every token of a window: 90 % of the weights, and nearly all computation."""


class FlashHeadTransformer(WanTransformer):
    """Wan2.1 1.3B, conditioned on sound and the latents of a picture only: no text, no CLIP."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        self.config = config
        self.audio_proj = AudioProjection(config.sound)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.num_layers)])
        self.head = Head(config.dim, config.out_dim * config.patch_values, config.eps)
        self.attention: Attention | None = None
        self.fast_blocks = False
        self._graphed: GraphedForward | None = None
        self._graphed_sound: GraphedForward | None = None
        self._ropes: dict[tuple[Grid, torch.device], RotaryTable] = {}
        self.requires_grad_(False)

    def set_attention(self, name: str = "auto", chooser: Chooser | None = None) -> None:
        """Choose the attention kernel of every block; "auto" is the fastest one, as `chooser` measures on this GPU."""
        self.attention = choose(
            name, self.device, self.dtype, heads=self.config.num_heads, head_dim=self.config.head_dim, chooser=chooser
        )
        for module in self.modules():
            if isinstance(module, SelfAttentionLayers):
                module.attend = self.attention.self_kernel
            elif isinstance(module, SoundAttention):
                module.attend = self.attention.kernel

    def round_weights(self, kind: EightBit) -> None:
        """Round the weights of the layers over all tokens to 8 bits; their products are in 8 bits if the device can.

        The blocks are plain afterwards: call `use_fast_blocks` again to fuse them.
        """
        self.fast_blocks, self._graphed, self._graphed_sound = False, None, None
        activations: Activations = "dynamic" if native_8bit(self.device, kind) else "exact"
        replace_linears(self, lambda name, _: kind if name.endswith(_OVER_ALL_TOKENS) else None)
        for module in self.modules():
            if isinstance(module, QuantizedLinear):
                module.activations = activations

    def use_fast_blocks(self) -> str | None:
        """Run the blocks in fused passes from now on. Returns why that is not possible here, or None."""
        if self.attention is None:
            self.set_attention()
        reason = why_not_fast(cast(Block, self.blocks[0]), self.device)
        self.fast_blocks = reason is None
        self._graphed = GraphedForward(self._compute_flat) if reason is None else None
        self._graphed_sound = GraphedForward(self._hear_flat) if reason is None else None
        return reason

    def compile_blocks(self) -> None:
        """Compile the block once for all layers, and the head."""
        for block in self.blocks:
            block.compile(fullgraph=True, dynamic=True)
        self.head.compile(fullgraph=True, dynamic=True)

    @torch.inference_mode()
    def hear(self, audio: Tensor) -> Sound:
        """The sound of a window, the same for all its steps.

        audio: float32 (F, window, layers, channels), windowed, F = (T - 1) * stride + 1.
        """
        audio = audio.to(self.device, self.dtype)
        if self._graphed_sound is None:
            return self._hear(audio)
        # Some hundred kernels on few tokens: the host needs 8 ms to start them one by one.
        flat = self._graphed_sound([audio]).unbind()
        return [KeysValues(*pair) for pair in zip(flat[::2], flat[1::2], strict=True)]

    def _hear(self, audio: Tensor) -> Sound:
        tokens = self.audio_proj(audio[None])[0]
        return [block.cross_attn.project_context(tokens) for block in self._blocks()]

    def _hear_flat(self, inputs: Sequence[Tensor]) -> Tensor:
        """`hear` with one tensor as result, as a CUDA graph needs it: keys and values of all blocks in turn."""
        return torch.stack([tensor for heard in self._hear(inputs[0]) for tensor in heard])

    @torch.no_grad()
    def forward(self, latent: Tensor, picture: Tensor, timestep: Tensor, sound: Sound) -> Tensor:
        """latent, picture (z, T, h, w): the noisy latent and y; timestep (1,) in 0..1000; sound from `hear`.

        Returns the velocity (z, T, h, w) float32.
        """
        patch = self.config.patch_size
        grid = (latent.shape[1], latent.shape[2] // patch[1], latent.shape[3] // patch[2])
        if sound[0].k.shape[0] != grid[0]:
            raise ValueError(f"latent has {grid[0]} frames, the sound was given for {sound[0].k.shape[0]}")
        if self._graphed is not None and grid[0] * grid[1] * grid[2] <= _FEW_TOKENS:
            flat = [tensor for heard in sound for tensor in heard]
            return self._graphed([latent, picture.to(latent), timestep.to(self.device), *flat])
        return self._compute(latent, picture, timestep, sound, grid)

    def _compute_flat(self, inputs: Sequence[Tensor]) -> Tensor:
        """`forward` with all arguments in one list, as a CUDA graph needs them."""
        latent, picture, timestep, *flat = inputs
        patch = self.config.patch_size
        grid = (latent.shape[1], latent.shape[2] // patch[1], latent.shape[3] // patch[2])
        sound = [KeysValues(*pair) for pair in zip(flat[::2], flat[1::2], strict=True)]
        return self._compute(latent, picture, timestep, sound, grid)

    def _compute(self, latent: Tensor, picture: Tensor, timestep: Tensor, sound: Sound, grid: Grid) -> Tensor:
        x = self.embed_patches(torch.cat([latent, picture.to(latent)]))
        e, e0 = self.embed_time(timestep)
        rope, pending = self.rope(grid), Pending(x)
        for block, heard in zip(self._blocks(), sound, strict=True):
            if self.fast_blocks and self.attention is not None:
                pending = fast_forward(block, pending, e0, heard, rope, self.attention)
            else:
                pending = Pending(block(pending.x, e0, heard, rope))
        return unpatchify(self.head(pending.settle(), e), grid, self.config.patch_size)

    def rope(self, grid: Grid) -> RotaryTable:
        """The rotary table of a window's tokens, made once and kept."""
        key = (grid, self.device)
        if key not in self._ropes:
            self._ropes[key] = video_table(grid, self.config.head_dim, self.device)
        return self._ropes[key]

    def _blocks(self) -> Iterator[Block]:
        return (cast(Block, block) for block in self.blocks)
