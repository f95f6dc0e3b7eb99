"""The captions of one render: the words, timed by the recording, drawn into the frames or returned as a text track.

A decoder process times the script, or recognises the words where there is none. This module draws, between the engine
and the encoder.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lipsync_server.durable import write_file
from lipsync_server.engines.ask import Ask, check_captions
from lipsync_server.engines.recogniser import recogniser_home
from lipsync_server.extras import way_to_install
from lipsync_server.media.captions.cues import cues_of
from lipsync_server.media.captions.japanese import can_read_kanji, is_japanese
from lipsync_server.media.captions.subtitles import srt, vtt
from lipsync_server.media.info import HeardScript, SpeechFile
from lipsync_server.media.sandbox.pool import DecoderPool
from lipsync_server.media.sandbox.tasks import RecogniseWords, TimeScript
from lipsync_server.media_types import Frames
from lipsync_server.settings import RenderSettings

if TYPE_CHECKING:  # a fifth of a worker's start, for videos with captions in the picture
    from lipsync_server.media.captions.burn import Box, BurnedCaptions
    from lipsync_server.media.captions.fonts import Fonts

_OUTER_LIP = (61, 291, 0, 17, 37, 267, 84, 314)
_OPEN_MOUTH = 0.6
"""Space that captions keep free below and above the lips of the first frame, as a share of the lips' width.

The mouth opens and
the head moves into this space."""


_WORDS_SHOWN = 12
"""Words that a warning shows at most."""


class VideoCaptions:
    """The captions of one video. fonts_dir: the owner's own fonts. warn: called with each warning for the caller."""

    def __init__(self, ask: Ask, heard: HeardScript, fonts_dir: Path | None, warn: Callable[[str], None]) -> None:
        self.heard = heard
        self._ask = ask
        self._fonts = _fonts(fonts_dir) if ask.burns_captions else None
        self._burned: BurnedCaptions | None = None
        if heard.guessed:
            warn(_why_guessed(heard))
        elif not heard.fits:
            warn(
                "The script hardly sounds like the recording, so the captions may be out of time. "
                "Send the words that are spoken, in the language in which they are spoken."
            )
        if heard.guesses_vowels:
            warn(
                "The words are written with few of their short vowels, and the voice that times the captions guesses "
                "the others: a word may be shown up to half a second early or late. Look at the captions before you "
                "publish the video. In Arabic, a script with vowel marks is timed better."
            )
        if self._fonts is not None:
            for word in heard.words:
                self._fonts.runs(word.text)  # fail for a letter without a font now, and not in the middle of the render

    @property
    def track(self) -> HeardScript | None:
        """The script for the text track; None if the captions are drawn into the picture."""
        return None if self._ask.burns_captions else self.heard

    def draw_on(self, frames: Frames, first: int, fps: int, scratch: Path) -> Frames:
        """Draw burned captions on `frames` (n, H, W, 3); return other frames unchanged.

        first: number of the first frame.

        The mouth is found once, in the video's first frame. `scratch` stores its place for a resumed render.
        """
        if self._fonts is None:
            return frames
        if self._burned is None:
            from lipsync_server.media.captions.burn import BurnedCaptions

            height, width = frames.shape[1:3]
            mouth = mouth_in(frames, first, scratch / "mouth.json")
            self._burned = BurnedCaptions(self.heard.words, self._ask.caption_style, width, height, self._fonts, mouth)
        return self._burned.draw_on(frames, first, fps)

    def write_files(self, video: Path) -> None:
        """Write the captions as SRT and VTT beside the video, under its name."""
        cues = cues_of(self.heard.words)
        for suffix, text in ((".srt", srt(cues)), (".vtt", vtt(cues))):
            write_file(video.with_suffix(suffix), partial(_write_text, text))


def _fonts(folder: Path | None) -> "Fonts":
    from lipsync_server.media.captions.fonts import Fonts

    return Fonts(folder)


def _why_guessed(heard: HeardScript) -> str:
    """The warning about words whose times are guessed, with the way to better ones."""
    more = len(heard.guessed) - _WORDS_SHOWN
    listed = ", ".join(heard.guessed[:_WORDS_SHOWN]) + (f" and {more} more" if more > 0 else "")
    if is_japanese(heard.language) and not can_read_kanji():
        advice = f"For their readings install a dictionary. {way_to_install('japanese')}. Or send the script in kana"
    else:
        advice = "Send them in letters that the language is read in"
    return (
        "The times of these words are guessed, because the voice that times the captions cannot read them: "
        f"{listed}. They and the words beside them may be shown a second early or late. {advice}, or send no script: "
        "the words are then recognised, with times of their own."
    )


def _write_text(text: str, file: BinaryIO) -> None:
    file.write(text.encode())


def captions_for(
    ask: Ask,
    speech: SpeechFile,
    language: str | None,
    settings: RenderSettings,
    decoders: DecoderPool,
    warn: Callable[[str], None],
) -> VideoCaptions | None:
    """Return the captions that `ask` requests, timed by `speech`; None if it requests none.

    language: of the words, None to detect it from the recording.

    Raises InvalidInput for a script without words, a language without a voice, letters without a font, and for captions
    without a script where no model for speech recognition is here.
    """
    if not ask.wants_captions:
        return None
    check_captions(ask, settings.weights_dir)
    if ask.recognises_words:
        heard = _recognised(speech, language, recogniser_home(settings.weights_dir), decoders)
        if not heard.words:
            warn("No words were recognised in the recording, so the video has no captions.")
            return None
    else:
        heard = decoders.run(TimeScript(speech, ask.caption_script, language))
    return VideoCaptions(ask, heard, settings.fonts_dir, warn)


def _recognised(speech: SpeechFile, language: str | None, home: Path, decoders: DecoderPool) -> HeardScript:
    """The words of the recording. The decoder process ends with them, and with it the model in its memory."""
    with decoders.process() as process:
        try:
            return process.run(RecogniseWords(speech, language, home))
        finally:
            process.kill()


def mouth_in(frames: Frames, first: int, stored: Path) -> "Box | None":
    """The mouth's box as shares of the frame, from the first frame, or for a resumed render from a file."""
    if first and stored.is_file():
        known = json.loads(stored.read_text(encoding="ascii"))
        return tuple(known) if known else None
    from lipsync_server.engines.landmarks import landmarker

    faces = landmarker().detect(frames[0], max_faces=1)
    box: Box | None = None
    if faces:
        height, width = frames.shape[1:3]
        lips = faces[0].points[list(_OUTER_LIP), :2]
        (left, top), (right, bottom) = lips.min(0).tolist(), lips.max(0).tolist()
        room = _OPEN_MOUTH * (right - left)
        box = (left / width, (top - room / 2) / height, right / width, (bottom + room) / height)
    write_file(stored, lambda file: file.write(json.dumps(box).encode()))
    return box
