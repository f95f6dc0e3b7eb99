"""Decodes a task's files to the request that an engine receives.

A process with limits (media/sandbox) decodes the files and writes the result to the task's scratch folder. So the
process with the engine runs no decoder, and its memory does not grow with the recording.
"""

import mmap
from dataclasses import dataclass
from pathlib import Path

from lipsync_server.engines.base import EngineOptions, RenderRequest, Speech
from lipsync_server.errors import InvalidInput
from lipsync_server.media.info import SpeechFile
from lipsync_server.media.picture.still_or_video import read_pixels
from lipsync_server.media.sandbox.pool import DecoderPool
from lipsync_server.media.sandbox.tasks import DecodePicture, DecodeSpeech, MixVoices, WriteSound
from lipsync_server.media.sound.speech import map_speech
from lipsync_server.settings import RenderSettings
from lipsync_server.workers.task import RenderTask


@dataclass(frozen=True)
class DecodedInputs:
    """The engine's request, the sound of the video, the same as a model hears it, and warnings for the caller."""

    request: RenderRequest
    sound: Path
    heard: SpeechFile
    warnings: tuple[str, ...]


def decode_request(
    task: RenderTask, options: EngineOptions, settings: RenderSettings, decoders: DecoderPool
) -> DecodedInputs:
    """Decode the task's files into its scratch folder.

    Raises media's errors for files that cannot be used, and InvalidInput for a second recording when the engine
    animates one person.
    """
    # Engines for two people have an option that orders the two recordings.
    audio_mode = getattr(options, "audio_mode", None)
    if task.second_audio is not None and audio_mode is None:
        raise InvalidInput(f"Engine {task.engine} animates one person: leave second_audio out.", field="second_audio")
    max_s = settings.max_audio_s
    pixels = decoders.run(DecodePicture(task.image, settings.max_image_pixels, task.scratch / "picture.rgb"))
    picture = read_pixels(pixels)
    pixels.path.unlink()
    ask = task.ask
    # Silence comes before both recordings, so that the engine, the captions and the video count the same seconds.
    max_s += ask.lead_silence_s
    audio = _with_silence(task.audio, "audio", task, max_s, decoders)
    heard = decoders.run(DecodeSpeech(audio, task.scratch, max_s))
    warnings, duration_s, sound = heard.warnings, heard.duration_s, audio
    second_speech, both = None, heard
    if task.second_audio is not None:
        second_audio = task.second_audio
        if audio_mode != "one_after_other":
            second_audio = _with_silence(second_audio, "second_audio", task, max_s, decoders)
        second = decoders.run(DecodeSpeech(second_audio, task.scratch, max_s))
        second_speech, warnings = map_speech(second), warnings + second.warnings
        sound = task.scratch / "voices.wav"
        one_after_other = audio_mode == "one_after_other"
        duration_s = decoders.run(MixVoices(audio, second_audio, sound, one_after_other, max_s))
        both = decoders.run(DecodeSpeech(sound, task.scratch, 2 * max_s)) if ask.wants_captions else heard
    if ask.loudness_lufs is not None:
        levelled = task.scratch / "sound.wav"
        warnings += decoders.run(WriteSound(sound, levelled, 0.0, ask.loudness_lufs, duration_s))
        sound = levelled
    request = RenderRequest(
        picture=picture,
        speech=map_speech(heard),
        duration_s=duration_s,
        options=options,
        prompt=ask.prompt,
        fps=task.fps,
        picture_video=task.image if pixels.info.is_video else None,
        second_speech=second_speech,
    )
    return DecodedInputs(request, sound, both, warnings)


def _with_silence(audio: Path, name: str, task: RenderTask, max_s: float, decoders: DecoderPool) -> Path:
    """`audio`, or a file of the scratch folder that begins with the silence that was asked for."""
    silence_s = task.ask.lead_silence_s
    if not silence_s:
        return audio
    longer = task.scratch / f"{name}.wav"
    decoders.run(WriteSound(audio, longer, silence_s, None, max_s))
    return longer


def release_pages(speech: Speech) -> None:
    """Release the memory pages of a memory-mapped recording; the kernel reads them from the file when needed again.

    Half an hour of speech would otherwise stay in memory after the engine has read it.
    """
    pages: object = speech.base
    if isinstance(pages, mmap.mmap):
        pages.madvise(mmap.MADV_DONTNEED)
