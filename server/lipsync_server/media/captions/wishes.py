"""The caller's options about captions. Part of engines/ask.py; imports pydantic only."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_SCRIPT_CHARACTERS = 60_000
"""About an hour of fast speech."""

Captions = Literal["off", "track", "burned"]
CaptionStyle = Literal["plain", "box", "words"]
Language = Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$", max_length=35)]


class CaptionWishes(BaseModel):
    """The options about captions.

    None: not given; a video with a script or text then gets a text track, others get no captions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    script: Annotated[str, StringConstraints(max_length=MAX_SCRIPT_CHARACTERS)] = Field(
        default="", description="The spoken words. Captions are made from this text and timed by the recording."
    )
    captions: Captions | None = Field(
        default=None,
        description="track: a text track that players can show or hide. burned: drawn into the picture. off: none. "
        "Without script or text the words are recognised. Unset: track where there is a "
        "script or text. SRT and VTT files come with both.",
    )
    caption_style: CaptionStyle = Field(
        default="plain",
        description="Look of burned captions. plain: outlined. box: on a dark box. words: few large words, the spoken "
        "one highlighted, for vertical video.",
    )
    language: Language | None = Field(
        default=None, description="Language of the script or text, such as en or pt-BR. Unset: detected."
    )

    @property
    def burns_captions(self) -> bool:
        """Whether captions are drawn into the frames."""
        return self.captions == "burned"
