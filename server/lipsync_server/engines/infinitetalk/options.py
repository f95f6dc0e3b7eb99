"""Options of InfiniteTalk, and the numbers that a preset gives to options without a value. Imports no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from lipsync_server.engines.base import Box, EngineOptions, Preset
from lipsync_server.engines.infinitetalk.lora_choice import LoraWish, job_loras
from lipsync_server.settings import EngineSettings

AudioMode = Literal["together", "one_after_other"]
CAMERA_MOVE_ABOVE_S = 60.0
_T = TypeVar("_T")


@dataclass(frozen=True)
class Sampling:
    """The numbers of the denoising loop. teacache: 0 is off. distilled: the preset needs a LoRA for few steps."""

    steps: int
    text_guidance: float
    audio_guidance: float
    shift: float
    guidance_interval: int
    teacache: float
    distilled: bool


_PRESETS: dict[Preset, Sampling] = {
    "quality": Sampling(40, 5.0, 4.0, 7.0, 1, 0.0, distilled=False),
    "balanced": Sampling(8, 1.0, 2.0, 2.0, 2, 0.0, distilled=True),
    "fast": Sampling(4, 1.0, 1.0, 2.0, 1, 0.0, distilled=True),
}
_QUALITY_SHIFT_720P = 11.0


class Options(EngineOptions):
    """The options of a request. A number that is None gets the preset's value."""

    reads_prompt = True

    effects: ClassVar[Mapping[str, str]] = {
        **EngineOptions.effects,
        "preset": "runs of the transformer a window: quality 120, balanced 16, fast 4; few steps move the lips less",
        "resolution": "720p has 2.3 times the pixels and takes more than three times as long; finer",
        "model": "flashtalk runs the transformer 4 or 2 times a window, without guidance",
        "steps": "time grows in proportion; more steps give finer detail",
        "text_guidance": "above 1 each step has one pass more; the video follows the prompt closer, too much "
        "oversaturates colours",
        "audio_guidance": "above 1 each step has one pass more; the lips move more",
        "shift": "none on speed; a high value favours layout and motion, a low value detail",
        "guidance_interval": "2 halves the guidance passes; the guidance is then a step old",
        "teacache": "a higher value skips more passes: faster, softer pictures",
        "negative_prompt": "none on speed; used only with text guidance above 1",
        "apg": "none on speed; calmer colours at high guidance",
        "apg_momentum": "none on speed; only with apg",
        "apg_norm_threshold": "none on speed; only with apg",
        "window_frames": "shorter windows take less memory, and repeat more frames at their joints",
        "motion_frames": "more frames make the joints of windows smoother, and are computed twice",
        "colour_correction": "none on speed; without it colours drift in long videos",
        "camera_move": "none on speed; prevents drift in long videos of a still picture",
        "people": "two people are computed in one run, a little slower than one",
        "audio_mode": "one_after_other makes a longer video",
        "loras": "files that the last job did not use are merged first, in seconds on a GPU; then none on speed",
    }

    preset: Preset = Field(
        default="balanced",
        description="quality: 40 steps, 3 passes each. balanced: 8 steps, 2 passes. fast: 4 steps, 1 pass.",
    )
    resolution: Literal["480p", "720p"] = Field(default="480p", description="The picture's shape decides the size.")
    model: Literal["auto", "infinitetalk", "flashtalk"] = Field(
        default="auto",
        description="The model whose weights are used. flashtalk needs 4 steps or 2 (preset fast), for one person. "
        "auto chooses flashtalk for presets of few steps where its weights are installed.",
    )
    steps: int | None = Field(default=None, ge=1, le=100, description="Denoising steps a window.")
    text_guidance: float | None = Field(default=None, ge=1, le=15, description="Strength of the prompt; 1 is off.")
    audio_guidance: float | None = Field(
        default=None, ge=1, le=15, description="Strength of the speech on the lips; 1 is off, 3 to 5 works best."
    )
    shift: float | None = Field(
        default=None, ge=0.5, le=20, description="Values above 1 use more steps on strong noise."
    )
    guidance_interval: int | None = Field(
        default=None,
        ge=1,
        le=8,
        description="Number of steps from one run of the guidance passes to the next; steps between reuse the result.",
    )
    teacache: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Skip passes whose estimated change is below this; 0 is off, 0.2 is the authors' value.",
    )
    negative_prompt: str = Field(
        default="", max_length=4000, description="Contents to avoid; if empty, the authors' prompt."
    )
    apg: bool = Field(default=False, description="Adaptive projected guidance: less oversaturation at high guidance.")
    apg_momentum: float = Field(
        default=-0.75,
        ge=-1,
        le=1,
        description="For apg: the share of the last guidance that is added; below 0 it is subtracted.",
    )
    apg_norm_threshold: float = Field(
        default=55.0, ge=0, le=1000, description="For apg: the guidance's largest norm; 0 is no limit."
    )
    window_frames: int = Field(default=81, ge=13, le=81, description="Largest number of frames in one window; 4n + 1.")
    motion_frames: int = Field(
        default=9, ge=1, le=25, description="Frames that a window shares with the one before; 4n + 1."
    )
    colour_correction: float = Field(
        default=1.0, ge=0, le=1, description="Strength with which colours are kept at the picture's; 0 is off."
    )
    camera_move: bool | None = Field(
        default=None, description="A slow camera move against drift; by default on above 60 s of a still picture."
    )
    people: tuple[Box, Box] | None = Field(
        default=None, description="Two people's boxes in the order of the recordings; default: left and right half."
    )
    audio_mode: AudioMode = Field(
        default="together", description="Two recordings start together, or the second after the first."
    )
    loras: tuple[LoraWish, ...] = Field(
        default=(),
        max_length=8,
        description="LoRA files of the owner's folder (`LIPSYNC_LORA_DIR`) for this job, each with its strength; a "
        "name alone has strength 1.",
    )

    @field_validator("loras", mode="before")
    @classmethod
    def _one_or_more_loras(cls, value: object) -> object:
        return (value,) if isinstance(value, str | dict) else value

    @model_validator(mode="after")
    def _windows_fit(self) -> "Options":
        for name in ("window_frames", "motion_frames"):
            if getattr(self, name) % 4 != 1:
                raise ValueError(f"{name} must be 4n + 1, for example 9 or 81, not {getattr(self, name)}")
        if self.motion_frames >= self.window_frames:
            raise ValueError("motion_frames must be less than window_frames")
        return self

    def check_here(self, settings: EngineSettings) -> None:
        """Raise InvalidInput for a LoRA file that the owner's folder does not have, or that does not fit the model."""
        job_loras(settings, self.loras)

    @property
    def sampling(self) -> Sampling:
        """The numbers of the denoising loop: the caller's where given, else the preset's."""
        base = _PRESETS[self.preset]
        default_shift = _QUALITY_SHIFT_720P if (self.preset, self.resolution) == ("quality", "720p") else base.shift
        return Sampling(
            steps=_or(self.steps, base.steps),
            text_guidance=_or(self.text_guidance, base.text_guidance),
            audio_guidance=_or(self.audio_guidance, base.audio_guidance),
            shift=_or(self.shift, default_shift),
            guidance_interval=_or(self.guidance_interval, base.guidance_interval),
            teacache=_or(self.teacache, base.teacache),
            distilled=base.distilled,
        )

    def preset_values(self) -> Mapping[str, float]:
        """The numbers of the denoising loop, by option."""
        return {name: value for name, value in asdict(self.sampling).items() if name in type(self).model_fields}

    def moves_camera(self, duration_s: float, *, still: bool) -> bool:
        """Whether a slow camera move is added: as the caller set it, else for a still picture above a minute."""
        if not still:
            return False
        return duration_s > CAMERA_MOVE_ABOVE_S if self.camera_move is None else self.camera_move


def _or(value: _T | None, default: _T) -> _T:
    return default if value is None else value
