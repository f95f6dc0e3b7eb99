"""The prompt and options of a caller, as one value from the border to the engine.

HTTP, n8n and the command line all make an `Ask`. The `Ask` is stored with the job and passed to the worker, where
engines/options.py turns it into the engine's own options. Pydantic checks it once, when it is made. Imports no numpy,
so that `lipsync --help` is fast.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints, field_validator

from lipsync_server.engines.check_wishes import CheckWishes
from lipsync_server.engines.recogniser import recogniser_home
from lipsync_server.errors import InvalidInput
from lipsync_server.media.captions.script import words_of
from lipsync_server.media.captions.wishes import CaptionWishes
from lipsync_server.media.framing.wishes import FormatWishes
from lipsync_server.media.label_wishes import LabelWishes
from lipsync_server.media.voice.choice import check_voice
from lipsync_server.media.voice.wishes import VoiceWishes
from lipsync_server.settings import Preset as Preset
from lipsync_server.validation import why_not_json

Box = tuple[float, float, float, float]
"""left, top, right, bottom in pixels of the upright picture."""
Resolution = Literal["480p", "720p"]
MAX_PROMPT_CHARACTERS = 4000
MAX_SEED = 2**63 - 1
MAX_FACE_INDEX = 63


class Ask(VoiceWishes, CaptionWishes, CheckWishes, FormatWishes, LabelWishes):
    """A prompt and options as the caller gave them; None stands for an option that was left out.

    Several engines understand `preset` to `face_box`; an engine without them ignores them with a warning. `options` are
    for one engine, which refuses an option that it does not have. The options about text, captions, check and format
    concern the video, with every engine.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    prompt: Annotated[str, StringConstraints(max_length=MAX_PROMPT_CHARACTERS)] = Field(
        default="", description="The scene in words, for engines that read a prompt."
    )
    preset: Preset | None = Field(default=None, description="Balance of quality and time, for engines with presets.")
    resolution: Resolution | None = Field(
        default=None, description="Size of the video, for engines with several sizes."
    )
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED, description="Same seed, same inputs: same video.")
    face_index: int | None = Field(
        default=None,
        ge=0,
        le=MAX_FACE_INDEX,
        description="Number of the face, counted from the left, starting at 0. Unset: the largest face.",
    )
    face_box: Box | None = Field(default=None, description="The face to animate: left, top, right, bottom in pixels.")
    options: dict[str, object] = Field(default={}, description="Options of one engine, see GET /v1/engines.")

    @field_validator("options")
    @classmethod
    def _can_be_stored(cls, options: dict[str, object]) -> dict[str, object]:
        """Refuse options that JSON cannot store."""
        if why := why_not_json(options):
            raise ValueError(why)
        return options

    @property
    def caption_script(self) -> str:
        """The words of the captions: the script, or else the text that the server speaks."""
        return self.script if self.script.strip() else self.text

    @property
    def recognises_words(self) -> bool:
        """Whether the words of the captions come from speech recognition: captions without a script or a text."""
        return self.captions in ("track", "burned") and not self.caption_script.strip()

    @property
    def wants_captions(self) -> bool:
        """Whether the video gets captions of any kind."""
        return self.captions in ("track", "burned") or (self.captions is None and bool(self.caption_script.strip()))


def check_captions(ask: Ask, weights_dir: Path | None) -> None:
    """Raise InvalidInput for captions that cannot be made.

    The script has no words, or there is no script and this server cannot recognise speech. weights_dir: the folder with
    the model for recognition; None if another machine renders, with a folder of its own.
    """
    if ask.recognises_words:
        if weights_dir is not None:
            recogniser_home(weights_dir)
    elif ask.wants_captions and not words_of(ask.caption_script):
        raise InvalidInput(
            "Captions need the spoken words: send words as script, or leave script out to have them recognised.",
            field="script",
        )


def check_text(ask: Ask) -> None:
    """Raise InvalidInput for a text without words, or a voice that does not exist."""
    check_voice(ask.voice)
    if ask.is_spoken and not words_of(ask.text):
        raise InvalidInput("The text has no words to speak.", field="text")
