"""The program of a decoder process: reads tasks from standard input, one JSON line each, and answers in JSON lines.

Started by process.py as `python -m lipsync_server.media.sandbox.child`. The process ends when its standard input does,
which happens when the process that started it dies. JSON and not pickle, because the reader of these answers must not
run code that a hostile file has put into this process.
"""

import errno
import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import TypeAdapter

from lipsync_server.errors import LipsyncError
from lipsync_server.media.captions.script import words_of
from lipsync_server.media.framing.stills import write_still
from lipsync_server.media.info import HeardScript, Mark, SpokenPiece, TextInfo, VideoInfo
from lipsync_server.media.mp4.fragments import append_fragments
from lipsync_server.media.mp4.mux import mux, probe_video
from lipsync_server.media.picture import still_or_video as picture
from lipsync_server.media.picture.video import read_video_frames
from lipsync_server.media.sandbox import limits, tasks
from lipsync_server.media.sound import speech
from lipsync_server.media.sound.delivered import write_delivered
from lipsync_server.media.sound.mix import mix

READY = b'{"ready": true}\n'
"""The first line: the libraries are loaded, and a task is begun as soon as it comes."""

Handler = Callable[[Any, BinaryIO], object]


def _send_frames(task: tasks.ReadVideoFrames, answers: BinaryIO) -> int:
    """Write each frame as a line with its height and width, and its bytes; returns how many there were."""
    n_frames = 0
    frames = read_video_frames(
        task.path, task.indices, fps=task.fps, max_pixels=task.max_pixels, max_side=task.max_side
    )
    for frame in frames:
        answers.write(json.dumps({"frame": frame.shape[:2]}).encode() + b"\n")
        answers.write(frame.tobytes())
        answers.flush()
        n_frames += 1
    return n_frames


def _marked(path: Path, mark: Mark) -> VideoInfo:
    from lipsync_server.media.mp4.marking import mark_video  # loads a library of 20 MB, for this task alone

    mark_video(path, mark)
    return probe_video(path)


def _timed(task: tasks.TimeScript) -> HeardScript:
    from lipsync_server.media.captions.align import align  # loads a voice, for this task alone

    return align(words_of(task.script), speech.map_speech(task.speech), task.language)


def _recognised(task: tasks.RecogniseWords) -> HeardScript:
    from lipsync_server.media.captions.whisper import recognise  # loads a model, for this task alone

    return recognise(speech.map_speech(task.speech), task.language, task.home)


def _probed(task: tasks.ProbeText) -> TextInfo:
    from lipsync_server.media.voice.speak import probe_text  # loads a voice, for this task alone

    return probe_text(task.text, task.language)


def _spoken(task: tasks.SpeakPiece) -> SpokenPiece:
    from lipsync_server.media.voice.speak import speak_piece

    return speak_piece(task.piece, task.language, task.voice, task.home, task.target)


HANDLERS: dict[type[tasks.Task[Any]], Handler] = {
    tasks.ProbePicture: lambda task, _: picture.probe_picture(task.path, max_pixels=task.max_pixels),
    tasks.ProbeRecording: lambda task, _: speech.probe_audio(task.path, min_s=task.min_s, max_s=task.max_s),
    tasks.DecodePicture: lambda task, _: picture.write_picture(task.path, task.target, max_pixels=task.max_pixels),
    tasks.DecodeSpeech: lambda task, _: speech.write_speech(task.path, task.scratch, max_s=task.max_s),
    tasks.MixVoices: lambda task, _: mix(task.first, task.second, task.output, one_after_other=task.one_after_other),
    tasks.WriteSound: lambda task, _: write_delivered(
        task.path, task.output, lead_silence_s=task.lead_silence_s, loudness_lufs=task.loudness_lufs
    ),
    tasks.WriteStill: lambda task, _: write_still(task.path, task.output, task.kind, duration_s=task.duration_s),
    tasks.TimeScript: lambda task, _: _timed(task),
    tasks.RecogniseWords: lambda task, _: _recognised(task),
    tasks.ProbeText: lambda task, _: _probed(task),
    tasks.SpeakPiece: lambda task, _: _spoken(task),
    tasks.JoinVideo: lambda task, _: mux(
        task.folder, task.audio, task.output, fps=task.fps, duration_s=task.duration_s, script=task.script
    ),
    tasks.AppendFragments: lambda task, _: append_fragments(
        task.folder, task.audio, task.sound, task.stream, fps=task.fps, duration_s=task.duration_s
    ),
    tasks.MarkVideo: lambda task, _: _marked(task.path, task.mark),
    tasks.ReadVideoFrames: _send_frames,
}
_BY_NAME = {kind.__name__: kind for kind in HANDLERS}
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def answer(line: bytes, answers: BinaryIO) -> None:
    """Do the task of one line. Write the frames that the task sends, then the line with its result or error."""
    request = json.loads(line)
    kind = _BY_NAME[request["task"]]
    task = TypeAdapter(kind).validate_python(request["fields"])
    try:
        with limits.applied(task.limits()):
            result = HANDLERS[kind](task, answers)
        reply: dict[str, object] = {"result": TypeAdapter(type(result)).dump_python(result, mode="json")}
    except LipsyncError as error:
        reply = {"error": type(error).__name__, "detail": error.detail, "before_decoding": error.before_decoding}
    except MemoryError:
        reply = {"error": "memory"}
    except Exception as problem:  # a hostile file can make a decoder raise anything
        reply = _unforeseen(problem)
    answers.write(json.dumps(reply).encode() + b"\n")
    answers.flush()


def _unforeseen(problem: Exception) -> dict[str, object]:
    """The reply to an exception that no reader in media/ expects: full disk, too little memory, or a damaged file."""
    number = getattr(problem, "errno", None)
    if number in _DISK_FULL:
        return {"error": "disk_full"}
    if number == errno.ENOMEM:
        return {"error": "memory"}
    return {"error": "damaged", "detail": f"{type(problem).__name__}: {problem}"[:300]}


def _watch(source: BinaryIO, lines: "queue.SimpleQueue[bytes]") -> None:
    """Pass on lines as they come. The end of the input ends the process, also in the middle of a task."""
    for line in source:
        lines.put(line)
    os._exit(0)


def main() -> None:
    """Limit this process, then do one task after another until the input ends."""
    limits.confine_process()
    # Libraries that print must not write into the answers, so the answers get a descriptor of their own.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_watch, args=(sys.stdin.buffer, lines), name="watch", daemon=True).start()
    answers.write(READY)
    answers.flush()
    while True:
        answer(lines.get(), answers)


if __name__ == "__main__":
    main()
