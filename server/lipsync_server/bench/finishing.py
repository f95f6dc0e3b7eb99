"""The cost of each part that finishes a video: check, marks, captions, label, shape, loudness, pictures, speech.

`lipsync bench --finishing` renders the shipped sample once, and then runs each part as a job runs it, alone and several
times. Gives seconds of work for a second of video: wall clock, and processor time of this process and its decoder
processes, which other programs on the machine change less. Short videos cost more for each second, because
processes and models start for a video of 9 s as for one of an hour. Knows the run of each part; prints nothing.
"""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import psutil

from lipsync_server.bench.record import Numbers
from lipsync_server.check.origin import moves_by_prediction
from lipsync_server.check.video import check_video
from lipsync_server.engines.ask import Ask
from lipsync_server.engines.base import EngineOptions, RenderRequest
from lipsync_server.engines.recogniser import recogniser_home
from lipsync_server.errors import InvalidInput
from lipsync_server.library import Lipsync
from lipsync_server.media.framing.wishes import Fill, VideoFormat
from lipsync_server.media.info import HeardScript, Mark, SpeechFile
from lipsync_server.media.mp4.certificate import identity_in
from lipsync_server.media.sandbox.pool import DecoderPool
from lipsync_server.media.sandbox.tasks import (
    DecodeSpeech,
    MarkVideo,
    RecogniseWords,
    SpeakPiece,
    TimeScript,
    WriteSound,
    WriteStill,
)
from lipsync_server.media.sandbox.video_frames import read_video_frames, video_duration_s
from lipsync_server.media.voice import choice
from lipsync_server.media.voice.voices import ESPEAK
from lipsync_server.media_types import Frames
from lipsync_server.paths import SAMPLES_DIR
from lipsync_server.settings import Settings
from lipsync_server.weights.places import folder_named
from lipsync_server.workers.rendering.captions import VideoCaptions
from lipsync_server.workers.rendering.framing import VideoFraming
from lipsync_server.workers.rendering.label import VideoLabel

SCRIPT: Final = (
    "Hello! I used to be a still picture. Now give me any recording of a voice, and I will say it for you, on your own "
    "machine."
)
"""The words of the shipped recording."""
FPS: Final = 25
HEIGHT_PX: Final = 720
_BATCH: Final = 25
_LONGEST_S: Final = 600.0
_SHAPES: Final[tuple[tuple[VideoFormat, Fill], ...]] = (("9:16", "blur"), ("16:9", "blur"), ("16:9", "plain"))


@dataclass(frozen=True)
class Part:
    """One measured part.

    wall_s, cpu_s: medians of seconds of work for a second of video. why_not: the reason why the part was not measured,
    or "".
    """

    name: str
    wall_s: float = 0.0
    cpu_s: float = 0.0
    n_runs: int = 0
    why_not: str = ""


def measure(settings: Settings, repeat: int) -> Iterator[Part]:
    """Measure the render of the sample with `settings.engine`, then each part. repeat: runs of each part."""
    with tempfile.TemporaryDirectory(prefix="lipsync-bench-") as folder:
        pool = DecoderPool(n_warm=1)
        try:
            yield from _Bench(settings, Path(folder), pool, repeat).parts()
        finally:
            pool.close()


def numbers_of(parts: list[Part], engine: str) -> Numbers:
    """The section `finishing` of a JSON file."""
    return {
        "engine": engine,
        "load_average": round(os.getloadavg()[0], 2),
        "parts": [asdict(part) for part in parts],
    }


