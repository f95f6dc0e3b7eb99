"""Measures on this GPU which form of a block is fastest: fused (fast_blocks.py), compiled by torch, or plain.

Knows one block's inputs at the model's sizes. Does not know how the choice is kept (models/kernels/choice.py).
"""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from lipsync_server.engines.infinitetalk.model import fast_blocks
from lipsync_server.engines.infinitetalk.model.blocks import Block, BlockContext
from lipsync_server.engines.infinitetalk.model.transformer import InfiniteTalkTransformer
from lipsync_server.models.kernels.card import relative_error
from lipsync_server.models.kernels.choice import Chooser, Question, Way
from lipsync_server.models.kernels.rope import RotaryTable, video_table
from lipsync_server.models.layers.fast import Pending
from lipsync_server.models.layers.linear_8bit import computes_in_8bit

T = TypeVar("T")

_FRAMES, _SIDE = 5, 40
"""Latent frames and tokens on a side of each: 8,000 tokens, a quarter of a window at 480p."""
# The forms round activations to 8 bits at the same places, and differ by the rounding of attention and of bf16.
_LIMIT = 0.06


class _Inputs(NamedTuple):
    """x (N, D) hidden states; e0 (1, 6, D) the timestep's shifts, scales and gates."""

    x: Tensor
    e0: Tensor
    context: BlockContext
    rope: RotaryTable


def use_faster_blocks(
    model: InfiniteTalkTransformer, chooser: Chooser, frames: int = _FRAMES, side: int = _SIDE
) -> str | None:
    """Let the model run its fastest form of blocks. Returns the reason why that is not the fused form, or None.

    Comes after compile_blocks() and set_attention(). The compiled form is compiled here, which takes seconds at the
    first start on a card; the choice is kept then. Where neither form runs, the model runs its plain blocks.
    """
    reason = model.use_fast_blocks()
    if reason is not None:
        return f"they run compiled: {reason}"
    choice = chooser.choose(*question_of(model, frames, side))
    if choice is not None and choice.way == "fused":
        return None
    model.fast_blocks = False
    if choice is not None and choice.way == "compiled":
        return f"they run compiled, which is faster here ({choice.reason})"
    model.uncompile_blocks()
    return (
        f"they run one operation after the other ({'no form computes correctly' if choice is None else choice.reason})"
    )


def question_of(
    model: InfiniteTalkTransformer, frames: int, side: int
) -> tuple[Question[Tensor], dict[str, Way[Tensor]]]:
    """The question for a chooser, and its three ways, for the first block of `model` on random hidden states."""
    config, device, dtype = model.config, model.device, model.dtype
    random = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, device=device, dtype=dtype)

    grid = (frames, side, side)
    attention = model.attention
    assert attention is not None, "set_attention() comes first"

    @cache
    def inputs() -> _Inputs:
        x, e0 = normal(frames * side * side, config.dim), 0.1 * normal(1, 6, config.dim).float()
        text, picture = normal(config.text_len, config.dim), normal(257, config.dim)
        sound = normal(frames, config.sound.n_tokens, config.sound.width)
        context = _with_first_block(model, lambda block: block.project_context(text, picture, sound, 1))
        return _Inputs(x, e0, context, video_table(grid, config.head_dim, device))

    def plain(block: Block) -> Tensor:
        x, e0, context, rope = inputs()
        return Block.forward(block, x, e0, context, rope, None)

    def compiled(block: Block) -> Tensor:
        x, e0, context, rope = inputs()
        return cast(Tensor, block(x, e0, context, rope, None))

    def fused(block: Block) -> Tensor:
        x, e0, context, rope = inputs()
        return fast_blocks.forward(block, Pending(x), e0, context, rope, attention).settle()

    question = Question(
        "blocks",
        f"{config.dim} wide, {'8-bit' if computes_in_8bit(model) else '16-bit'}, attention {attention.name_in_self}",
        plain=lambda: _with_first_block(model, plain),
        error=relative_error,
        plain_way="plain",
    )
    forms = {"fused": fused, "compiled": compiled, "plain": plain}
    ways = {name: Way(partial(_with_first_block, model, form), _LIMIT) for name, form in forms.items()}
    return question, ways


@torch.no_grad()
def _with_first_block(model: InfiniteTalkTransformer, compute: Callable[[Block], T]) -> T:
    """The result of `compute` on block 0. If its weights wait in host memory, the runner copies them to the GPU."""
    for block in model.runner:
        return compute(block)
    raise AssertionError("a transformer has blocks")
