"""The InfiniteTalk transformer: noisy latent, timestep and conditioning in, velocity (noise - clean) out.

Knows the order of the parts, the constants of a window and the step cache. Does not know model files, sampling,
guidance or where blocks' weights wait (`BlockRunner`). One sample at a time: nothing here has a batch dimension.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from lipsync_server.engines.infinitetalk.model import fast_blocks
from lipsync_server.engines.infinitetalk.model.blocks import (
    AudioAttention,
    Block,
    BlockContext,
    CrossAttention,
    SelfAttention,
)
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.engines.infinitetalk.model.layers import ImageEmbedding, TextEmbedding
from lipsync_server.engines.infinitetalk.model.teacache import TeaCache
from lipsync_server.engines.infinitetalk.model.token_sharing import AllTokens, Grid, TokenSharing
from lipsync_server.models.kernels.attention import Attention, choose
from lipsync_server.models.kernels.choice import Chooser
from lipsync_server.models.kernels.rope import RotaryTable, video_table
from lipsync_server.models.layers.cross_attention import KeysValues
from lipsync_server.models.layers.embeddings import Head, unpatchify
from lipsync_server.models.layers.fast import Pending
from lipsync_server.models.layers.linear_8bit import computes_in_8bit
from lipsync_server.models.layers.sound_projection import AudioProjection
from lipsync_server.models.layers.wan_transformer import WanTransformer


@dataclass
class Embedded:
    """The prompt or the picture after its embedding. One object serves all windows with that prompt or picture.

    tokens: (text_len or 257, D). layers: keys and values per block, filled by the first forward.
    """

    tokens: Tensor
    layers: list[KeysValues | None]


@dataclass
class EmbeddedCondition:
    """The inputs that stay the same over the denoising steps of a window.

    audio: (T, context_tokens * P, C), embedded. masks (3, S) float32 at token resolution, for two people only. layers:
    keys and values per block, filled by the first forward.
    """

    text: Embedded
    image: Embedded
    audio: Tensor
    n_people: int
    masks: Tensor | None
    layers: list[BlockContext | None]


class BlockRunner(Protocol):
    """Gives the blocks in order, each ready to compute: plainly, or after fetching its weights."""

    def __iter__(self) -> Iterator[Block]: ...

    def close(self) -> None: ...


class ResidentBlocks:
    """All blocks stay where they are."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        self._blocks = blocks

    def __iter__(self) -> Iterator[Block]:
        return (cast(Block, block) for block in self._blocks)

    def close(self) -> None:
        """Nothing to give back."""


