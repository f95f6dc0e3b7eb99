"""Choose who speaks a text: a voice of Kokoro where the library and the model files are here, else espeak-ng.

Knows names of files and packages. Loads no model.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lipsync_server.errors import InvalidInput
from lipsync_server.extras import way_to_install
from lipsync_server.media.voice.voices import ESPEAK, VOICES, default_voice

PROFILE: Final = "kokoro"
"""The weights profile of Kokoro's model files."""
FOLDER: Final = "Kokoro-82M-v1.0-ONNX"
PULL: Final = f"lipsync weights pull {PROFILE}"
MODEL_FILE, TOKENIZER_FILE, VOICES_FOLDER = "onnx/model_quantized.onnx", "tokenizer.json", "voices"


@dataclass(frozen=True)
class Speaker:
    """The voice of a text. voice: a name of Kokoro's, "" for espeak-ng. warning: for the caller, "" for none."""

    language: str
    voice: str
    warning: str = ""

    @property
    def name(self) -> str:
        """The voice in words: for the result of a job."""
        return f"Kokoro {self.voice}" if self.voice else f"espeak-ng {self.language} (robotic)"


def check_voice(voice: str) -> None:
    """Raise InvalidInput for a voice that does not exist."""
    if voice and voice != ESPEAK and voice not in VOICES:
        raise InvalidInput(
            f"There is no voice {voice}. The voices are {', '.join(VOICES)}, and {ESPEAK}, which sounds robotic.",
            field="voice",
        )


def language_named(voice: str, language: str | None) -> str | None:
    """The language that the caller named, or the language of the named voice; None if it must be detected."""
    return language or VOICES.get(voice)


def too_long(max_audio_s: float) -> InvalidInput:
    """The refusal of a text that takes longer to speak than the longest sound that the server accepts."""
    return InvalidInput(
        f"The text takes more than {max_audio_s:.0f} s to speak, the longest sound that this server accepts. Send it "
        "in parts.",
        field="text",
    )


def choose_speaker(voice: str, language: str, home: Path) -> Speaker:
    """The speaker of a text in `language`. voice: as the caller chose it, "" for none. home: Kokoro's folder.

    Raises InvalidInput for a voice of Kokoro whose model files or library are not here.
    """
    check_voice(voice)
    if voice == ESPEAK:
        return Speaker(language, "", "The voice is espeak-ng's, which sounds robotic.")
    wanted = voice or default_voice(language)
    if wanted is None:
        return Speaker(
            language, "", f"The voice is espeak-ng's, which sounds robotic: Kokoro does not speak {language}."
        )
    why_not = why_no_kokoro(wanted, home)
    if why_not is None:
        return Speaker(_for_kokoro(language, wanted), wanted)
    if voice:
        raise InvalidInput(f"The voice {voice} needs Kokoro. {why_not}", field="voice")
    return Speaker(language, "", f"The voice is espeak-ng's, which sounds robotic. For a natural one: {why_not}")


def why_no_kokoro(voice: str, home: Path) -> str | None:
    """The commands to run on the server so that Kokoro can speak with `voice`; None if it can already."""
    wanted = (MODEL_FILE, TOKENIZER_FILE, f"{VOICES_FOLDER}/{voice}.bin")
    pull = "" if all((home / name).is_file() for name in wanted) else PULL
    if importlib.util.find_spec("onnxruntime") is None:
        return way_to_install("speech", then=pull)
    return f"Run on the server: {pull}" if pull else None


def _for_kokoro(language: str, voice: str) -> str:
    """The accent in which espeak-ng spells the text: of the voice, where the language alone leaves it open."""
    spoken = VOICES[voice]
    return spoken if language.lower() == spoken.partition("-")[0].lower() else language
