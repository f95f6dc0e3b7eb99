"""Renders one task: decode the files, generate frames, encode them meanwhile, join them with the caller's sound.

The CLI uses it in its own process; worker processes and Ray actors use it for the server. Knows the engine only through
its interface and media/ only through arrays and files; knows no job, no queue and no HTTP.

After a crash at any moment `task.scratch` has the files from which a second try resumes: the frames of ended video
segments, and resume points. A resume point holds the engine's state after a number of frames that are stored already.
Frames stored after the newest readable resume point are removed, so that video and engine continue at the same frame.
"""

import logging
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lipsync_server.durable import publish
from lipsync_server.engines import registry
from lipsync_server.engines.base import Engine, EngineOptions, Frames, RenderRequest, ResumePoint, Speech, State
from lipsync_server.engines.options import choose_options
from lipsync_server.errors import Cancelled, LipsyncError
from lipsync_server.media.info import VideoInfo
from lipsync_server.media.mp4.encoder import FrameEncoder
from lipsync_server.media.sandbox.pool import DecoderPool
from lipsync_server.media.sandbox.tasks import JoinVideo
from lipsync_server.settings import RenderSettings
from lipsync_server.workers.rendering.at_work import reported_at_work
from lipsync_server.workers.rendering.best_of import best_of
from lipsync_server.workers.rendering.captions import VideoCaptions, captions_for
from lipsync_server.workers.rendering.checked_frames import checked_frames
from lipsync_server.workers.rendering.checking import Checked, check_rendered, retries_for, why_too_dear
from lipsync_server.workers.rendering.encoding import BackgroundEncoder
from lipsync_server.workers.rendering.failures import in_words
from lipsync_server.workers.rendering.framing import VideoFraming
from lipsync_server.workers.rendering.inputs import decode_request, release_pages
from lipsync_server.workers.rendering.joining import join_and_mark
from lipsync_server.workers.rendering.label import VideoLabel
from lipsync_server.workers.rendering.measure import PeakMemory, ProgressScale, StageClock
from lipsync_server.workers.rendering.progressive import Progressive, remove_stream
from lipsync_server.workers.rendering.resume_point import clear_resume_points, load_resume_points, save_resume_point
from lipsync_server.workers.rendering.speech import speak_text
from lipsync_server.workers.task import ProgressEvent, RenderOutcome, RenderTask

log = logging.getLogger(__name__)

_RELEASE_INTERVAL_S = 1.0


def render(
    engine: Engine,
    task: RenderTask,
    report: Callable[[ProgressEvent], None],
    cancelled: Callable[[], bool],
    settings: RenderSettings,
    *,
    options_model: type[EngineOptions] | None = None,
    decoders: DecoderPool | None = None,
) -> RenderOutcome:
    """Render `task` with `engine`, loaded here if necessary, into `task.output`, which appears when it is complete.

    report: called often, so it must be fast. cancelled: called often. options_model: the options of an engine outside
    the registry. decoders: decoder processes that are kept for the next render; without them this render starts its
    own and ends them. Raises only LipsyncError: an error of the input, Cancelled, or a failure, whose stack trace is in
    the log.
    """
    own_decoders = DecoderPool(n_warm=1)
    try:
        pool = decoders or own_decoders
        model = options_model or registry.options_model(task.engine)

        def render_once(task: RenderTask, report: Callable[[ProgressEvent], None]) -> RenderOutcome:
            return _Render(engine, task, report, cancelled, settings, model, pool).run()

        n_retries = retries_for(task.ask, engine.name, model, settings).n_most
        if n_retries is None:
            return render_once(task, report)
        return best_of(
            task, render_once, report, max_retries=n_retries, in_words=lambda error: in_words(error, engine.name)
        )
    except LipsyncError:
        raise
    except Exception as error:  # any fault of an engine or a library becomes a sentence for the caller
        log.exception("rendering task %s with engine %s failed", task.task_id, engine.name)
        raise in_words(error, engine.name) from error
    finally:
        own_decoders.close()


@dataclass
class _Context:
    """The engine's view of the render; see engines.base.RenderContext."""

    scratch: Path
    resume_point: ResumePoint | None
    cancelled: Callable[[], bool]
    progress: Callable[..., None]
    warn: Callable[[str], None]
    save: Callable[[State], None]


