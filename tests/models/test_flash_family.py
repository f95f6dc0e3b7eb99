"""The parts that FlashTalk and FlashHead share: noise levels, re-noising, whole windows, colours and pictures."""

import struct

import pytest
import torch
from flash_golden import FLASHTALK, meets, within
from hypothesis import given
from hypothesis import strategies as st
from lipsync_server.errors import InvalidInput
from lipsync_server.models.pictures import fit_picture
from lipsync_server.models.sampling.colour import FLASH, ColourMatch
from lipsync_server.models.sampling.renoising import denoise_renoising, distilled_timesteps, rounded_to_bfloat16
from lipsync_server.models.sampling.windows import schedule


@pytest.mark.parametrize("case", sorted(FLASHTALK.json("B_sampler/timesteps.json")))
def test_noise_levels_equal_the_references(case: str) -> None:
    steps, shift = (part.lstrip("stephif") for part in case.split("_"))
    expected = FLASHTALK.json("B_sampler/timesteps.json")[case]
    digits = expected["hex"] if isinstance(expected, dict) and "hex" in expected else expected
    exact = [struct.unpack("<f", bytes.fromhex(d))[0] for d in next(v for v in _lists(digits) if _is_hex(v))]
    ours = distilled_timesteps(int(steps), float(shift))
    ulp = float((ours - torch.tensor(exact)).abs().div(torch.tensor(exact).abs().clamp(min=1) * 2**-23).max())
    within(f"FT timesteps {case} (ulp)", ulp, 1.0)


def _lists(value: object) -> list[list[str]]:
    if isinstance(value, dict):
        return [found for inner in value.values() for found in _lists(inner)]
    return [value] if isinstance(value, list) else []


def _is_hex(values: list[str]) -> bool:
    return all(isinstance(value, str) and len(value) == 8 for value in values)


def test_a_run_in_bfloat16_uses_the_published_levels() -> None:
    t, sigma = rounded_to_bfloat16(distilled_timesteps(4))
    assert t.tolist() == [1000, 936, 832, 624, 0]
    assert sigma.tolist() == [1, 0.9375, 0.83203125, 0.625, 0]


def test_re_noising_finds_the_clean_latent_of_a_perfect_model_and_keeps_the_known_frames() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, known = torch.randn(4, 3, 2, 2, generator=generator), torch.ones(4, 1, 2, 2)
    drawn = []

    def draw() -> torch.Tensor:
        drawn.append(torch.randn(clean.shape, generator=generator))
        return drawn[-1]

    levels = distilled_timesteps(4)

    def perfect(latent: torch.Tensor, t: torch.Tensor, step: int) -> torch.Tensor:
        assert torch.equal(latent[:, :1], known)
        assert float(t) == float(levels[step])
        return (latent - clean) / (t / 1000)

    found = denoise_renoising(perfect, draw, known, levels)
    assert len(drawn) == 5
    assert torch.equal(found[:, :1], known)
    assert float((found - clean)[:, 1:].abs().max()) < 1e-5


@given(n_frames=st.integers(1, 2000), stride=st.sampled_from([4, 8]))
def test_whole_windows_cover_every_frame_once_and_hear_to_their_end(n_frames: int, stride: int) -> None:
    motion = stride + 1
    plan = schedule(n_frames, window_frames=33, motion_frames=motion, stride=stride, whole_windows=True)
    kept = [w.start + i for w in plan.windows for i in range(w.keep_first, w.keep_stop)]
    assert kept == list(range(n_frames))
    assert {w.n_frames for w in plan.windows} == {33}
    assert {w.n_latents for w in plan.windows} == {32 // stride + 1}
    assert [w.start for w in plan.windows] == [i * (33 - motion) for i in range(len(plan.windows))]
    assert plan.heard == (plan.windows[-1].start + 33,)


def test_a_motion_that_does_not_fill_latents_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match=r"motion_frames must be 8n\+1"):
        schedule(50, window_frames=33, motion_frames=5, stride=8)


@pytest.mark.parametrize(
    ("source", "result", "strength"),
    [
        ("source", "out_strength_1.0", 1.0),
        ("source", "out_strength_0.4", 0.4),
        ("source_outside_range", "out_outside_range_strength_1.0", 1.0),
    ],
)
def test_colours_equal_the_references(source: str, result: str, strength: float) -> None:
    case = FLASHTALK.tensors("F_colour/colour.safetensors")
    ours = ColourMatch(case["reference"][:, 0], strength, FLASH)(case[source])
    meets(f"FT F colour {result}", ours, case[result], 2e-4)


@pytest.mark.parametrize("index", range(5))
def test_pictures_are_cropped_as_the_reference_does(index: int) -> None:
    case = FLASHTALK.tensors("H_images/fit.safetensors")
    expected = case[f"{index}.cropped"]
    ours = torch.from_numpy(fit_picture(case[f"{index}.source"].numpy(), (expected.shape[1], expected.shape[2])).copy())
    meets(f"FT H picture {index}", ours.permute(2, 0, 1), expected.float(), 0)
