"""Finding and choosing model files, the message for a missing file, and the plan for the transformer's blocks."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from infinitetalk_golden import CPU
from lipsync_server.engines.hardware import Gpu
from lipsync_server.engines.infinitetalk.files.encoders import find_encoders
from lipsync_server.engines.infinitetalk.files.transformers import choose_transformer, find_transformers
from lipsync_server.engines.infinitetalk.info import describe
from lipsync_server.engines.infinitetalk.loading import memory
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.errors import WeightsError
from lipsync_server.models.tensor_files.into_modules import read_tensors
from lipsync_server.models.wan_vae.vae import WanVae
from lipsync_server.quantization import EightBit, Quantization
from lipsync_server.settings import Settings
from lipsync_server.weights.manifest import load_manifest
from pydantic import ValidationError

GIB = 2**30
H100 = Gpu(0, "GPU-1", "H100", 80 * GIB, 79 * GIB, (9, 0))
L40S = Gpu(0, "GPU-4", "NVIDIA L40S", 48 * GIB, 47 * GIB, (8, 9))
RTX_4090 = Gpu(0, "GPU-2", "NVIDIA GeForce RTX 4090", 24 * GIB, 23 * GIB, (8, 9))
RTX_3090 = Gpu(0, "GPU-3", "RTX 3090", 24 * GIB, 23 * GIB, (8, 6))


def _settings(folder: Path, **values: Any) -> Settings:
    return Settings(_env_file=None, weights_dir=folder, data_dir=folder / "data", device="cpu", **values)


def test_every_published_transformer_is_found(tiny_weights: Path) -> None:
    found = find_transformers(_settings(tiny_weights))
    assert {(f.people, f.number_format, f.distilled) for f in found} == {
        *((people, "bf16", False) for people in ("single", "multi")),
        *((p, k, d) for p in ("single", "multi") for k in ("fp8", "int8") for d in (False, True)),
    }


@pytest.mark.parametrize(
    ("gpu", "distilled", "expected"),
    [
        (H100, False, ("bf16", False)),
        (H100, True, ("fp8", True)),
        (RTX_4090, False, ("int8", False)),
        (RTX_3090, False, ("int8", False)),
        (RTX_3090, True, ("int8", True)),
    ],
)
def test_the_card_and_the_preset_choose_the_file(
    tiny_weights: Path, gpu: Gpu, distilled: bool, expected: tuple[str, bool]
) -> None:
    files, warnings = choose_transformer(_settings(tiny_weights), gpu, people="single", distilled=distilled)
    assert (files.number_format, files.distilled) == expected
    assert warnings == ()


@pytest.mark.parametrize("gpu", [RTX_4090, RTX_3090, L40S])
@pytest.mark.parametrize("faster", ["int8", "fp8"])
def test_the_format_that_was_measured_faster_on_the_card_comes_first(
    tiny_weights: Path, gpu: Gpu, faster: EightBit
) -> None:
    settings = _settings(tiny_weights)
    files, _ = choose_transformer(settings, gpu, people="single", distilled=False, faster=faster)
    assert files.number_format == faster


def test_before_a_measurement_a_data_centre_card_reads_fp8(tiny_weights: Path) -> None:
    files, _ = choose_transformer(_settings(tiny_weights), L40S, people="single", distilled=False)
    assert files.number_format == "fp8"


def test_the_profile_that_was_asked_for_comes_first(tiny_weights: Path) -> None:
    settings = _settings(tiny_weights, profile="infinitetalk-int8")
    assert choose_transformer(settings, H100, people="single", distilled=False)[0].number_format == "int8"


def test_a_quantised_file_needs_none_of_the_bases_shards(folder: Path) -> None:
    for shard in (folder / "Wan2.1-I2V-14B-480P").glob("diffusion_pytorch_model*"):
        shard.unlink()
    (folder / "Wan2.1-I2V-14B-480P" / "models_t5_umt5-xxl-enc-bf16.pth").unlink()
    shutil.rmtree(folder / "InfiniteTalk" / "single")
    shutil.rmtree(folder / "InfiniteTalk" / "multi")
    settings = _settings(folder)
    assert choose_transformer(settings, H100, people="single", distilled=False)[0].number_format == "fp8"
    assert find_encoders(settings).text.weights.name == "t5_fp8.safetensors"
    assert describe(settings).available


def test_a_missing_shard_makes_the_base_unusable(folder: Path) -> None:
    (folder / "Wan2.1-I2V-14B-480P" / "diffusion_pytorch_model-00003-of-00007.safetensors").unlink()
    assert not [f for f in find_transformers(_settings(folder)) if f.number_format == "bf16"]


def test_a_fast_preset_without_files_for_few_steps_names_the_profile_to_download(folder: Path) -> None:
    for file in (folder / "InfiniteTalk" / "quant_models").glob("*_lora.*"):
        file.unlink()
    _, warnings = choose_transformer(_settings(folder), None, people="single", distilled=True)
    [profile] = re.findall(r"lipsync weights pull ([\w-]+)", warnings[0])
    assert profile in load_manifest().profiles
    assert profile.endswith("-fast")
    _, warnings = choose_transformer(_settings(folder), None, people="single", distilled=True, has_lora=True)
    assert warnings == ()
    # A LoRA that is not recognised as step-distilled does not silence the warning about few steps.
    _, warnings = choose_transformer(_settings(folder, lora="a.safetensors"), None, people="single", distilled=True)
    assert "rough" in warnings[0]


def test_lora_files_are_merged_into_plain_weights_and_otherwise_warned_about(folder: Path) -> None:
    settings = _settings(folder, lora="fast.safetensors")
    files, warnings = choose_transformer(settings, None, people="single", distilled=True, has_lora=True)
    assert (files.distilled, warnings) == (False, ())
    for file in (folder / "InfiniteTalk" / "quant_models").glob("infinitetalk_*"):
        if "_lora" not in file.name:
            file.unlink()
    shutil.rmtree(folder / "InfiniteTalk" / "single")
    files, warnings = choose_transformer(settings, None, people="single", distilled=True)
    assert files.distilled
    assert "LIPSYNC_LORA were not used" in warnings[0]


def test_two_people_without_their_weights_are_refused_with_a_sentence(folder: Path) -> None:
    shutil.rmtree(folder / "InfiniteTalk" / "multi")
    for file in (folder / "InfiniteTalk" / "quant_models").glob("*multi*"):
        file.unlink()
    with pytest.raises(WeightsError, match="multi weights"):
        choose_transformer(_settings(folder), None, people="multi", distilled=False)


@pytest.mark.parametrize(
    "missing",
    [
        "Wan2.1-I2V-14B-480P/Wan2.1_VAE.pth",
        "Wan2.1-I2V-14B-480P/google/umt5-xxl/tokenizer.json",
        "Wan2.1-I2V-14B-480P/config.json",
        "chinese-wav2vec2-base/model.safetensors",
    ],
)
def test_a_missing_file_is_named_with_the_remedy(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    info = describe(_settings(folder))
    assert not info.available
    assert missing in info.reason
    assert "lipsync weights" in info.reason


def test_a_missing_text_encoder_is_named_in_both_its_forms(folder: Path) -> None:
    (folder / "Wan2.1-I2V-14B-480P" / "models_t5_umt5-xxl-enc-bf16.pth").unlink()
    (folder / "InfiniteTalk" / "quant_models" / "t5_fp8.safetensors").unlink()
    with pytest.raises(
        WeightsError, match=r"umt5-xxl-enc-bf16\.pth \(or InfiniteTalk/quant_models/t5_fp8\.safetensors"
    ):
        find_encoders(_settings(folder))


def test_without_a_card_the_full_model_is_not_offered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lipsync_server.engines.infinitetalk.info._TINY_BYTES", 0)
    monkeypatch.setattr("lipsync_server.engines.hardware.gpus", lambda: ())
    settings = Settings(_env_file=None, weights_dir=folder, device="auto")
    info = describe(settings)
    assert not info.available
    assert "NVIDIA GPU" in info.reason


def test_a_truncated_file_is_named(folder: Path) -> None:
    path = folder / "Wan2.1-I2V-14B-480P" / "Wan2.1_VAE.pth"
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(WeightsError, match=r"Wan2\.1_VAE\.pth is damaged"):
        WanVae.load(path, device=CPU)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"x": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"evil\.pth"):
        read_tensors(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def _plan(
    free_gib: float | None, *, quant: Quantization = "fp8", pixels: int = 640 * 640, **more: Any
) -> memory.MemoryPlan:
    free = None if free_gib is None else int(free_gib * GIB)
    return memory.plan(
        TransformerConfig(), quant=quant, pixels=pixels, passes=2, compiled=True, free_bytes=free, **more
    )


def test_sizes_of_the_real_model_are_the_published_ones() -> None:
    block, others = memory.weight_bytes(TransformerConfig(), eight_bit=False)
    assert 40 * block + others == 32_789_757_568 + 4_974_336_000


def test_bf16_is_fully_resident_on_80_gib_and_streams_on_24() -> None:
    rich = _plan(79, quant="none")
    assert (rich.resident_blocks, rich.cache_context, rich.keep_encoders) == (40, True, True)
    assert 0 <= _plan(23, quant="none").resident_blocks < 30


@pytest.mark.parametrize("free_gib", [10.0, 14.0, 20.4, 23.0])
@pytest.mark.parametrize("pixels", [640 * 640, 960 * 960])
@pytest.mark.parametrize("quant", ["fp8", "int8"])
def test_a_plan_stays_within_what_is_free(free_gib: float, pixels: int, quant: Quantization) -> None:
    plan = _plan(free_gib, pixels=pixels, quant=quant)
    block, others = memory.weight_bytes(TransformerConfig(), eight_bit=True)
    slots = 2 if plan.resident_blocks < 40 else 0
    held = others + (plan.resident_blocks + slots) * block
    assert held + plan.working_bytes <= free_gib * GIB or plan.resident_blocks == 0
    assert f"{plan.resident_blocks} of 40" in plan.line or plan.resident_blocks == 40


def test_the_settings_overrule_the_plan() -> None:
    assert _plan(79, offload="blocks").resident_blocks == 0
    assert _plan(8, offload="none").resident_blocks == 40
    assert _plan(None).resident_blocks == 40


def test_presets_are_the_published_numbers() -> None:
    for resolution, shift in (("480p", 7.0), ("720p", 11.0)):
        quality = Options(preset="quality", resolution=resolution).sampling
        assert (quality.steps, quality.text_guidance, quality.audio_guidance, quality.shift) == (40, 5, 4, shift)
    balanced, fast = Options(preset="balanced").sampling, Options(preset="fast").sampling
    assert (balanced.steps, balanced.text_guidance, balanced.audio_guidance, balanced.shift) == (8, 1, 2, 2)
    assert (fast.steps, fast.text_guidance, fast.audio_guidance) == (4, 1, 1)


def test_every_number_can_be_set_within_limits() -> None:
    ours = Options(preset="fast", steps=6, audio_guidance=3.0, shift=5.0).sampling
    assert (ours.steps, ours.audio_guidance, ours.shift) == (6, 3.0, 5.0)
    for wrong in ({"steps": 0}, {"steps": 101}, {"window_frames": 80}, {"motion_frames": 10}, {"shift": 0.1}):
        with pytest.raises(ValidationError):
            Options(**wrong)