class _Render:
    """One render from start to end: its inputs, clock, warnings and encoder."""

    def __init__(
        self,
        engine: Engine,
        task: RenderTask,
        report: Callable[[ProgressEvent], None],
        cancelled: Callable[[], bool],
        settings: RenderSettings,
        model: type[EngineOptions],
        decoders: DecoderPool,
    ) -> None:
        self._engine, self._task, self._settings = engine, task, settings
        self._decoders = decoders
        self._report, self._cancelled = report, cancelled
        chosen = choose_options(task.engine, model, task.ask, settings)
        self._options = chosen.options
        self._clock, self._scale, self._memory = StageClock(), ProgressScale(), PeakMemory()
        self._warnings = [*chosen.ignored, *([model.quality_note] if model.quality_note else [])]
        self._warnings += filter(None, [retries_for(task.ask, engine.name, model, settings).warning])
        self._engine_counts_frames = False
        self._framing = VideoFraming(task.ask, self._warn)
        self._label = VideoLabel(task.ask, settings.fonts_dir)
        self._captions: VideoCaptions | None = None
        self._voice = ""
        self._speeches: tuple[Speech, ...] = ()
        self._released_at = 0.0
        self._segments = task.scratch / "segments"

    def run(self) -> RenderOutcome:
        """Render in five steps: load the engine, decode the inputs, make the video, check it, measure."""
        self._task.scratch.mkdir(parents=True, exist_ok=True)
        self._load_engine()
        with reported_at_work(lambda note: self._progress("preprocess", 0, 1, note)):
            request, sound = self._decode_inputs()
        video = self._make_video(request, sound)
        checked = self._check(request)
        self._progress("check" if checked.quality is not None else "encode", 1, 1)
        return RenderOutcome(
            width=video.width,
            height=video.height,
            fps=video.fps,
            n_frames=video.n_frames,
            duration_s=video.duration_s,
            size_bytes=video.size_bytes,
            sha256=video.sha256,
            seed=self._options.seed,
            render_s=round(self._clock.total_s(), 4),
            stage_s=self._clock.seconds(),
            warnings=tuple(self._warnings),
            peak_rss_bytes=self._memory.rss_bytes(),
            peak_gpu_bytes=self._memory.gpu_bytes(),
            caption_language=self._captions.heard.language if self._captions is not None else "",
            quality=checked.quality,
            unchecked=checked.why_not,
            voice=self._voice,
        )

    def _load_engine(self) -> None:
        def loading(stage: str, done: float, total: float) -> None:
            self._stop_if_cancelled()
            self._progress("load", done, total, stage if stage != "load" else "")

        self._stop_if_cancelled()
        self._engine.load(loading)

    def _decode_inputs(self) -> tuple[RenderRequest, Path]:
        """The engine's request and the sound of the video; also prepares the captions."""
        self._stop_if_cancelled()
        self._clock.switch("preprocess")
        self._progress("preprocess", 0, 1)
        speaker = speak_text(
            self._task,
            self._settings,
            self._decoders,
            on_progress=lambda done, total: self._progress("preprocess", done, total, "speaking the text"),
            stop_if_cancelled=self._stop_if_cancelled,
        )
        if speaker is not None:
            self._voice = speaker.name
            if speaker.warning:
                self._warn(speaker.warning)
        inputs = decode_request(self._task, self._options, self._settings, self._decoders)
        request = self._framing.cut(inputs.request)
        for warning in inputs.warnings:
            self._warn(warning)
        # The language of a text that was spoken here is known. The language of a recording has to be detected.
        language = self._task.ask.language or (speaker.language if speaker is not None else None)
        self._captions = captions_for(
            self._task.ask, inputs.heard, language, self._settings, self._decoders, self._warn
        )
        self._speeches = tuple(speech for speech in (request.speech, request.second_speech) if speech is not None)
        return request, inputs.sound

    def _make_video(self, request: RenderRequest, sound: Path) -> VideoInfo:
        """Generate and encode the frames that are not stored yet, then join them with the sound as the output."""
        identity = "\n".join(
            (
                self._engine.name,
                self._options.model_dump_json(),
                request.prompt,
                f"{request.n_frames}@{request.fps}",
                *self._drawn_in(),
            )
        )
        encoder, resume_point = self._open_encoder(identity, request.n_frames)
        with ExitStack() as cleanup:
            cleanup.callback(encoder.abort)
            watched = self._progressive(request, sound, cleanup)
            if encoder.n_frames < request.n_frames:
                self._generate(request, encoder, resume_point, identity, watched)
            self._clock.switch("encode")
            encoder.close()
            if watched is not None and watched.has_begun:
                watched.finish()
        self._stop_if_cancelled()
        self._progress("encode", 1, 2, "joining picture and sound")
        self._task.output.parent.mkdir(parents=True, exist_ok=True)
        joined = self._task.output.with_name(f".{self._task.output.name}.joined")
        track = self._captions.track if self._captions is not None else None
        join = JoinVideo(self._segments, sound, joined, request.fps, request.duration_s, track)
        try:
            video = join_and_mark(join, self._engine.name, self._settings, self._decoders, self._warn)
            if self._captions is not None:
                self._captions.write_files(self._task.output)
            publish(joined, self._task.output)
        finally:
            joined.unlink(missing_ok=True)
        return video

    def _check(self, request: RenderRequest) -> Checked:
        """Check the finished video if the caller requested it, or if the check is cheap compared with the render."""
        wanted = self._task.ask.wants_check
        if wanted is None:
            dear = why_too_dear(request.duration_s, self._clock.total_s())
            wanted = dear is None
            why_not = dear or ""
        else:
            why_not = "The caller switched the check off."
        if not wanted:
            return Checked(None, why_not)
        self._clock.switch("check")
        return check_rendered(
            self._task.output,
            request,
            self._engine.name,
            sheet=self._task.sheet,
            scratch=self._task.scratch,
            decoders=self._decoders,
            on_progress=lambda share: self._progress("check", share, 1),
            stop_if_cancelled=self._stop_if_cancelled,
        )

    def _progressive(self, request: RenderRequest, sound: Path, cleanup: ExitStack) -> Progressive | None:
        """The growing file, if the task allows a live video. It ends before the video is joined, or with the job."""
        if not self._task.progressive:
            return None
        watched = Progressive(
            self._task.scratch, sound, self._decoders,
            segments=self._segments, fps=request.fps, duration_s=request.duration_s,
        )  # fmt: skip
        cleanup.callback(watched.close)
        return watched

    def _drawn_in(self) -> tuple[str, ...]:
        """Shape, label and burned captions of the stored frames, a part of the render's identity."""
        ask = self._task.ask
        drawn = (ask.format, str(ask.height), ask.fill) if ask.reshapes else ()
        drawn = (*drawn, *self._label.identity)
        if self._captions is None or not ask.burns_captions:
            return drawn
        return (*drawn, ask.caption_style, repr(self._captions.heard))

    def _open_encoder(self, identity: str, n_frames: int) -> tuple[FrameEncoder, ResumePoint | None]:
        """The encoder with the stored frames of an interrupted run, and the resume point to continue from."""
        scratch, settings = self._task.scratch, self._settings
        marker = scratch / "render.txt"

        def open_encoder() -> FrameEncoder:
            return FrameEncoder(
                self._segments, fps=self._task.fps, encoder=settings.video_encoder, crf=settings.video_crf
            )

        if marker.is_file() and marker.read_text(encoding="utf-8") == identity:
            encoder = open_encoder()
            if encoder.n_frames == n_frames:
                return encoder, None
            for resume_point in load_resume_points(scratch, identity):
                try:
                    encoder.rewind(resume_point.n_frames)
                except ValueError:
                    continue
                return encoder, resume_point
            encoder.abort()
        clear_resume_points(scratch)
        remove_stream(scratch)
        shutil.rmtree(self._segments, ignore_errors=True)
        marker.write_text(identity, encoding="utf-8")
        return open_encoder(), None

    def _generate(
        self,
        request: RenderRequest,
        encoder: FrameEncoder,
        resume_point: ResumePoint | None,
        identity: str,
        watched: Progressive | None,
    ) -> None:
        """Stream the engine's batches into `encoder` until it has all frames of the request."""
        background = BackgroundEncoder(encoder)
        n_done = encoder.n_frames

        def save(state: State) -> None:
            # Saved in the encoder's thread, so that a GPU does not wait; that thread needs a copy of the state.
            saved = ResumePoint(
                n_done, {key: np.copy(v) if isinstance(v, np.ndarray) else v for key, v in state.items()}
            )

            def store() -> None:
                encoder.end_segment()
                save_resume_point(self._task.scratch, saved, identity)
                if watched is not None:
                    watched.add()

            background.after_all(store)

        context = _Context(
            scratch=self._task.scratch,
            resume_point=resume_point,
            cancelled=self._cancelled,
            progress=self._engine_progress,
            warn=self._warn,
            save=save,
        )
        with closing(background), closing(checked_frames(self._engine, request, context, n_done)) as batches:
            try:
                for frames in batches:
                    frames = self._finish(frames, n_done, request.fps)
                    n_done += len(frames)
                    self._clock.switch("encode")
                    background.put(frames)
                    del frames
                    self._stop_if_cancelled()
                    self._clock.switch("generate")
                    if not self._engine_counts_frames:
                        self._progress("generate", n_done, request.n_frames)
            except Cancelled:
                raise
            except Exception:  # any error; the frames before it are kept for a second try
                background.drain()
                raise
            self._clock.switch("encode")
            self._progress("encode", 0, 2)
            while not background.drain(timeout_s=0.2):
                self._stop_if_cancelled()

    def _finish(self, frames: Frames, first: int, fps: int) -> Frames:
        """The engine's frames in the shape of the video, with captions and label. first: number of the first frame."""
        frames = self._framing.fit(frames)
        if self._captions is not None:
            frames = self._captions.draw_on(frames, first, fps, self._task.scratch)
        return self._label.draw_on(frames, first, self._task.scratch)

    def _engine_progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        """The engine's own progress, which from then on replaces the count of its frames."""
        if stage == "generate":
            self._engine_counts_frames = True
        if stage != self._clock.stage:
            self._clock.switch(stage)
        self._progress(stage, done, total, note)

    def _progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Report progress. Now and then this also releases the pages of the recordings (inputs.release_pages)."""
        now = time.monotonic()
        if now - self._released_at > _RELEASE_INTERVAL_S:
            self._released_at = now
            for speech in self._speeches:
                release_pages(speech)
        self._report(self._scale.event(stage, done, total, note))

    def _warn(self, message: str) -> None:
        """Add a sentence for the caller to the result, once."""
        if message not in self._warnings:
            self._warnings.append(message)

    def _stop_if_cancelled(self) -> None:
        if self._cancelled():
            raise Cancelled("The job was cancelled.")
