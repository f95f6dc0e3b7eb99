"""The golden cases of the transformer, and a small configuration for tests that need no golden data."""

import torch
from infinitetalk_golden import FILES, golden, golden_path
from lipsync_server.engines.infinitetalk.loading.transformer_files import fill_transformer
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.engines.infinitetalk.model.transformer import InfiniteTalkTransformer
from safetensors.torch import load_file

SMALL = FILES.committed / "transformer"

TINY = TransformerConfig(
    dim=64,
    ffn_dim=96,
    num_heads=4,
    num_layers=3,
    freq_dim=16,
    text_dim=24,
    text_len=8,
    image_dim=32,
    audio_channels=8,
    intermediate_dim=16,
    output_dim=32,
    context_tokens=4,
)


def golden_config() -> TransformerConfig:
    return TransformerConfig.from_json(golden_path("A_dit/config.json"))


def golden_parameters() -> dict[str, torch.Tensor]:
    """The weights of the golden transformer, float32, by their official names."""
    return golden("A_dit/dit_tiny.safetensors")


def golden_model() -> InfiniteTalkTransformer:
    return fill_transformer(golden_parameters().items(), golden_config(), dtype=torch.float32)


def golden_case(shape: int, n_people: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A golden case as the file holds it, and the inputs of `run` in it."""
    case = load_file(golden_path(f"A_dit/case_shape{shape}_human{n_people}.safetensors"))
    inputs = load_file(golden_path(f"A_dit/inputs_shape{shape}.safetensors"))
    return case, {
        "text": case["in.context"].float(),
        "image_tokens": inputs["clip_fea"][0].float(),
        "audio": inputs["audio"][:n_people].float(),
        "masks": case["in.ref_target_masks"],
        "latent": torch.cat((inputs["latent"], inputs["y"][0])),
        "timestep": case["in.t"],
    }


CASES = [
    tuple(int(part) for part in case.split("_human"))
    for case in FILES.present(
        "A_dit/case_shape{}.safetensors", [f"{shape}_human{n}" for shape in (0, 1) for n in (1, 2)]
    )
]
"""(shape, number of people) of the golden cases that are here."""


def inputs_for(
    config: TransformerConfig, n_people: int = 1, frames: int = 3, size: tuple[int, int] = (4, 6), seed: int = 0
) -> dict[str, torch.Tensor]:
    """Random inputs of `condition` and `forward` for a configuration."""
    g = torch.Generator().manual_seed(seed)
    n_video = (frames - 1) * config.vae_scale + 1
    masks = torch.zeros(3, *size)
    masks[0, :, : size[1] // 3], masks[1, :, -(size[1] // 3) :] = 1, 1
    masks[2] = 1 - masks[0] - masks[1]
    return {
        "text": torch.randn(config.text_len - 2, config.text_dim, generator=g),
        "image_tokens": torch.randn(7, config.image_dim, generator=g),
        "audio": torch.randn(
            n_people, n_video, config.audio_window, config.audio_blocks, config.audio_channels, generator=g
        ),
        "masks": masks,
        "latent": torch.randn(config.in_dim, frames, *size, generator=g),
        "timestep": torch.tensor([731.0]),
    }


def run(model: InfiniteTalkTransformer, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """One forward from raw inputs."""
    given = {name: inputs[name] for name in ("text", "image_tokens", "audio", "masks") if name in inputs}
    out: torch.Tensor = model(inputs["latent"], inputs["timestep"], model.embed_condition(**given))
    return out
