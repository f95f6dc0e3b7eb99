"""The file in which a card's measured speeds are shared: `lipsync bench --share` writes it, the bill reads it.

The measured figures of such a file replace the computed figures for its card. The file contains the name of the card,
its driver and the versions of the software, but neither the machine's owner nor its address. Knows the format only;
bench/share.py writes the values.
"""

from datetime import date
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lipsync_server.errors import InvalidInput

FORM = 1
"""The version of the format. It is increased when an older reader could misread a newer file."""


class SharedSpeed(BaseModel):
    """One measured setting.

    preset: as in a job; for sadtalker, which has no presets, the size. resolution: "" for engines without a choice.
    options: other options that were set. seconds_per_second: of work for a second of video, from POST to the last byte
    on a warm server. sound_s: length of the recording. n_runs: number of runs, whose median is the figure.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    engine: str
    preset: str = ""
    resolution: str = ""
    options: dict[str, object] = Field(default_factory=dict)
    seconds_per_second: float = Field(gt=0)
    sound_s: float = Field(gt=0)
    n_runs: int = Field(default=1, ge=1)
    peak_gpu_bytes: int = Field(default=0, ge=0)
    peak_memory_bytes: int = Field(default=0, ge=0)


class CardSpeeds(BaseModel):
    """All measurements of one `lipsync bench --share`. card: the driver's name of the card; without a GPU the CPU's."""

    model_config = ConfigDict(frozen=True)

    form: int = Field(default=FORM, ge=1, le=FORM)
    card: str = Field(min_length=1)
    card_bytes: int = Field(default=0, ge=0)
    compute_capability: str = ""
    driver: str = ""
    cpu: str = ""
    memory_bytes: int = Field(default=0, ge=0)
    versions: dict[str, str]
    measured_on: date
    speeds: tuple[SharedSpeed, ...] = Field(min_length=1)


def read_card_speeds(path: Path) -> CardSpeeds:
    """The speeds in a shared file. Raises InvalidInput with the file's name and the first fault in it."""
    try:
        return CardSpeeds.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InvalidInput(
            f"{path} is no file of `lipsync bench --share`: {place}: {first['msg'].lower()}. Write a new one."
        ) from error
