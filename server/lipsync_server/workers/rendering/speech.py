"""Speaks a task's text, if it has one in place of a recording, into the file where the recording would be.

Decoder processes speak, piece by piece, so that a long text shows progress and can be cancelled. The file appears by a
rename when it is complete. A second try of the job, and a second attempt for a better score, find the file there.
"""

import wave
from collections.abc import Callable
from pathlib import Path

from lipsync_server.durable import publish
from lipsync_server.errors import InvalidInput
from lipsync_server.media.sandbox.pool import DecoderPool
from lipsync_server.media.sandbox.tasks import ProbeText, SpeakPiece
from lipsync_server.media.voice import choice
from lipsync_server.media.voice.pieces import pieces_of
from lipsync_server.settings import RenderSettings
from lipsync_server.weights.places import folder_named
from lipsync_server.workers.task import RenderTask

_COPIED_BYTES = 1 << 20


def speak_text(
    task: RenderTask,
    settings: RenderSettings,
    decoders: DecoderPool,
    *,
    on_progress: Callable[[float, float], None],
    stop_if_cancelled: Callable[[], None],
) -> choice.Speaker | None:
    """Speak the text of `task` into its `audio`, and return who spoke; None for a task with a recording.

    Raises InvalidInput for a text or a voice that cannot be spoken here.
    """
    ask = task.ask
    if not ask.is_spoken:
        return None
    probed = decoders.run(ProbeText(ask.text, choice.language_named(ask.voice, ask.language)))
    home = folder_named(settings.weights_dir, choice.FOLDER)
    speaker = choice.choose_speaker(ask.voice, probed.language, home)
    if task.audio.is_file():
        return speaker
    raw = task.scratch / "speech.raw"
    raw.unlink(missing_ok=True)
    pieces = pieces_of(ask.text)
    n_samples = rate_hz = 0
    with decoders.process() as process:
        try:
            for done, piece in enumerate(pieces):
                stop_if_cancelled()
                on_progress(done, len(pieces))
                spoken = process.run(
                    SpeakPiece(piece, speaker.language, speaker.voice, home if speaker.voice else None, raw)
                )
                n_samples, rate_hz = n_samples + spoken.n_samples, spoken.rate_hz
                if n_samples > settings.max_audio_s * rate_hz:
                    raise choice.too_long(settings.max_audio_s)
        finally:
            process.kill()  # the voice's model would stay in the memory of a process that is kept for other files
    if n_samples == 0:
        raise InvalidInput(
            f"The text has no sound in the language {speaker.language}: give its language.", field="text"
        )
    _write_wav(raw, rate_hz, task.audio)
    raw.unlink()
    return speaker


def _write_wav(raw: Path, rate_hz: int, target: Path) -> None:
    """Write 16-bit mono samples as the WAV file `target`, which appears by a rename."""
    made = target.with_name(f".{target.name}.part")
    with wave.open(str(made), "wb") as sound, raw.open("rb") as samples:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate_hz)
        while block := samples.read(_COPIED_BYTES):
            sound.writeframesraw(block)
    publish(made, target)
