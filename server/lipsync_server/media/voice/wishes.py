"""The caller's options about speech from text. Part of engines/ask.py; imports pydantic only."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_TEXT_CHARACTERS = 20_000
"""About 20 minutes of speech."""


class VoiceWishes(BaseModel):
    """The options about speech from text. The language of the text is CaptionWishes.language."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    text: Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARACTERS)] = Field(
        default="",
        description="Words that the server speaks, in place of a recording. Captions show them, unless script differs.",
    )
    voice: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]*$", max_length=40)] = Field(
        default="",
        description="Voice for text: a name of Kokoro's such as af_heart or pf_dora, or espeak, which sounds robotic. "
        "Unset: Kokoro's first voice of the language where its model files are here, else espeak.",
    )

    @property
    def is_spoken(self) -> bool:
        """Whether the server makes the sound of the video from text."""
        return bool(self.text.strip())
