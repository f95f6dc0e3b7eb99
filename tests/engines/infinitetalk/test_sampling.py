"""The denoising loop: noise levels, guidance and whole golden runs through our transformer and VAE."""

import struct
from typing import Any, cast

import numpy as np
import pytest
import torch
from infinitetalk_golden import CPU, FILES, equal, error, golden, golden_json, golden_path, meets, within
from infinitetalk_reference import reference_box, reference_schedule
from lipsync_server.engines.infinitetalk.loading.transformer_files import fill_transformer
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.engines.infinitetalk.model.teacache import TeaCache
from lipsync_server.engines.infinitetalk.video.conditions import ConditionMaker, still_picture
from lipsync_server.engines.infinitetalk.video.guidance import Guidance, GuidanceScales, ProjectedGuidance
from lipsync_server.engines.infinitetalk.video.window_loop import LoopSettings, Prompts, WindowLoop
from lipsync_server.models.encoders.speech import SpeechEmbedding
from lipsync_server.models.sampling.sampler import euler_step, pin, timesteps
from lipsync_server.models.sampling.windows import Schedule
from lipsync_server.models.wan_vae.vae import WanVae

_LOOPS = ("cfg3", "cfg2", "apg3", "apg2", "two_person_cfg3", "two_person_bbox_cfg2")


@pytest.mark.parametrize("case", golden_json("B_sampler/timesteps.json"), ids=lambda c: f"{c['steps']}-{c['shift']}")
def test_noise_levels_equal_the_references_to_the_last_bit(case: dict[str, Any]) -> None:
    exact = [struct.unpack("<f", bytes.fromhex(digits))[0] for digits in case["timesteps_hex_float32"]]
    meets(
        f"B timesteps {case['steps']} steps, shift {case['shift']}",
        timesteps(case["steps"], case["shift"]),
        torch.tensor(exact),
        0,
    )


def test_one_step_goes_from_noise_to_clean() -> None:
    assert timesteps(1, 7.0).tolist() == [1000.0, 0.0]
    clean, noise = torch.rand(16, 2, 4, 4), torch.randn(16, 2, 4, 4)
    levels = timesteps(1, 7.0)
    assert error(euler_step(noise, noise - clean, levels[0], levels[1]), clean) < 1e-6


def test_pinning_puts_the_known_frames_in_front() -> None:
    latent, known = torch.zeros(16, 5, 2, 2), torch.ones(16, 3, 2, 2)
    assert pin(latent, known)[:, :, 0, 0].sum(0).tolist() == [16, 16, 16, 0, 0]


@pytest.mark.parametrize(
    ("text", "audio", "passes"),
    [(5.0, 4.0, ("cond", "drop_text", "uncond")), (1.0, 2.0, ("cond", "drop_audio")), (1.0, 1.0, ("cond",))],
)
def test_no_pass_is_made_that_changes_nothing(text: float, audio: float, passes: tuple[str, ...]) -> None:
    assert GuidanceScales(text, audio).passes == passes


def test_two_passes_at_scale_one_are_the_single_pass() -> None:
    cond, drop = torch.rand(4), torch.rand(4)
    two = Guidance(GuidanceScales(1.0, 1.0)).velocity({"cond": cond, "drop_audio": drop})
    assert error(two, Guidance(GuidanceScales(1.0, 1.0)).velocity({"cond": cond})) < 1e-6


def test_guidance_is_reused_between_its_passes() -> None:
    scales = GuidanceScales(1.0, 2.0, interval=2)
    assert [len(scales.passes_at(step, 8)) for step in range(8)] == [2, 1, 2, 1, 2, 1, 2, 2]
    guidance = Guidance(scales)
    first = guidance.velocity({"cond": torch.ones(3), "drop_audio": torch.zeros(3)})
    assert first.tolist() == [2, 2, 2]
    assert guidance.velocity({"cond": torch.full((3,), 5.0)}).tolist() == [6, 6, 6]


_APG = {"default": (-0.75, 55.0), "small_norm": (-0.75, 55.0), "momentum0": (0.0, 20.0), "nothreshold": (-0.5, 0.0)}


@pytest.mark.parametrize("mode", FILES.cases("B_sampler/apg_unit.safetensors"))
def test_projected_guidance_is_golden(mode: str) -> None:
    case = golden("B_sampler/apg_unit.safetensors")
    guidance = ProjectedGuidance(*_APG[mode])
    for index in range(5):
        update = guidance.update(case[f"{mode}.{index}.diff"], case[f"{mode}.{index}.pred_cond"])
        assert guidance.average is not None
        meets(f"B apg {mode} {index} average", guidance.average, case[f"{mode}.{index}.running_average"], 2e-5)
        meets(f"B apg {mode} {index} update", update, case[f"{mode}.{index}.update"], 2e-5)


class _Stored:
    """Golden audio embeddings in the place of a speech embedding."""

    def __init__(self, frames: torch.Tensor) -> None:
        self.frames = frames

    def gather(self, indices: np.ndarray) -> torch.Tensor:
        return self.frames[torch.from_numpy(indices)]


def _settings(name: str) -> dict[str, Any]:
    loops: dict[str, dict[str, Any]] = golden_json("B_sampler/loops.json")
    if name == "teacache":
        return {**loops["cfg3"], "seed": 7, "sampling_steps": 10}
    return loops[name]


