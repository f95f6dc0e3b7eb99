"""The rounding error of each fast form of the transformer, against the plain float32 path.

The 14B transformer in float32 is larger than a card's memory, so the float32 path computes block by block. With random
weights the numbers show the size of the rounding errors, not their visibility. Times nothing.
"""

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from lipsync_server.bench.clock import relative_error
from lipsync_server.bench.infinitetalk.bench import EIGHT_BIT, Bench
from lipsync_server.bench.record import Numbers, say
from lipsync_server.engines.infinitetalk.loading.transformer_files import set_activations
from lipsync_server.engines.infinitetalk.model.blocks import Block
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.engines.infinitetalk.model.transformer import EmbeddedCondition, InfiniteTalkTransformer
from lipsync_server.models.layers.embeddings import unpatchify
from lipsync_server.models.layers.linear_8bit import replace_linears
from lipsync_server.models.sampling.sampler import euler_step, timesteps
from lipsync_server.random_models.infinitetalk_transformer import random_transformer

_LATENTS = 3
_STEPS = 4
_SHIFT = 2.0


def error_table(bench: Bench, found: Numbers) -> None:
    """Relative L2 error |form - float32| / |float32| of each form, after one forward and after four Euler steps."""
    model = random_transformer(bench.config, device=bench.device, attention="auto")
    inputs = _inputs(bench.config, bench.device, bench.scale.picture)
    found |= {"latent_frames": _LATENTS, "steps": _STEPS}
    with torch.inference_mode():
        exact = _PlainFloat32(model)
        wanted = _trajectory(exact, inputs, exact.embed_condition(inputs))

        def compare(form: str, attention: str, density: float = 1.0) -> None:
            def measure(part: Numbers) -> None:
                model.set_attention(attention, density)
                got = _trajectory(model, inputs, _condition(model, inputs))
                part["one_forward"], part["four_steps"] = (
                    relative_error(got[0], wanted[0]),
                    relative_error(got[1], wanted[1]),
                )
                say(f"{form}: {part}")

            bench.part(found, form, measure)

        plain = "cudnn" if bench.cuda else "auto"
        compare("bf16", plain)
        if bench.cuda:
            model.use_fast_blocks()
            compare("bf16_fused", "bf16")
            for form, (attention, density) in EIGHT_BIT.items():
                compare(f"bf16_{form}", attention, density)
            model.fast_blocks = False
        replace_linears(model, lambda name, _: "fp8" if name.startswith("blocks.") else None)
        compare("fp8_weights_only", plain)
        set_activations(model, bench.device)
        if bench.cuda:
            compare("fp8", plain)
            model.use_fast_blocks()
            compare("fp8_fused", plain)
            compare("fp8_fused_bf16", "bf16")
            for form, (attention, density) in EIGHT_BIT.items():
                compare(f"fp8_fused_{form}", attention, density)
        if bench.cuda:
            # The bf16 weights are rounded to fp8 by now. The same random weights are made again.
            model.close()
            model = random_transformer(bench.config, device=bench.device, attention="auto", quant="int8")
            model.use_fast_blocks()
            compare("int8_fused_8bit", "fp8")
    model.close()


def _inputs(config: TransformerConfig, device: torch.device, size: tuple[int, int]) -> dict[str, Tensor]:
    """Random float32 inputs of the transformer. size: height and width of the picture in pixels."""
    g = torch.Generator(device).manual_seed(2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, generator=g)

    n_video = (_LATENTS - 1) * config.vae_scale + 1
    h, w = size[0] // 8, size[1] // 8
    return {
        "text": normal(min(300, config.text_len), config.text_dim).bfloat16().float(),
        "image_tokens": normal(257, config.image_dim).bfloat16().float(),
        "audio": normal(1, n_video, config.audio_window, config.audio_blocks, config.audio_channels).bfloat16().float(),
        "noise": normal(config.out_dim, _LATENTS, h, w),
        "y": normal(config.in_dim - config.out_dim, _LATENTS, h, w),
    }


def _condition(model: InfiniteTalkTransformer, inputs: dict[str, Tensor]) -> EmbeddedCondition:
    return model.embed_condition(text=inputs["text"], image_tokens=inputs["image_tokens"], audio=inputs["audio"])


Forward = Callable[[Tensor, Tensor, EmbeddedCondition], Tensor]


def _trajectory(forward: Forward, inputs: dict[str, Tensor], conditioning: EmbeddedCondition) -> tuple[Tensor, Tensor]:
    """The first velocity, and the latent after all steps."""
    latent = inputs["noise"]
    levels = timesteps(_STEPS, _SHIFT).to(latent)
    first: Tensor | None = None
    for step in range(_STEPS):
        velocity = forward(torch.cat((latent, inputs["y"])), levels[step : step + 1], conditioning)
        first = velocity if first is None else first
        latent = euler_step(latent, velocity, levels[step], levels[step + 1])
    assert first is not None
    return first, latent


class _PlainFloat32:
    """A bf16 model's weights computed in float32, one block at a time."""

    def __init__(self, model: InfiniteTalkTransformer) -> None:
        self._model = model
        rest = copy.copy(model)
        rest._modules = {
            name: module if name == "blocks" else copy.deepcopy(module).float()
            for name, module in model._modules.items()
            if module is not None
        }
        self._rest = rest

    def embed_condition(self, inputs: dict[str, Tensor]) -> EmbeddedCondition:
        """Embed text, picture and sound in float32."""
        return _condition(self._rest, inputs)

    def __call__(self, latent: Tensor, timestep: Tensor, conditioning: EmbeddedCondition) -> Tensor:
        rest, config = self._rest, self._model.config
        grid = (latent.shape[1], latent.shape[2] // config.patch_size[1], latent.shape[3] // config.patch_size[2])
        x = rest.embed_patches(latent)
        e, e0 = rest.embed_time(timestep)
        rope = rest.rope(grid)
        for original in self._model.blocks:
            block = copy.deepcopy(cast(Block, original)).float()
            _plain_attention(block)
            context = block.project_context(conditioning.text.tokens, conditioning.image.tokens, conditioning.audio, 1)
            x = block(x, e0, context, rope, None)
        return unpatchify(rest.head(x, e), grid, config.patch_size)


def _plain_attention(block: Block) -> None:
    """Let all attentions of a block use torch's own function."""
    from lipsync_server.models.kernels.attention import sdpa

    for part in (block.self_attn, block.cross_attn, block.audio_cross_attn):
        part.attend = sdpa