class _Bench:
    """One run of the benchmark: the sample's files, the decoder processes, and the rendered video."""

    def __init__(self, settings: Settings, folder: Path, pool: DecoderPool, repeat: int) -> None:
        self._settings, self._folder, self._pool, self._repeat = settings, folder, pool, repeat
        self._image, self._audio = SAMPLES_DIR / "portrait.jpg", SAMPLES_DIR / "speech.wav"
        self._video = folder / "video.mp4"
        self._duration_s = 0.0

    def parts(self) -> Iterator[Part]:
        """Measure the render, then each part in turn."""
        yield self._rendered()
        self._duration_s = video_duration_s(self._video)
        speech = self._pool.run(DecodeSpeech(self._audio, self._folder, _LONGEST_S))
        frames = np.stack(list(read_video_frames(self._video, range(_BATCH), fps=FPS)))
        yield self._timed("check (`check`)", self._check)
        yield self._marked()
        heard = self._pool.run(TimeScript(speech, SCRIPT, "en"))
        yield self._timed(
            "captions timed by the script, `language` given", lambda: self._pool.run(TimeScript(speech, SCRIPT, "en"))
        )
        yield self._timed(
            "captions timed by the script, language found", lambda: self._pool.run(TimeScript(speech, SCRIPT, None))
        )
        yield self._recognised(speech)
        tall = self._framing("9:16", "blur").fit(frames)
        yield from self._burned(heard, tall)
        yield self._labelled(tall)
        for wanted, fill in _SHAPES:
            yield self._framed(wanted, fill, frames)
        yield self._timed("loudness and silence before the speech", self._loudness)
        for kind in ("poster.jpg", "preview.webp", "preview.gif"):
            yield self._timed(f"`{kind}`, at the first request", self._still(WriteStill(
                self._video, self._folder / kind, kind, self._duration_s
            )))  # fmt: skip
        yield self._spoken("speech from text, espeak-ng", ESPEAK)
        yield self._spoken("speech from text, Kokoro", "")

    def _timed(self, name: str, work: Callable[[], object], seconds: float | None = None) -> Part:
        """Run `work` once as a warm-up, then `repeat` times. seconds: of video that one run is for."""
        work()
        seconds = seconds or self._duration_s
        walls, cpus = [], []
        for _ in range(self._repeat):
            wall, cpu = time.perf_counter(), _cpu_s()
            work()
            walls.append((time.perf_counter() - wall) / seconds)
            cpus.append((_cpu_s() - cpu) / seconds)
        return Part(name, round(statistics.median(walls), 4), round(statistics.median(cpus), 4), self._repeat)

    def _rendered(self) -> Part:
        """Render the sample without a check."""
        with Lipsync.from_settings(self._settings) as engine:

            def render() -> None:
                engine.render(self._image, self._audio, self._video, check=False)

            render()
            return self._timed(f"the render itself ({engine.name})", render, video_duration_s(self._video))

    def _check(self) -> None:
        """Check the video as a job does."""
        check_video(
            self._video, self._folder, self._pool, sheet=self._folder / "sheet.jpg", duration_s=self._duration_s,
            no_score="by_prediction" if moves_by_prediction(self._settings.engine) else None,
        )  # fmt: skip

    def _marked(self) -> Part:
        """Write the marks into a copy of the video. The time includes the copying."""
        mark = Mark(self._settings.engine, identity_in(self._folder / "signing"))
        copy = self._folder / "marked.mp4"

        def work() -> None:
            shutil.copyfile(self._video, copy)
            self._pool.run(MarkVideo(copy, mark))

        return self._timed("XMP and C2PA marks", work)

    def _recognised(self, speech: SpeechFile) -> Part:
        """Recognise the words in a new process, which loads the model."""
        try:
            home = recogniser_home(self._settings.weights_dir)
        except InvalidInput as error:
            return Part("captions recognised by Whisper", why_not=str(error))
        name = f"captions recognised by Whisper, model of {(home / 'model.bin').stat().st_size / 1e6:.0f} MB"

        def work() -> None:
            with self._pool.process() as process:
                process.run(RecogniseWords(speech, "en", home))
                process.kill()

        return self._timed(name, work)

    def _burned(self, heard: HeardScript, frames: Frames) -> Iterator[Part]:
        """Draw captions in each style on whole seconds of video. frames: one second."""
        for style in ("plain", "box", "words"):
            ask = Ask(script=SCRIPT, captions="burned", caption_style=style)
            captions = VideoCaptions(ask, heard, self._settings.fonts_dir, _ignore)
            n_batches = int(self._duration_s)

            def work(captions: VideoCaptions = captions, n_batches: int = n_batches) -> None:
                for second in range(n_batches):
                    captions.draw_on(frames.copy(), second * _BATCH, FPS, self._folder)

            yield self._timed(f"burned captions, `{style}`, {_size(frames)}", work, n_batches)

    def _labelled(self, frames: Frames) -> Part:
        """Draw the label on one second of video."""
        label = VideoLabel(Ask(label="AI generated"), self._settings.fonts_dir)
        return self._timed(f"visible label, {_size(frames)}", lambda: label.draw_on(frames.copy(), 0, self._folder), 1)

    def _framing(self, wanted: VideoFormat, fill: Fill) -> VideoFraming:
        """The framing of a picture that the engine has rendered whole."""
        framing = VideoFraming(Ask(format=wanted, fill=fill, height=HEIGHT_PX), _ignore)
        framing.cut(RenderRequest(self._first_frame(), np.zeros(16_000, np.float32), 1.0, EngineOptions()))
        return framing

    def _first_frame(self) -> Frames:
        """The first frame of the video, uint8 RGB (H, W, 3)."""
        (frame,) = read_video_frames(self._video, range(1), fps=FPS)
        return frame

    def _framed(self, wanted: VideoFormat, fill: Fill, frames: Frames) -> Part:
        """Bring one second of video into another shape."""
        framing = self._framing(wanted, fill)
        size = _size(framing.fit(frames[:1]))
        return self._timed(f"`format={wanted}`, `fill={fill}`, {size}", lambda: framing.fit(frames), 1)

    def _loudness(self) -> None:
        """Write the sound with half a second of silence before it, at -14 LUFS."""
        self._pool.run(WriteSound(self._audio, self._folder / "sound.wav", 0.5, -14.0, _LONGEST_S))

    def _still(self, task: WriteStill) -> Callable[[], object]:
        """The work of one poster or preview."""
        return lambda: self._pool.run(task)

    def _spoken(self, name: str, voice: str) -> Part:
        """Speak the text in a new process. The figures are seconds of work for a second of speech."""
        home = folder_named(self._settings.weights_dir, choice.FOLDER)
        speaker = choice.choose_speaker(voice, "en", home)
        if not (speaker.voice or voice):
            return Part(name, why_not=speaker.warning)
        raw = self._folder / "speech.raw"

        def speak() -> float:
            raw.unlink(missing_ok=True)
            with self._pool.process() as process:
                made = process.run(
                    SpeakPiece(SCRIPT, speaker.language, speaker.voice, home if speaker.voice else None, raw)
                )
                process.kill()
            return made.n_samples / made.rate_hz

        return self._timed(name, speak, speak())


def _ignore(sentence: str) -> None:
    """Ignore a warning."""


def _size(frames: Frames) -> str:
    """Width and height in words."""
    return f"{frames.shape[2]} x {frames.shape[1]}"


def _cpu_s() -> float:
    """Processor seconds of this process and of all its children, living or ended."""
    own = psutil.Process()
    times = own.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in own.children(recursive=True):
        try:
            found = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += found.user + found.system + found.children_user + found.children_system
    return float(total)