class InfiniteTalkTransformer(WanTransformer):
    """Wan2.1-I2V-14B with InfiniteTalk's audio cross-attention.

    `cache_context` keeps every block's keys and values of text, picture and sound (about 1.2 GB at full size, per
    conditioning; half of it for the sound of one window); without it they are made again in each forward, for half a
    percent of its time.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.config = config
        self.text_embedding = TextEmbedding(config)
        self.img_emb = ImageEmbedding(config)
        self.audio_proj = AudioProjection(config.sound)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.num_layers)])
        self.head = Head(config.dim, config.out_dim * config.patch_values, config.eps)
        self.cache_context = True
        self.attention: Attention | None = None
        self.fast_blocks = False
        # Official names of the parameters into which LoRA files are merged.
        self.merged_names = frozenset[str]()
        self.runner: BlockRunner = ResidentBlocks(self.blocks)
        self._sharing: TokenSharing = AllTokens()
        self._ropes: dict[tuple[Grid, torch.device], RotaryTable] = {}
        self.requires_grad_(False)

    @property
    def attention_line(self) -> str:
        """The attention kernel in use and the reason for it, for the log."""
        return str(self.attention)

    def set_attention(self, name: str = "auto", density: float = 1.0, chooser: Chooser | None = None) -> None:
        """Choose the attention kernel of every block (attention.KERNELS), and the share of key tiles that it computes.

        "auto" takes the fastest kernel, as `chooser` measures on this GPU: also one in 8 bits where the linear layers
        already compute in 8 bits, because beside their rounding that of the attention is not visible.
        """
        self.attention = choose(
            name, self.device, self.dtype, density, heads=self.config.num_heads, head_dim=self.config.head_dim,
            in_8bit=computes_in_8bit(self), chooser=chooser,
        )  # fmt: skip
        for module in self.modules():
            if isinstance(module, SelfAttention):
                module.attend = self.attention.self_kernel
                module.attend_regions = self.attention.kernel
            elif isinstance(module, CrossAttention | AudioAttention):
                module.attend = self.attention.kernel

    def share_tokens(self, sharing: TokenSharing) -> None:
        """Run the blocks on this process's share of the tokens from now on. Call it after set_attention."""
        if self.attention is None:
            self.set_attention()
        assert self.attention is not None
        self._sharing = sharing
        self._ropes.clear()
        self.attention = sharing.attention(self.attention)
        for block in cast("Iterator[Block]", self.blocks):
            block.self_attn.attend = self.attention.self_kernel
            block.self_attn.regions = sharing.speaker_map
            block.audio_cross_attn.positions = sharing.speaker_positions

    def use_fast_blocks(self) -> str | None:
        """Run one-person forwards through fast_blocks.py. Returns why that is not possible here, or None."""
        reason = fast_blocks.why_not(cast(Block, self.blocks[0]), self.device)
        self.fast_blocks = reason is None
        return reason

    def compile_blocks(self, **options: object) -> None:
        """Compile the block once for all layers and all lengths and sizes (dynamic shapes cost nothing measurable)."""
        settings: dict[str, object] = {"fullgraph": True, "dynamic": True} | options
        for block in self.blocks:
            block.compile(**settings)
        self.head.compile(**settings)

    def uncompile_blocks(self) -> None:
        """Undo compile_blocks()."""
        for module in (*self.blocks, self.head):
            module._compiled_call_impl = None

    def embed_text(self, text: Tensor) -> Embedded:
        """The prompt's features (n <= text_len, text_dim) after their embedding."""
        return Embedded(self.text_embedding(self._here(text)), [None] * self.config.num_layers)

    def embed_image(self, tokens: Tensor) -> Embedded:
        """CLIP's tokens (257, image_dim) of the picture after their embedding."""
        return Embedded(self.img_emb(self._here(tokens)), [None] * self.config.num_layers)

    def embed_condition(
        self,
        *,
        text: Tensor | Embedded,
        image_tokens: Tensor | Embedded,
        audio: Tensor,
        masks: Tensor | None = None,
    ) -> EmbeddedCondition:
        """Compute the inputs that stay the same over the denoising steps of a window.

        text (n <= text_len, text_dim) or embedded already; image_tokens (257, image_dim) or embedded already; audio
        (P, F, window, blocks, channels), windowed, P = 1 or 2, F = 4 * (T - 1) + 1; masks (3, h, w) at latent size, 0
        or 1: person 1, person 2, background, needed for two people and ignored for one. Raises ValueError for other
        shapes and for an empty mask.
        """
        config, n_people = self.config, audio.shape[0]
        if audio.ndim != 5 or n_people not in (1, 2) or (audio.shape[1] - 1) % config.vae_scale:
            raise ValueError(f"audio must be (1 or 2, 4n + 1, window, blocks, channels), not {tuple(audio.shape)}")
        if n_people == 2 and masks is None:
            raise ValueError("masks are needed for two people")
        tokens = self.audio_proj(self._here(audio))
        return EmbeddedCondition(
            text=text if isinstance(text, Embedded) else self.embed_text(text),
            image=image_tokens if isinstance(image_tokens, Embedded) else self.embed_image(image_tokens),
            audio=tokens.transpose(0, 1).flatten(1, 2),
            n_people=n_people,
            masks=None if n_people == 1 or masks is None else self._token_masks(masks),
            layers=[None] * config.num_layers,
        )

    @torch.no_grad()
    def forward(
        self, latent: Tensor, timestep: Tensor, conditioning: EmbeddedCondition, cache: TeaCache | None = None
    ) -> Tensor:
        """latent (in_dim, T, h, w): the noisy latent and y on the channels; timestep (1,) in 0..1000.

        Returns the velocity (out_dim, T, h, w) float32. With `cache`, the blocks may be skipped.
        """
        patch = self.config.patch_size
        grid = (latent.shape[1], latent.shape[2] // patch[1], latent.shape[3] // patch[2])
        if conditioning.audio.shape[0] != grid[0]:
            raise ValueError(f"latent has {grid[0]} frames, the audio was given for {conditioning.audio.shape[0]}")
        x = self.embed_patches(latent)
        e, e0 = self.embed_time(timestep)
        if cache is None:
            x = self._run_blocks(x, e0, conditioning, grid)
        elif cache.computes(e0):
            embedded = x
            x = self._run_blocks(x, e0, conditioning, grid)
            cache.store(x - embedded)
        else:
            x = x + cache.residual
        return unpatchify(self.head(x, e), grid, patch)

    def _run_blocks(self, x: Tensor, e0: Tensor, conditioning: EmbeddedCondition, grid: Grid) -> Tensor:
        rope = self.rope(grid)
        fast = self.fast_blocks and conditioning.masks is None
        pending = Pending(self._sharing.split(x, grid))
        for index, block in enumerate(self.runner):
            context = self._context_of(index, block, conditioning)
            if fast and self.attention is not None:
                pending = fast_blocks.forward(block, pending, e0, context, rope, self.attention)
            else:
                pending = Pending(block(pending.x, e0, context, rope, conditioning.masks))
        return self._sharing.join(pending.settle(), grid)

    def _context_of(self, index: int, block: Block, conditioning: EmbeddedCondition) -> BlockContext:
        """The keys and values for one block: kept ones, or made now, and kept if `cache_context`."""
        kept = conditioning.layers[index]
        if kept is not None:
            return kept
        text, image = conditioning.text, conditioning.image
        of_text, of_image = text.layers[index], image.layers[index]
        context = BlockContext(
            block.cross_attn.project_text(text.tokens) if of_text is None else of_text,
            block.cross_attn.project_image(image.tokens) if of_image is None else of_image,
            block.audio_cross_attn.project_context(conditioning.audio, conditioning.n_people),
        )
        if self.cache_context:
            conditioning.layers[index] = context
            text.layers[index], image.layers[index] = context.text, context.image
        return context

    def rope(self, grid: Grid) -> RotaryTable:
        """The rotary table of the tokens that this process computes, made once for each grid and kept."""
        key = (grid, self.device)
        if key not in self._ropes:
            whole = video_table(grid, self.config.head_dim, self.device)
            self._ropes[key] = RotaryTable(*(self._sharing.split(part, grid) for part in whole))
        return self._ropes[key]

    def _token_masks(self, masks: Tensor) -> Tensor:
        """(3, h, w) -> (3, S) by nearest neighbour: every second row and column."""
        _, q, r = self.config.patch_size
        tokens = (masks[:, ::q, ::r] > 0).flatten(1).float().to(self.device)
        if not bool(tokens.any(dim=1).all()):
            raise ValueError("a person's region is empty at token resolution; make the box larger")
        return tokens

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self.device, dtype=self.dtype)

    def close(self) -> None:
        """Give the weights' memory back."""
        self.runner.close()
        self._ropes.clear()
        self.to_empty(device="meta")
