"""FlashTalk as a profile of InfiniteTalk: golden numbers, its files, its windows, and its choice for a job."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_frames import frames_of
from flash_golden import FLASHTALK, equal, meets, within
from infinitetalk_kit import request_for, stopped_at
from lipsync_server.bench.render_context import RecordingContext
from lipsync_server.engines.base import Engine, RenderRequest, ResumePoint
from lipsync_server.engines.infinitetalk import flashtalk
from lipsync_server.engines.infinitetalk.engine import create
from lipsync_server.engines.infinitetalk.files.places import CONVERTED, FLASHTALK_FOLDER
from lipsync_server.engines.infinitetalk.files.transformers import choose_transformer, find_flashtalk
from lipsync_server.engines.infinitetalk.flashtalk import flashtalk_options, flashtalk_size, wants_flashtalk
from lipsync_server.engines.infinitetalk.info import describe
from lipsync_server.engines.infinitetalk.loading.convert import convert
from lipsync_server.engines.infinitetalk.loading.transformer_files import (
    fill_transformer,
    load_transformer,
    official_shapes,
)
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.engines.infinitetalk.model.transformer import InfiniteTalkTransformer
from lipsync_server.engines.infinitetalk.one_gpu import InfiniteTalkEngine
from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.engines.infinitetalk.video.conditions import WindowCondition
from lipsync_server.engines.infinitetalk.video.guidance import GuidanceScales
from lipsync_server.engines.infinitetalk.video.images import condition_mask
from lipsync_server.engines.infinitetalk.video.sizes import BUCKETS
from lipsync_server.engines.infinitetalk.video.window_loop import LoopSettings, Prompts, WindowLoop
from lipsync_server.errors import Cancelled, InvalidInput, WeightsError
from lipsync_server.models.encoders.speech import SpeechEmbedding, Track
from lipsync_server.models.encoders.wav2vec import Wav2Vec
from lipsync_server.models.pictures import fit_picture, to_tensor, to_uint8
from lipsync_server.models.sampling.windows import Window
from lipsync_server.models.wan_vae.vae import WanVae
from lipsync_server.quantization import EightBit
from lipsync_server.random_models import infinitetalk as random_models
from lipsync_server.settings import EngineSettings
from sampled import differences
from torch import Tensor

CPU = torch.device("cpu")


def golden_transformer() -> InfiniteTalkTransformer:
    config = TransformerConfig.from_json(FLASHTALK.path("A_dit/config.json"))
    return fill_transformer(FLASHTALK.tensors("A_dit/dit_tiny.safetensors").items(), config, dtype=torch.float32)


def golden_vae() -> WanVae:
    return WanVae.load(FLASHTALK.path("E_vae/vae_tiny.safetensors"), device=CPU)


def windowed(centres: Tensor, first: int, n: int) -> Tensor:
    at = np.clip(np.arange(first, first + n)[:, None] + np.arange(-2, 3), 0, len(centres) - 1)
    return centres[torch.from_numpy(at)]


def test_the_transformer_is_infinitetalks_and_meets_the_reference() -> None:
    case = FLASHTALK.tensors("A_dit/case.safetensors")
    model = golden_transformer()
    condition = model.embed_condition(
        text=case["in.context"], image_tokens=case["in.clip_fea"][0], audio=case["in.audio"]
    )
    blocks: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, out: blocks.append(out))
    output = model(torch.cat([case["in.latent"], case["in.y"][0]]), case["in.t"], condition)
    meets("FT A output", output, case["out.output"][0], 1e-4)
    for index, found in enumerate(blocks):
        meets(f"FT A block {index}", found, case[f"out.block{index}.out"][0], 1e-4)
    _, e0 = model.embed_time(case["in.t"])
    meets("FT A e0", e0.flatten(1), case["out.e0"], 1e-5)


def test_the_published_names_are_infinitetalks_with_nothing_missing_or_left_over() -> None:
    published = {
        name: tuple(entry[0] if isinstance(entry, list) else entry["shape"])
        for name, entry in FLASHTALK.json("K_contract/dit_flashtalk_14B.json.gz").items()
    }
    equal("FT K names and shapes", official_shapes(TransformerConfig()), published)


def test_the_vae_meets_the_reference() -> None:
    case, vae = FLASHTALK.tensors("E_vae/vae_cases.safetensors"), golden_vae()
    meets("FT E clip", vae.encode(case["clip.video"]), case["clip.latent"], 1e-4)
    meets("FT E decoded", torch.cat(list(vae.decode(case["z"])), 1), case["z_decoded"], 2e-4)


LOOPS = FLASHTALK.present("B_sampler/loop_{}.safetensors", ["two_steps", "five_steps", "stream", "once"])


@pytest.mark.parametrize("name", LOOPS)
def test_a_whole_run_from_its_seed_meets_the_reference(name: str) -> None:
    loop = FLASHTALK.tensors(f"B_sampler/loop_{name}.safetensors")
    common = FLASHTALK.tensors("B_sampler/common.safetensors")
    case = FLASHTALK.json("B_sampler/loops.json")[name]
    n_frames, motion, vae = case["frame_num"], case["motion_frames"], golden_vae()
    height, width = (side * 8 for side in loop["y"].shape[-2:])
    picture = to_tensor(fit_picture(common["source_image"].to(torch.uint8).numpy(), (height, width)))
    n_latents = (n_frames - 1) // 4 + 1
    latents = vae.encode_picture(picture, n_latents)
    y = torch.cat([condition_mask(n_latents, *latents.shape[2:]), latents])
    meets(f"FT B {name} y", y, loop["y"][0], 1e-4)
    model = golden_transformer()
    steps: list[tuple[Tensor, Tensor]] = []
    model.register_forward_hook(lambda _, given, out: steps.append((given[0][:16].clone(), out)))
    run = WindowLoop(
        model,
        vae,
        Prompts(common["context"], common["context"]),
        LoopSettings(case["steps"], case["shift"], GuidanceScales(1.0, 1.0, 1), case["colour"], motion, flashtalk=True),
        colours=picture,
        generator=torch.Generator().manual_seed(case["seed"]),
    )
    known, kept = None, []
    for index in range(case["chunks"]):
        here, chunk = f"FT B {name} {index}", f"chunk{index}"
        window = Window(index, 0, n_frames, motion, n_frames)
        condition = WindowCondition(picture, common["clip_fea"][0], y, sound_of(loop, name, index)[None], None)
        steps.clear()
        clean = run.denoise(window, condition, known, lambda step: None)
        for step, (latent, velocity) in enumerate(steps):
            meets(f"{here} step {step} latent", latent, loop[f"{chunk}.step{step}.latent"], 5e-4)
            meets(f"{here} step {step} velocity", velocity, loop[f"{chunk}.step{step}.velocity"], 5e-4)
        meets(f"{here} x0", clean, loop[f"{chunk}.x0"], 5e-4)
        corrected = torch.cat(list(run.decode(clean)), dim=1)
        if f"{chunk}.colour_corrected" in loop:
            difference = differences(corrected, loop[f"{chunk}.colour_corrected"])
            within(f"{here} colour-corrected (mean)", float(difference.mean()), 1e-4)
            within(f"{here} colour-corrected (largest)", float(difference.max()), 2e-2)
        known = run.take_over(corrected[:, -motion:])
        meets(f"{here} handed on", known, loop[f"{chunk}.motion_latent_next"], 1e-3)
        kept.append(to_uint8(corrected[:, motion:]))
    if "frames_u8" in loop:
        difference = differences(torch.cat(kept), loop["frames_u8"])
        within(f"FT B {name} frames (levels)", float(difference.max()), 1)
        within(f"FT B {name} frames (share that differs)", float((difference > 0).float().mean()), 1e-2)


def sound_of(loop: dict[str, Tensor], name: str, index: int) -> Tensor:
    """The sound of a window, (F, 5, 12, width); for stream by our encoder from the recording, checked."""
    if name == "once":
        return windowed(loop["audio_all"], 28 * index, 33)
    if name == "stream":
        # Eight seconds that end with the window's 17,920 samples; the last 33 of its 200 frames are heard.
        encoder = Wav2Vec.load(FLASHTALK.path("D_audio/wav2vec2_tiny"), device=CPU)
        speech = np.pad(loop["waveform"].numpy(), (128_000, 0))
        buffer = speech[: 128_000 + 17_920 * (index + 1)][-128_000:].copy()
        whole = SpeechEmbedding(encoder, Track(buffer, 128_000), 200).gather(np.arange(200))
        heard = windowed(whole, 167, 33)
        stored = loop.get(f"chunk{index}.audio_centres", heard[:, 2])
        meets(f"FT D stream {index}", heard[:, 2], stored, 1e-4)
        if index == 0:
            meets("FT D stream 0", heard, loop["chunk0.audio"], 1e-4)
        return heard
    whole = windowed(FLASHTALK.tensors("B_sampler/loop_once.safetensors")["audio_all"], 0, 33)
    n_frames = FLASHTALK.json("B_sampler/loops.json")[name]["frame_num"]
    return whole[3 * index : 3 * index + n_frames]


@pytest.fixture(scope="module")
def weights(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny files with FlashTalk's among them."""
    folder = tmp_path_factory.mktemp("flashtalk") / "weights"
    shutil.copytree(tiny_weights, folder)
    random_models.write_flashtalk(folder)
    return folder