def _conditions_and_loop(name: str, case: dict[str, Any]) -> tuple[ConditionMaker, WindowLoop, Schedule]:
    """The golden loop `name` with our parts, from the golden weights and inputs."""
    common = golden("B_sampler/loop_common.safetensors")
    config = TransformerConfig.from_json(golden_path("A_dit/config.json"))
    transformer = fill_transformer(golden("A_dit/dit_tiny.safetensors").items(), config, dtype=torch.float32)
    vae = WanVae.load(golden_path("E_vae/vae_tiny.safetensors"), device=CPU)
    n_people = case["human_num"]
    plan = reference_schedule(
        (case["audio_frames"],) * n_people,
        window_frames=case["frame_num"],
        motion_frames=case["motion_frame"],
        max_frames=17 if name == "teacache" else 1000,
    )
    boxes = None
    if case["bbox"]:
        first, second = (reference_box(tuple(box)) for box in case["bbox"].values())
        boxes = first, second
    conditions = ConditionMaker(
        still_picture(common["source_image"].numpy(), boxes),
        tuple(cast(SpeechEmbedding, _Stored(common[f"audio_full_person{person + 1}"])) for person in range(n_people)),
        plan,
        size=tuple(case["bucket_h_w"]),
        vae=vae,
        tokens_of=lambda picture: common["clip_fea"][0],
    )
    loop = WindowLoop(
        transformer,
        vae,
        Prompts(common["context"], common["context_null"]),
        LoopSettings(
            case["sampling_steps"],
            case["shift"],
            GuidanceScales(case["text_guide_scale"], case["audio_guide_scale"]),
            apg=(case["apg_momentum"], case["apg_norm_threshold"]) if case["use_apg"] else None,
        ),
        colours=conditions.colours(),
        generator=torch.Generator().manual_seed(case["seed"]),
        cache=TeaCache("480p", 10, 200_000.0) if name == "teacache" else None,
    )
    return conditions, loop, plan


@pytest.mark.parametrize("name", [*FILES.present("B_sampler/loop_{}.safetensors", _LOOPS), "teacache"])
def test_whole_loops_meet_every_step_latents_pixels_and_random_stream(name: str) -> None:
    file = "I_teacache/loop_teacache.safetensors" if name == "teacache" else f"B_sampler/loop_{name}.safetensors"
    reference, case = golden(file), _settings(name)
    label = f"{'I' if name == 'teacache' else 'B'} loop {name}"
    conditions, loop, plan = _conditions_and_loop(name, case)
    passes = GuidanceScales(case["text_guide_scale"], case["audio_guide_scale"]).passes
    forwards: list[tuple[torch.Tensor, torch.Tensor]] = []
    loop.transformer.register_forward_hook(lambda _, given, out: forwards.append((given[0][:16].clone(), out)))
    known, kept = None, []
    for window in plan.windows:
        condition, chunk, here = conditions.at(window), f"chunk{window.index}", f"{label} window {window.index}"
        if window.index == 0:
            meets(f"{label} y", condition.y, reference["chunk0.y"][0], 1e-4)
            if condition.masks is not None:
                meets(f"{label} masks", condition.masks, reference["chunk0.ref_target_masks"], 0)
            if "chunk0.cond_pixels" in reference:
                meets(f"{label} condition pixels", condition.picture[:, None], reference["chunk0.cond_pixels"], 0)
        forwards.clear()
        latents = loop.denoise(window, condition, known, lambda step: None)
        assert len(forwards) == case["sampling_steps"] * len(passes)
        steps = [(f"{chunk}.step{i // len(passes)}", passes[i % len(passes)], *f) for i, f in enumerate(forwards)]
        latent_errors = [error(given, reference[f"{step}.model_latent"]) for step, _, given, _ in steps]
        within(f"{here} latents of all steps", max(latent_errors), 5e-4)
        for which in passes:
            errors = [error(out, reference[f"{step}.pred_{which}"]) for step, made, _, out in steps if made == which]
            within(f"{here} predictions {which}", max(errors), 5e-4)
        meets(f"{here} x0", latents, reference[f"{chunk}.x0"], 5e-4)
        frames = torch.cat(list(loop.decode(latents)), 1)
        if f"{chunk}.decoded" in reference:
            decoded = torch.cat(list(loop.vae.decode(latents)), 1)
            meets(f"{here} decoded", decoded, reference[f"{chunk}.decoded"], 2e-3)
            meets(f"{here} colours corrected", frames, reference[f"{chunk}.color_corrected"], 2e-3)
        kept.append(frames[:, window.keep_first : window.keep_stop])
        known = loop.take_over(frames[:, -case["motion_frame"] :])
        following = f"chunk{window.index + 1}.motion_latent"
        if following in reference:
            meets(f"{label} motion latents", known, reference[following], 5e-4)
    if "final_video" in reference:
        meets(f"{label} pixels", torch.cat(kept, 1), reference["final_video"], 2e-3)
    if loop.cache is not None:
        computed = golden_json("I_teacache/loop_teacache.json")["computed_per_forward"]
        equal(f"{label} decisions", [int(decision.computed) for decision in loop.cache.log], computed)
