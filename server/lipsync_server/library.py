"""Lipsync as a library: a model that stays loaded, and videos from Python in three lines.

    from lipsync_server import Lipsync

    with Lipsync("preview") as engine:
        engine.render("portrait.jpg", "speech.wav", "video.mp4")

Options, errors, warnings and results are the same as for a job of the server. There is no server, no database and no
queue: the caller's own thread renders, one video after the other. Knows the worker's render() and the decoder
processes, which read untrusted files in place of this process. Does not know HTTP or jobs.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from lipsync_server.engines import registry
from lipsync_server.engines.ask import Ask, check_captions, check_text
from lipsync_server.engines.base import Engine, Frames, ResumePoint, State
from lipsync_server.engines.options import choose_options
from lipsync_server.errors import InvalidInput
from lipsync_server.media.sandbox.pool import DecoderPool
from lipsync_server.media.sandbox.tasks import ProbeRecording
from lipsync_server.settings import Settings
from lipsync_server.validation import invalid
from lipsync_server.workers.rendering.checked_frames import checked_frames
from lipsync_server.workers.rendering.framing import VideoFraming
from lipsync_server.workers.rendering.inputs import DecodedInputs, decode_request
from lipsync_server.workers.rendering.render import render
from lipsync_server.workers.rendering.speech import speak_text
from lipsync_server.workers.task import ProgressEvent, RenderOutcome, RenderTask

OnProgress = Callable[[ProgressEvent], None]
FileName = str | PathLike[str]
# Keywords that several engines understand. Every other keyword is an option of one engine.
_WISHES = tuple(name for name in Ask.model_fields if name not in ("prompt", "options"))


def _show_nothing(event: ProgressEvent) -> None:
    """Ignore the progress."""


def _never() -> bool:
    """Never cancel."""
    return False


def _continue() -> None:
    """Continue, because frames() has no cancellation."""


class Lipsync:
    """One engine, chosen by the constructor and loaded at its first use. Use it in a `with` block.

    engine: `preview`, `sadtalker`, ..., or `auto` for the best engine whose model files and hardware are present.
    weights: the folder with the model files. Other keywords are settings of the server, such as device="cuda:1" or
    preset="fast". All other settings come from LIPSYNC_* variables and .env, as in the server.

    Raises InvalidInput for a setting that does not exist or has a wrong value, and EngineUnavailable, with the remedy,
    if the engine cannot run. `name` is the chosen engine; `why` is one line with the reason of the choice.
    """

    def __init__(self, engine: str | None = None, *, weights: FileName | None = None, **settings: object) -> None:
        given = {"engine": engine, "weights_dir": weights, **settings}
        unknown = sorted(set(settings) - set(Settings.model_fields))
        if unknown:
            raise InvalidInput(
                f"Lipsync has no setting {unknown[0]}. The options of one video go to render(), the settings are "
                "listed in the README.",
                field=unknown[0],
            )
        try:
            made = Settings.model_validate({name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            raise invalid(error, owner="Lipsync", noun="setting", model=Settings) from error
        registry.ENGINES.check_name(made.engine)
        self._start(made)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """An engine for a whole Settings object, which the command line has."""
        made = cls.__new__(cls)
        made._start(settings)
        return made

    def _start(self, settings: Settings) -> None:
        """Choose the engine. Raises EngineUnavailable."""
        self._settings = settings
        self.name, self.why = registry.choose(settings)
        self._engine: Engine | None = None
        self._decoders: DecoderPool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def load(self) -> None:
        """Load the models now, not with the first video. A second call does nothing."""
        self._opened().load()

    def close(self) -> None:
        """Release memory and devices. The next video loads the engine again."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        if self._decoders is not None:
            self._decoders.close()
            self._decoders = None

    def render(
        self,
        image: FileName,
        audio: FileName | None,
        output: FileName,
        *,
        prompt: str = "",
        second_audio: FileName | None = None,
        on_progress: OnProgress = _show_nothing,
        cancelled: Callable[[], bool] = _never,
        sheet: FileName | None = None,
        **options: object,
    ) -> RenderOutcome:
        """Render one video to the MP4 file `output`. The file appears only when it is complete.

        image: a picture, or a video of a face. audio: the recording, which becomes the sound of the video at its own
        quality; None with text="...". on_progress: called often, with the stage and the share that is done. cancelled:
        called often; True raises Cancelled. sheet: path of the contact sheet; with a sheet the video is checked.

        options: preset, resolution, seed, face_index, face_box, and the engine's own options, as in `lipsync engines`.
        text: words to speak (docs/speech.md); their sound is written beside the video as WAV. format, height,
        loudness_lufs: docs/formats.md. script, captions: docs/captions.md; SRT and VTT files are written beside the
        video. check, retries_below, retries: docs/quality-check.md; the outcome's `quality` has score and findings.

        The outcome's `warnings` name every input that was ignored or changed. Raises LipsyncError with a sentence for a
        person.
        """
        ask = self._ask(prompt, options)
        return self.render_ask(
            image, audio, output, ask, second_audio, on_progress=on_progress, cancelled=cancelled, sheet=sheet
        )

    def render_ask(
        self,
        image: FileName,
        audio: FileName | None,
        output: FileName,
        ask: Ask,
        second_audio: FileName | None = None,
        *,
        on_progress: OnProgress = _show_nothing,
        cancelled: Callable[[], bool] = _never,
        sheet: FileName | None = None,
    ) -> RenderOutcome:
        """Render one video with all options as one `Ask`. All other arguments are the same as in render()."""
        path = Path(output)
        if sheet is not None:
            ask = _checked(ask, Path(sheet))
        if path.suffix.lower() != ".mp4":
            raise InvalidInput(f"The output is an MP4 video: name it {path.with_suffix('.mp4')}.")
        if path.is_dir():
            raise InvalidInput(f"{path} is a folder; name a file in it.")
        with tempfile.TemporaryDirectory(prefix="lipsync-") as scratch:
            task = self._task(image, audio, second_audio, path, Path(scratch), ask)
            task = replace(task, sheet=Path(sheet) if sheet is not None else None)
            outcome = render(
                self._opened(), task, on_progress, cancelled, self._settings, decoders=self._decoder_processes()
            )
            if ask.is_spoken:
                shutil.copyfile(task.audio, path.with_suffix(".wav"))
            return outcome

    def frames(
        self,
        image: FileName,
        audio: FileName | None,
        *,
        prompt: str = "",
        second_audio: FileName | None = None,
        on_progress: OnProgress = _show_nothing,
        on_warning: Callable[[str], None] | None = None,
        **options: object,
    ) -> Iterator[Frames]:
        """The frames of one video as uint8 RGB arrays (n, height, width, 3), 25 a second, without sound or encoding.

        Frames are yielded as soon as they are final, a few at a time. All frames together cover the whole recording. If
        the caller ends the loop early, the engine stops. on_warning: called with each warning of a job's result. The
        other arguments are the same as in render().
        """
        ask = self._ask(prompt, options)
        chosen = choose_options(self.name, registry.options_model(self.name), ask, self._settings)
        warn = on_warning or (lambda _: None)
        for sentence in chosen.ignored:
            warn(sentence)
        with tempfile.TemporaryDirectory(prefix="lipsync-") as scratch:
            folder = Path(scratch)
            task = self._task(image, audio, second_audio, folder / "video.mp4", folder, ask)
            context = _FramesContext(folder, on_progress, warn)
            speaker = speak_text(
                task, self._settings, self._decoder_processes(),
                on_progress=lambda done, total: context.progress("preprocess", done, total, "speaking the text"),
                stop_if_cancelled=_continue,
            )  # fmt: skip
            if speaker is not None and speaker.warning:
                warn(speaker.warning)
            inputs: DecodedInputs = decode_request(task, chosen.options, self._settings, self._decoder_processes())
            for sentence in inputs.warnings:
                warn(sentence)
            framing = VideoFraming(ask, warn)
            request = framing.cut(inputs.request)
            engine = self._opened()
            engine.load()
            with closing(checked_frames(engine, request, context, 0)) as batches:
                for frames in batches:
                    yield framing.fit(frames)

    def _ask(self, prompt: str, options: dict[str, object]) -> Ask:
        """The options as one `Ask`. Raises InvalidInput."""
        wishes = {name: options[name] for name in _WISHES if name in options}
        own = {name: value for name, value in options.items() if name not in wishes}
        try:
            return Ask.model_validate({"prompt": prompt, **wishes, "options": own})
        except ValidationError as error:
            raise invalid(error, owner="the video", noun="option", model=Ask) from error

    def _task(
        self,
        image: FileName,
        audio: FileName | None,
        second_audio: FileName | None,
        output: Path,
        scratch: Path,
        ask: Ask,
    ) -> RenderTask:
        """Make the task.

        Checks that the files exist, that the options suit the engine, and that the sound has a valid length.
        """
        if (audio is None) != ask.is_spoken:
            raise InvalidInput(
                "Give a recording, or words to speak as text: one of the two. The words of a recording, for captions, "
                "are the option script.",
                field="text",
            )
        recordings = [Path(each) for each in (audio, second_audio) if each is not None]
        for path in (Path(image), *recordings):
            if not path.is_file():
                raise InvalidInput(f"There is no file {path}.")
        choose_options(self.name, registry.options_model(self.name), ask, self._settings)
        check_text(ask)
        check_captions(ask, self._settings.weights_dir)
        for path in recordings:
            probe = ProbeRecording(path, self._settings.min_audio_s, self._settings.max_audio_s)
            self._decoder_processes().run(probe)
        return RenderTask(
            task_id="library",
            engine=self.name,
            image=Path(image),
            audio=Path(audio) if audio is not None else scratch / "speech.wav",
            output=output,
            scratch=scratch,
            ask=ask,
            second_audio=Path(second_audio) if second_audio is not None else None,
        )

    def _opened(self) -> Engine:
        """The engine, made at the first call."""
        if self._engine is None:
            self._engine = registry.create(self.name, self._settings)
        return self._engine

    def _decoder_processes(self) -> DecoderPool:
        """The decoder processes, started at the first call."""
        if self._decoders is None:
            self._decoders = DecoderPool(n_warm=1)
        return self._decoders


def _checked(ask: Ask, sheet: Path) -> Ask:
    """Switch the check on, because a contact sheet needs it. Raises InvalidInput if the caller switched it off."""
    if sheet.suffix.lower() not in (".jpg", ".jpeg"):
        raise InvalidInput(f"The contact sheet is a JPEG: name it {sheet.with_suffix('.jpg')}.", field="sheet")
    if ask.check is False:
        raise InvalidInput("A contact sheet needs the check; leave check out, or leave the sheet out.", field="sheet")
    return ask.model_copy(update={"check": True})


@dataclass
class _FramesContext:
    """The render context of frames(). It stores no resume points, so a render cannot be resumed."""

    scratch: Path
    on_progress: OnProgress
    warn: Callable[[str], None]
    resume_point: ResumePoint | None = None

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        self.on_progress(ProgressEvent(stage, done, total, done / total if total else 0.0, note))

    def cancelled(self) -> bool:
        return False

    def save(self, state: State) -> None:
        pass
