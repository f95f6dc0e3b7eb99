"""The caller's options about a visible label such as "AI generated". Part of engines/ask.py; imports pydantic only."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

LabelCorner = Literal["top-left", "top-right", "bottom-left", "bottom-right"]
MAX_LABEL_CHARACTERS = 60


class LabelWishes(BaseModel):
    """The options about a visible label. An empty label means that none is drawn."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    label: Annotated[
        str, StringConstraints(max_length=MAX_LABEL_CHARACTERS, strip_whitespace=True, pattern=r"^[^\r\n]*$")
    ] = Field(
        default="", description='A small text drawn into every frame, for example "AI generated". Unset: no text.'
    )
    label_corner: LabelCorner = Field(
        default="top-left",
        description="Corner of the label; another corner is used where the label would cover the mouth.",
    )