@pytest.fixture(scope="module")
def engine(small_pictures: None, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    settings = EngineSettings(
        weights_dir=weights, data_dir=tmp_path_factory.mktemp("data"), device="cpu", preset="fast"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flashtalk, "OWN_SIZE", (96, 64))
        made = create(settings)
        made.load()
        yield made
        made.close()


def flash_request(n_frames: int, **options: object) -> RenderRequest:
    given = {"steps": 2, "preset": "fast", "seed": 3, **options}
    request = request_for(n_frames / 25)
    return replace(request, options=Options(**given))


@pytest.mark.parametrize("n_frames", [1, 33, 34, 61])
def test_a_video_has_exactly_the_sounds_frames(engine: InfiniteTalkEngine, tmp_path: Path, n_frames: int) -> None:
    context = RecordingContext(tmp_path)
    frames = frames_of(engine, flash_request(n_frames), context)
    assert len(frames) == n_frames
    assert any("FlashTalk" in words for words in context.warnings)


def test_a_job_that_was_killed_after_a_window_makes_the_same_video(engine: InfiniteTalkEngine, tmp_path: Path) -> None:
    context = RecordingContext(tmp_path)
    whole = frames_of(engine, flash_request(60), context)
    resumed = RecordingContext(tmp_path, resume_point=ResumePoint(33, context.saved[0]))
    np.testing.assert_array_equal(frames_of(engine, flash_request(60), resumed), whole[33:])


def test_a_cancelled_job_stops_at_the_next_step(engine: InfiniteTalkEngine, tmp_path: Path) -> None:
    context = RecordingContext(tmp_path, stop=stopped_at("window 2 of 2, step 1"))
    with pytest.raises(Cancelled):
        frames_of(engine, flash_request(50), context)


def test_auto_chooses_flashtalk_for_few_steps_and_one_person_only(weights: Path, tiny_weights: Path) -> None:
    settings = EngineSettings(weights_dir=weights, device="cpu")
    fast, quality = Options(preset="fast"), Options(preset="quality")
    assert wants_flashtalk(settings, fast, people="single", still=True)
    assert not wants_flashtalk(settings, quality, people="single", still=True)
    assert not wants_flashtalk(settings, fast, people="multi", still=True)
    assert not wants_flashtalk(settings, fast, people="single", still=False)
    assert not wants_flashtalk(settings, Options(preset="fast", model="infinitetalk"), people="single", still=True)
    assert wants_flashtalk(settings, Options(preset="quality", model="flashtalk"), people="single", still=True)
    with pytest.raises(InvalidInput, match="one person"):
        wants_flashtalk(settings, Options(model="flashtalk"), people="multi", still=True)
    elsewhere = EngineSettings(weights_dir=tiny_weights, device="cpu")
    assert not wants_flashtalk(elsewhere, fast, people="single", still=True)
    with pytest.raises(WeightsError, match="SoulX-FlashTalk-14B"):
        wants_flashtalk(elsewhere, Options(model="flashtalk"), people="single", still=True)
    assert "FlashTalk" in describe(settings).reason


def test_flashtalk_alone_serves_every_preset(weights: Path, tmp_path: Path) -> None:
    """Its folder as it is published carries Wan's encoders too."""
    folder = tmp_path / FLASHTALK_FOLDER
    shutil.copytree(weights / FLASHTALK_FOLDER, folder)
    for name in ("google", "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth"):
        source = weights / "Wan2.1-I2V-14B-480P" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    clip = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
    shutil.copy(weights / "Wan2.1-I2V-14B-480P" / clip, folder / clip)
    shutil.copytree(weights / "chinese-wav2vec2-base", tmp_path / "chinese-wav2vec2-base")
    info = describe(EngineSettings(weights_dir=tmp_path, device="cpu", preset="quality"))
    assert info.available, info.reason


def test_flashtalks_defaults_fill_options_that_were_left_unset() -> None:
    ours = flashtalk_options(Options(preset="balanced"))
    assert (ours.window_frames, ours.motion_frames, ours.sampling.steps, ours.sampling.shift) == (33, 5, 4, 5.0)
    assert (ours.sampling.text_guidance, ours.sampling.audio_guidance) == (1.0, 1.0)
    assert flashtalk_options(Options(preset="fast")).sampling.steps == 2
    asked = flashtalk_options(Options(steps=8, window_frames=81))
    assert (asked.sampling.steps, asked.window_frames) == (8, 81)
    assert any("8 steps" in words for words in flashtalk.warnings_for(asked, flashtalk.OWN_SIZE))


@pytest.mark.parametrize(
    ("picture", "size"), [((1200, 700), (768, 448)), ((700, 1200), (512, 768)), ((500, 500), (640, 640))]
)
def test_flashtalks_own_format_is_preferred_and_others_carry_a_warning(
    picture: tuple[int, int], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flashtalk, "OWN_SIZE", (768, 448))
    monkeypatch.setitem(BUCKETS, "480p", {0.67: (512, 768), 1.0: (640, 640), 1.5: (768, 512), 1.86: (832, 448)})
    chosen = flashtalk_size(*picture, "480p")
    told = flashtalk.warnings_for(flashtalk_options(Options()), chosen)
    assert bool(told) == (chosen != (768, 448))
    assert chosen == size


def test_the_folder_loads_without_an_adapter_and_the_base_does_not(weights: Path) -> None:
    load_transformer(weights / FLASHTALK_FOLDER, dtype=torch.float32)
    with pytest.raises(WeightsError, match="adapter"):
        load_transformer(weights / "Wan2.1-I2V-14B-480P")


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_the_8_bit_file_holds_what_rounding_at_load_makes(weights: Path, tmp_path: Path, kind: EightBit) -> None:
    folder = tmp_path / FLASHTALK_FOLDER
    shutil.copytree(weights / FLASHTALK_FOLDER, folder)
    target = convert(folder, folder / CONVERTED.format(kind=kind), kind)
    config = TransformerConfig.from_json(folder / "config.json")
    from_file = load_transformer(target, config=config)
    rounded = load_transformer(folder, quant=kind)
    for name, tensor in rounded.state_dict().items():
        assert torch.equal(from_file.state_dict()[name].float(), tensor.float()), name
    settings = EngineSettings(weights_dir=tmp_path, device="cpu", profile=kind)
    assert {files.number_format for files in find_flashtalk(settings)} == {"bf16", kind}
    chosen, _ = choose_transformer(settings, None, people="single", distilled=True, flashtalk=True)
    assert chosen.source == target
    assert not list(folder.glob("*.part"))
