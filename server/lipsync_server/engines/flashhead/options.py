"""Options of FlashHead. Imports no torch."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from lipsync_server.engines.base import EngineOptions, Preset

Variant = Literal["pro", "lite"]
Framing = Literal["paste", "crop", "centre"]
_STEPS: dict[Preset, int] = {"quality": 4, "balanced": 4, "fast": 2}
DISTILLED_STEPS = (2, 4)
"""Numbers of steps that the model was distilled for."""


class Options(EngineOptions):
    """The options of FlashHead. The defaults put the talking head back into the whole picture."""

    effects: ClassVar[Mapping[str, str]] = {
        **EngineOptions.effects,
        "preset": "fast takes half as long; a little less detail",
        "variant": "lite takes a fifth of the work; blurred teeth",
        "framing": "crop and centre show the head alone and save the time of pasting the head back",
        "steps": "time grows in proportion; numbers other than 2 and 4 were not trained and look worse",
        "face_scale": "none on speed; a larger square shows a smaller face with fewer pixels",
        "feather": "none on speed; a narrow border is easier to see",
        "follow_border": "a little slower; the border moves less",
        "grain": "none on speed; without it the head looks smoother than the picture",
        "colour_correction": "none on speed; without it colours drift in long videos",
        "time_rounding": "none on speed",
        "enhance": "slower by a second network on every frame; sharper",
    }

    preset: Preset = Field(default="balanced", description="quality and balanced: 4 steps. fast: 2 steps.")
    variant: Variant | None = Field(
        default=None,
        description="pro, or lite: a fifth of the work, blurred teeth, and a VAE under a licence of its own. Unset: "
        "pro where pro's files are installed.",
    )
    framing: Framing = Field(
        default="paste",
        description="paste puts the head back into the whole picture; crop makes a 512 x 512 video of the head; centre "
        "uses the picture's middle square without a search for a face.",
    )
    steps: int | None = Field(default=None, ge=1, le=100, description="Denoising steps a window; 2 and 4 are trained.")
    face_scale: float = Field(
        default=2.0,
        ge=1.4,
        le=3.5,
        description="Side of the square over the width of the face; 2 as published.",
    )
    feather: float = Field(
        default=0.08, ge=0.02, le=0.2, description="Width of the soft border of the square, as a share of its side."
    )
    follow_border: bool = Field(
        default=True, description="Bend the moving pixels at the square's border so that they meet the still picture."
    )
    grain: bool = Field(default=True, description="Give the generated head the grain of the picture around it.")
    colour_correction: float = Field(
        default=1.0, ge=0, le=1, description="Strength with which colours are kept at the picture's; 0 is off."
    )
    time_rounding: Literal["bfloat16", "none"] = Field(
        default="bfloat16", description="Rounding of the noise levels: bfloat16 as in the published run, or none."
    )
    enhance: bool = Field(
        default=False, description="Restore every face with GFPGAN: sharper, slower. Needs a package and a file."
    )

    def preset_values(self) -> Mapping[str, float]:
        """The steps, by the option's name."""
        return {"steps": self.n_steps}

    @property
    def n_steps(self) -> int:
        """Denoising steps: the caller's, else the preset's."""
        return _STEPS[self.preset] if self.steps is None else self.steps
