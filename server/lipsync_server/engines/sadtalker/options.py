"""Options of the sadtalker engine."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from lipsync_server.engines.base import EngineOptions


def _as_list(value: object) -> object:
    """One angle becomes a list of one."""
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value


_Degrees = Annotated[float, Field(ge=-180, le=180)]
_Angles = Annotated[list[_Degrees], Field(max_length=64), BeforeValidator(_as_list)]


class Options(EngineOptions):
    """The options of a caller. The defaults put the talking head back into the whole picture.

    The last group switches between our behaviour and the original's where a viewer would call the original's a fault;
    `reference_behaviour` sets all of them to the original's.
    """

    effects: ClassVar[Mapping[str, str]] = {
        **EngineOptions.effects,
        "size": "512 has four times the pixels and takes about that much longer; sharper",
        "preprocess": "full and extfull also paste the head back, which takes longer on large pictures",
        "still": "none on speed",
        "pose_style": "none on speed",
        "expression_scale": "none on speed",
        "blink": "none on speed",
        "follow_video": "reads the whole video first",
        "yaw": "none on speed",
        "pitch": "none on speed",
        "roll": "none on speed",
        "enhance": "slower by a second network on every frame; sharper",
        "batch_size": "a larger batch is faster until the memory is full; the picture is the same",
        "precision": "float32 is slower on a GPU",
        "paste": "poisson is slower and flickers",
        "pose_join": "none on speed",
        "crop_limit": "none on speed",
        "shrink": "none on speed; bilinear leaves jagged edges",
        "tail": "none on speed; with dropped the mouth does not move at the end",
        "reference_behaviour": "the effects of the five options that this option sets",
    }

    size: Literal[256, 512] | None = Field(
        default=None,
        description="Side of the rendered square: 256 or 512. Unset: 256 where those weights are installed.",
    )
    preprocess: Literal["crop", "extcrop", "resize", "full", "extfull"] = Field(
        default="full",
        description="full puts the head back into the whole picture; crop makes a video of the head alone; extcrop and "
        "extfull use a wider cut; resize squeezes the whole picture into the square.",
    )
    still: bool | None = Field(
        default=None,
        description="Keep the head in its place. Unset: yes in full and extfull unless a video's pose is followed, "
        "otherwise no.",
    )
    pose_style: int = Field(default=0, ge=0, le=45, description="One of 46 ways in which the head moves.")
    expression_scale: float = Field(default=1.0, ge=0, le=3, description="Strength of the whole facial expression.")
    blink: bool = Field(default=True, description="Whether the eyes blink.")
    follow_video: Literal["none", "pose", "eyes", "both"] = Field(
        default="none",
        description="When the picture is a video: add its head motion to the generated one, or take its eyes (and with "
        "them its whole expression).",
    )
    yaw: _Angles = Field(
        default=[],
        description="Angle of the head to the side in degrees, or a list of angles over the whole video.",
    )
    pitch: _Angles = Field(default=[], description="The same as yaw, for nodding.")
    roll: _Angles = Field(default=[], description="The same as yaw, for tilting.")
    enhance: bool = Field(
        default=False,
        description="Restore every face with GFPGAN, at 512 pixels: sharper, slower. Needs a package and a file of its "
        "own.",
    )
    batch_size: int | None = Field(
        default=None, ge=1, le=64, description="Frames rendered together. Unset: chosen by size and device."
    )
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        default="auto",
        description="Arithmetic of the renderer. auto: float16 on a GPU; bfloat16 on a CPU with bfloat16 instructions.",
    )

    paste: Literal["feather", "poisson"] = Field(
        default="feather", description="Border between head and picture: a soft edge, or seamlessClone, which flickers."
    )
    pose_join: Literal["blended", "independent"] = Field(
        default="blended", description="independent lets the head jump every 1.28 s, as the original does."
    )
    crop_limit: Literal["box", "picture_width"] = Field(
        default="box", description="picture_width stretches some tall pictures, as the original does."
    )
    shrink: Literal["area", "bilinear"] = Field(
        default="area", description="Method of shrinking a large face; bilinear leaves jagged edges."
    )
    tail: Literal["padded", "dropped"] = Field(
        default="padded",
        description="padded fills a last incomplete frame of sound with silence; dropped ignores that frame.",
    )
    reference_behaviour: bool = Field(
        default=False, description="Set paste, pose_join, crop_limit, shrink and tail to the original's behaviour."
    )

    def resolved(self) -> "Options":
        """These options with `reference_behaviour` and the unset `still` spelled out."""
        changes: dict[str, object] = {}
        if self.reference_behaviour:
            changes = {
                "paste": "poisson",
                "pose_join": "independent",
                "crop_limit": "picture_width",
                "shrink": "bilinear",
                "tail": "dropped",
            }
        if self.still is None:
            moves = self.reference_behaviour or self.follow_video in ("pose", "both")
            changes["still"] = self.pastes_back and not moves
        return self.model_copy(update=changes)

    @property
    def pastes_back(self) -> bool:
        """Whether the head is put back into the whole picture."""
        return self.preprocess in ("full", "extfull")
