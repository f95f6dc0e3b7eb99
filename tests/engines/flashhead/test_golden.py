"""The numbers of the public reference with tiny random weights: transformer, VAEs, sound, crop, and whole loops."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from flash_golden import FLASHHEAD, equal, meets, within
from flashhead_kit import (
    NEW,
    STREAM_FRAMES,
    WINDOW,
    DrawingLtxVae,
    embed,
    golden_ltx_vae,
    load_exact,
    n_windows,
    pad_once,
    sound_encoder,
    stream_buffers,
    transformer,
    wan_vae,
    windowed,
)
from lipsync_server.engines.flashhead.loading.transformer_files import UNUSED, official_shapes
from lipsync_server.engines.flashhead.model.config import LITE, HeadConfig
from lipsync_server.engines.flashhead.video.face_crop import reference_crop, reference_cut
from lipsync_server.engines.flashhead.video.window_loop import LoopSettings, WindowLoop, encode_picture
from lipsync_server.models import ltx_vae
from lipsync_server.models.layers.embeddings import patchify
from lipsync_server.models.pictures import fit_picture, to_tensor, to_uint8
from lipsync_server.models.wan_vae import vae as wan
from lipsync_server.random_models import flashhead as random_flashhead
from sampled import differences, known
from torch import Tensor

VARIANTS = ("pro", "lite")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_transformer_computes_the_references_numbers(variant: str) -> None:
    case = FLASHHEAD.tensors(f"A_dit_{variant}/case.safetensors")
    model = transformer(variant)
    seen: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
    sound = model.hear(case["in.audio"][0])
    output = model(case["in.x"][0], case["in.y"][0], case["in.t"], sound)
    e, e0 = model.embed_time(case["in.t"])
    patches = model.embed_patches(torch.cat([case["in.x"][0], case["in.y"][0]]))
    T, rows, columns = case["out.patch_embedding"].shape[2:]
    rope = model.rope((T, rows, columns))
    found = {
        "patch_embedding": (patches, patchify(case["out.patch_embedding"][0], (1, 1, 1))),
        "e": (e, case["out.e"]),
        "e0": (e0.flatten(1), case["out.e0"]),
        "rope cos": (rope.cos, case["rope.cos"]),
        "rope sin": (rope.sin, case["rope.sin"]),
        "audio_proj": (seen["audio_proj"], case["out.audio_proj"]),
        "head": (seen["head"], case["out.head"][0]),
        "output": (output, case["out.output"][0]),
    }
    for part in ("norm1", "norm2", "norm3", "ffn", "self_attn", "audio_cross_attn", "self_attn.norm_q"):
        if f"out.block0.{part}" in case:
            ours = seen[f"blocks.0.{part.replace('audio_cross_attn', 'cross_attn')}"]
            expected = case[f"out.block0.{part}"]
            if part in ("norm1", "norm2"):
                continue
            found[f"block 0 {part}"] = (ours.reshape(expected.shape), expected)
    for index in range(2):
        found[f"block {index}"] = (seen[f"blocks.{index}"], case[f"out.block{index}.out"][0])
    for name, (made, expected) in found.items():
        limit = 1e-5 if name in ("e", "e0", "rope cos", "rope sin") else 1e-4
        meets(f"A {variant} {name}", made, expected, limit)


def test_the_time_is_embedded_and_rounded_as_published() -> None:
    case = FLASHHEAD.tensors("A_dit_pro/time.safetensors")
    model = transformer("pro")
    meets("A pro t as bfloat16", case["t"].bfloat16().float(), case["t_as_bfloat16"], 0)
    for index, t in enumerate(case["t"]):
        e, e0 = model.embed_time(t[None])
        meets(f"A pro e at {float(t):.1f}", e[0], case["e"][index], 1e-5)
        meets(f"A pro e0 at {float(t):.1f}", e0.flatten(), case["e0"][index], 1e-5)
    inputs = FLASHHEAD.tensors("A_dit_pro/case.safetensors")
    sound = model.hear(inputs["in.audio"][0])
    ours = model(inputs["in.x"][0], inputs["in.y"][0], torch.tensor([832.0]), sound)
    meets("A pro output at 832", ours, case["output_at_832"][0], 1e-4)


@pytest.mark.parametrize(("variant", "config"), [("pro", HeadConfig()), ("lite", LITE)])
def test_the_official_names_and_shapes_are_the_models_with_nothing_left_over(variant: str, config: HeadConfig) -> None:
    official = {name: tuple(entry[0]) for name, entry in FLASHHEAD.json(f"K_contract/model_{variant}.json.gz").items()}
    used = {name: shape for name, shape in official.items() if not name.startswith(UNUSED)}
    equal(f"K {variant} names and shapes", official_shapes(config), used)
    equal(f"K {variant} random files", random_flashhead.published_shapes(config), official)


def test_the_official_names_of_both_vaes_are_the_models() -> None:
    ltx = {name: tuple(e["shape"]) for name, e in FLASHHEAD.json("K_contract/vae_ltx.json.gz").items()}
    ours = ltx_vae.build(random_flashhead.FULL.ltx).state_dict()
    equal("K LTX VAE", {name: tuple(t.shape) for name, t in ours.items()}, ltx)
    official = set(FLASHHEAD.json("K_contract/vae_wan.json.gz"))
    equal("K Wan VAE", {wan.official_name(name) for name in wan.build().state_dict()}, official)


def test_the_wan_vae_computes_the_references_numbers_of_a_still_picture() -> None:
    case = FLASHHEAD.tensors("E_vae_wan/repeated_picture.safetensors")
    ours = encode_picture(wan_vae(), case["picture"], WINDOW)
    meets("E Wan picture repeated", ours, case["latent_of_33_repeats"], 1e-4)


def test_the_ltx_vae_computes_the_references_numbers() -> None:
    case = FLASHHEAD.tensors("E_vae_ltx/vae_cases.safetensors")
    vae = golden_ltx_vae()
    meets("E LTX sample", vae.encode(case["video"], case["draw"]), case["latent"], 1e-4)
    mean = (case["moments.mean"] - vae._mean) / vae._std
    meets("E LTX mean", vae.encode(case["video"]), mean, 1e-4)
    decoded = next(vae.decode(case["z"]))
    meets("E LTX decoded", decoded[:, ::4], case["z_decoded_every_4th"], 2e-4)
    alone = next(vae.decode(case["z"][:, :1]))
    meets("E LTX first frame alone", alone, case["z_first_frame_alone_decoded"], 2e-4)


def test_the_face_crop_equals_the_references_to_the_pixel() -> None:
    geometry = FLASHHEAD.json("G_facecrop/geometry.json")
    ours = []
    for case in geometry:
        width, height = case["image_w_h"]
        x1, y1, x2, y2 = case["relative_box"]
        box = (x1 * width, y1 * height, x2 * width, y2 * height)
        ours.append(list(reference_crop(box, (height, width), case["face_ratio"])))
    equal(f"G {len(geometry)} crops", ours, [case["crop"] for case in geometry])
    cases = load_exact("G_facecrop/cases.safetensors")
    for index in range(3):
        source = cases[f"{index}.source"].numpy()
        height, width = source.shape[:2]
        x1, y1, x2, y2 = cases[f"{index}.box"].tolist()
        crop = reference_crop((x1 * width, y1 * height, x2 * width, y2 * height), (height, width))
        cut = torch.from_numpy(reference_cut(source, crop, 64).copy()).float()
        meets(f"G cut {index}", cut, cases[f"{index}.result_64"].float(), 0)


def test_the_references_windows_are_reproduced() -> None:
    found: dict[str, tuple[list[object], list[object]]] = {}
    for case in FLASHHEAD.json("C_schedule/schedule.json"):
        variant, mode, n = case["variant"], case["mode"], case["samples"]
        new, count = NEW[variant], n_windows(n, variant, mode)
        frames = count * new if mode == "stream" else (count and WINDOW + (count - 1) * new)
        ours = {"chunks": count, "frames": frames, "audio_frames_25fps": n * 25 // 16_000}
        if mode == "once":
            ours["padded_samples"] = pad_once(n, variant)
        made, expected = found.setdefault(f"C {variant} {mode}", ([], []))
        made.append(ours)
        expected.append({key: case[key] for key in ours})
    for name, (made, expected) in found.items():
        equal(f"{name}, {len(made)} lengths", made, expected)


def centres_of(loop: dict[str, Tensor], variant: str, mode: str, n_chunks: int) -> list[Tensor]:
    """The windowed sound of each window, made by our encoder from the reference's recording, and checked."""
    if "waveform" not in loop:  # The committed part of one variant: the other judges the encoder.
        return [windowed(loop["audio_all"], index * NEW[variant], len(loop["audio_all"])) for index in range(n_chunks)]
    encoder, speech = sound_encoder(), loop["waveform"].numpy()
    if mode == "once":
        whole = embed(encoder, np.pad(speech, (0, pad_once(len(speech), variant) - len(speech))))
        meets(f"D {variant} once", whole, loop["audio_all"], 1e-4)
        count = n_windows(len(speech), variant, "once")
        return [windowed(whole, index * NEW[variant], len(whole)) for index in range(count)]
    found = []
    for index, buffer in enumerate(stream_buffers(speech, variant)):
        whole = embed(encoder, buffer)
        assert len(whole) == STREAM_FRAMES
        window = windowed(whole, STREAM_FRAMES - WINDOW, STREAM_FRAMES)
        if f"chunk{index}.audio_centres" in loop:
            meets(f"D {variant} stream {index}", window[:, 2], loop[f"chunk{index}.audio_centres"], 1e-4)
        found.append(window)
    return found


