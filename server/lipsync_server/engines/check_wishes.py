"""The caller's options about the check of the finished video. Part of engines/ask.py; imports pydantic only."""

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

MAX_RETRIES = 3


class CheckWishes(BaseModel):
    """The options about the check.

    With `check` None, the video is checked if the check takes less than 5 % of the render's time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    check: bool | None = Field(
        default=None,
        description="Check the finished video: score, findings and contact sheet. Unset: where the check costs "
        "under 5 % of the render.",
    )
    retries_below: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Render again with another seed while the score is below this value, for example 0.6; the best "
        "video is kept.",
    )
    retries: int = Field(
        default=1, ge=0, le=MAX_RETRIES, description="Largest number of renders that retries_below adds."
    )

    @field_validator("retries_below")
    @classmethod
    def _needs_the_check(cls, bar: float | None, info: ValidationInfo) -> float | None:
        """Refuse retries_below together with check=false."""
        if bar is not None and info.data.get("check") is False:
            raise ValueError("it needs the score of the check; leave out check, or send check=true")
        return bar

    @property
    def wants_check(self) -> bool | None:
        """Whether the video is checked; None if the cost decides."""
        return True if self.retries_below is not None else self.check