def whole_sound(once: dict[str, Tensor], variant: str) -> Tensor:
    """The sound of the whole recording; by our encoder where a part of the reference's numbers is committed."""
    if "waveform" not in once or known(once["audio_all"]).all():
        return once["audio_all"]
    speech = once["waveform"].numpy()
    return embed(sound_encoder(), np.pad(speech, (0, pad_once(len(speech), variant) - len(speech))))


LOOPS = [
    (variant, mode)
    for variant in VARIANTS
    for mode in FLASHHEAD.present(f"B_sampler_{variant}/loop_{{}}.safetensors", ["stream", "once", "two_steps"])
]


@pytest.mark.parametrize(("variant", "mode"), LOOPS)
def test_a_whole_run_replayed_from_the_stored_draws_meets_the_reference(variant: str, mode: str) -> None:
    loop = load_exact(f"B_sampler_{variant}/loop_{mode}.safetensors")
    once = load_exact(f"B_sampler_{variant}/loop_once.safetensors")
    settings = FLASHHEAD.json(f"B_sampler_{variant}/loops.json")[mode]
    vae = wan_vae() if variant == "pro" else golden_ltx_vae()
    if isinstance(vae, DrawingLtxVae):
        vae.draws = iter([loop[name] for name in sorted(n for n in loop if n.startswith("vae_draw"))])
    source = loop.get("source_image", once["source_image"])
    height, width = once["cond_pixels"].shape[-2:]
    picture = to_tensor(fit_picture(source.numpy(), (height, width)))
    if "cond_pixels" in loop:
        meets(f"B {variant} {mode} picture", picture[:, None], loop["cond_pixels"], 0)
    condition = encode_picture(vae, picture, WINDOW)
    if "ref_latent" in loop:
        meets(f"B {variant} {mode} condition", condition, loop["ref_latent"], 5e-4)
    draws: Iterator[Tensor] = iter(())
    model = transformer(variant)
    steps: list[tuple[Tensor, Tensor]] = []
    model.register_forward_hook(lambda _, given, out: steps.append((given[0].clone(), out)))
    plain = LoopSettings(settings["steps"], settings["shift"], settings["colour"], rounds_time=False)
    run = WindowLoop(model, vae, plain, picture=picture, condition=condition, draw=lambda shape: next(draws))
    if mode == "two_steps":
        whole = whole_sound(once, variant)
        first = windowed(whole, 0, len(whole))
        sound = [first.roll(-index, dims=0) for index in range(settings["chunks"])]
    else:
        sound = centres_of(loop, variant, mode, settings["chunks"])
    known, kept = None, []
    for index in range(settings["chunks"]):
        here, chunk = f"B {variant} {mode} {index}", f"chunk{index}"
        draws = iter([loop[f"{chunk}.noise{step}"] for step in range(settings["steps"] + 1)])
        steps.clear()
        clean = run.denoise(sound[index], known)
        for step, (latent, velocity) in enumerate(steps):
            for name, ours in (("latent", latent), ("velocity", velocity)):
                if f"{chunk}.step{step}.{name}" in loop:
                    meets(f"{here} step {step} {name}", ours, loop[f"{chunk}.step{step}.{name}"], 5e-4)
        meets(f"{here} x0", clean, loop[f"{chunk}.x0"], 5e-4)
        corrected = torch.cat(list(run.decode(clean)), dim=1)
        for stride in (4, 16):
            if f"{chunk}.colour_corrected_every_{stride}th" in loop:
                difference = differences(corrected[:, ::stride], loop[f"{chunk}.colour_corrected_every_{stride}th"])
                within(f"{here} colour-corrected (mean)", float(difference.mean()), 1e-4)
                within(f"{here} colour-corrected (share above 1e-3)", float((difference > 1e-3).float().mean()), 1e-3)
        known = run.take_over(corrected[:, NEW[variant] - WINDOW :])
        meets(f"{here} handed on", known, loop[f"{chunk}.motion_latent_next"], 1e-3)
        whole_first = mode == "once" and index == 0
        kept.append(to_uint8(corrected if whole_first else corrected[:, WINDOW - NEW[variant] :]))
    frames = torch.cat(kept)
    for name, every in (("2nd", 2), ("4th", 4), ("8th", 8)):
        if f"frames_u8_every_{name}" in loop:
            difference = differences(frames[::every], loop[f"frames_u8_every_{name}"])
            within(f"B {variant} {mode} frames (levels)", float(difference.max()), 1)
            within(f"B {variant} {mode} frames (share that differs)", float((difference > 0).float().mean()), 5e-3)
