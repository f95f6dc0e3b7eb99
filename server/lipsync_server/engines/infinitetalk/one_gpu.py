"""InfiniteTalk behind the engine interface: one request to frames, window by window.

Knows requests, progress, cancelling, checkpoints and what to do when the GPU's memory runs out. The arithmetic is in
pipeline.py, what is loaded in models.py.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lipsync_server.engines.base import FPS, Frames, RenderContext, RenderRequest
from lipsync_server.engines.infinitetalk.loading.models import RAN_OUT, Models, Need
from lipsync_server.engines.infinitetalk.model.teacache import TeaCache
from lipsync_server.engines.infinitetalk.options import Options, Sampling
from lipsync_server.engines.infinitetalk.published import find_transformers
from lipsync_server.engines.infinitetalk.video.conditions import Conditions, PictureAt, moving_picture, still_picture
from lipsync_server.engines.infinitetalk.video.guidance import GuidanceScales
from lipsync_server.engines.infinitetalk.video.images import choose_size, to_uint8
from lipsync_server.engines.infinitetalk.video.people import Cast, cast_of
from lipsync_server.engines.infinitetalk.video.video_picture import VideoPicture
from lipsync_server.engines.infinitetalk.video.window_loop import LoopSettings, Prompts, WindowLoop
from lipsync_server.errors import Cancelled, InvalidInput, OutOfMemory
from lipsync_server.models.encoders.speech import SAMPLES_PER_FRAME, SpeechEmbedding, Track
from lipsync_server.models.encoders.text import DEFAULT_PROMPT, NEGATIVE_PROMPT, clean_prompt
from lipsync_server.models.sampling.windows import Schedule, Window, schedule
from lipsync_server.settings import Settings

Report = Callable[[str, float, float], None]
_OUT_OF_MEMORY = ("CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
# The size that the first transformer is loaded for, before any job has come: a square picture.
_USUAL_PIXELS = {"480p": 640 * 640, "720p": 960 * 960}


def _no_report(stage: str, done: float, total: float) -> None:
    pass


def _reporting_to(context: RenderContext) -> Report:
    """Progress of loading, which ends with Cancelled when the job is to stop."""

    def report(stage: str, done: float, total: float) -> None:
        if context.cancelled():
            raise Cancelled("The job was cancelled.")
        context.progress("load", done, total, stage)

    return report


class InfiniteTalkEngine:
    """The real model. load() takes minutes; one request at a time."""

    name = "infinitetalk"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._models: Models | None = None

    def load(self, report: Report = _no_report) -> None:
        """Load the encoders and the transformer that the settings' preset uses; idempotent."""
        if self._models is not None:
            return
        models = Models(self._settings)
        usual = Options(preset=self._settings.preset, resolution=self._settings.resolution)
        need = Need("single", usual.sampling.distilled, _USUAL_PIXELS[usual.resolution], 3)
        try:
            with _explained(usual):
                models.load_encoders(report)
                models.load_transformer(need, report)
        except BaseException:
            models.close()
            raise
        self._models = models

    def generate(self, request: RenderRequest, context: RenderContext) -> Iterator[Frames]:
        """Frames of the video, a few at a time; a checkpoint follows each window."""
        if not isinstance(request.options, Options):
            raise InvalidInput("InfiniteTalk was given another engine's options.")
        if request.fps != FPS:
            raise InvalidInput(f"InfiniteTalk makes {FPS} frames a second, not {request.fps}.", field="fps")
        self.load(_reporting_to(context))
        assert self._models is not None
        with (
            _explained(request.options),
            contextlib.closing(_Job(self._models, self._settings, request, request.options, context)) as job,
        ):
            yield from job.frames()

    def close(self) -> None:
        if self._models is not None:
            self._models.close()
            self._models = None


@dataclass
class _Progress:
    """Counts denoising steps over all windows, weighted by their latent frames."""

    context: RenderContext
    plan: Schedule
    steps: int

    def at(self, window: Window, step: int) -> None:
        """Raise Cancelled when the job is to stop, else report that `step` (0-based) of `window` begins."""
        if self.context.cancelled():
            raise Cancelled("The job was cancelled.")
        windows = self.plan.windows
        before = sum(w.n_latents for w in windows[: window.index]) * self.steps
        total = sum(w.n_latents for w in windows) * self.steps
        note = f"window {window.index + 1} of {len(windows)}, step {min(step + 1, self.steps)} of {self.steps}"
        self.context.progress("generate", before + step * window.n_latents, total, note)


class _Job:
    """One request: what it needs, and the windows one after the other."""

    def __init__(
        self, models: Models, settings: Settings, request: RenderRequest, options: Options, context: RenderContext
    ) -> None:
        self._models, self._settings = models, settings
        self._request, self._options, self._context = request, options, context
        self._sampling = options.sampling
        self._size = choose_size(request.picture.shape[0], request.picture.shape[1], options.resolution)
        self._cast = self._castable(cast_of(request, options))
        self._schedule = schedule(
            request.n_frames,
            n_people=len(self._cast.voices),
            window_frames=options.window_frames,
            motion_frames=options.motion_frames,
        )
        self._progress = _Progress(context, self._schedule, self._sampling.steps)
        self._scales = _scales(self._sampling)
        self._need = Need(
            "multi" if len(self._cast.voices) == 2 else "single",
            self._sampling.distilled,
            self._size[0] * self._size[1],
            len(self._scales.passes),
        )
        self._video: VideoPicture | None = None
        self._conditions: Conditions | None = None
        self._n_sent = 0

    def close(self) -> None:
        if self._video is not None:
            self._video.close()
        if self._conditions is not None:
            self._conditions.close()

    def frames(self) -> Iterator[Frames]:
        """All frames that are not stored yet."""
        first, known, generator = self._resume()
        self._load_transformer()
        loop, conditions = self._prepare_with_one_retry(generator)
        for window in self._schedule.windows[first:]:
            known = yield from self._with_one_retry(loop, conditions, window, known)
            self._save(window, known, generator)

    def _with_one_retry(
        self, loop: WindowLoop, conditions: Conditions, window: Window, known: Tensor | None
    ) -> Generator[Frames, None, Tensor | None]:
        """A window; when the GPU's memory runs out, once more with fewer of the model's blocks on the card."""
        stream = loop.generator.get_state()
        self._n_sent = 0
        try:
            return (yield from self._window(loop, conditions, window, known))
        except RuntimeError as error:
            if not ran_out(error):
                raise
            failure = out_of_memory(error, self._options)
        # Outside of the handler, whose traceback holds the failed attempt's tensors.
        self._make_room(failure)
        loop.generator.set_state(stream)
        loop.transformer = self._models.transformer
        if loop.cache is not None:
            loop.cache.restart()
        return (yield from self._window(loop, conditions, window, known))

    def _prepare_with_one_retry(self, generator: torch.Generator) -> tuple[WindowLoop, Conditions]:
        try:
            return self._prepare(generator)
        except RuntimeError as error:
            if not ran_out(error):
                raise
            failure = out_of_memory(error, self._options)
        self._make_room(failure)
        return self._prepare(generator)

    def _make_room(self, failure: OutOfMemory) -> None:
        """Move blocks of the model to host memory; raise `failure` where that is no way out."""
        if not self._models.shrink(self._need, _reporting_to(self._context)):
            raise failure
        self._context.warn(RAN_OUT)

    def _window(
        self, loop: WindowLoop, conditions: Conditions, window: Window, known: Tensor | None
    ) -> Generator[Frames, None, Tensor | None]:
        """The window's new frames, less those that a failed attempt sent; returns what the next window takes over."""
        latents = loop.denoise(window, conditions.at(window), known, lambda step: self._progress.at(window, step))
        is_last = window is self._schedule.windows[-1]
        # The host is a denoising step ahead, so the GPU has that to do, and to decode.
        if not is_last and self._models.encodes_beside(self._need):
            conditions.prefetch(self._schedule.windows[window.index + 1])
        tail: list[Tensor] = []
        position = 0
        for frames in loop.decode(latents):
            begin, position = position, position + frames.shape[1]
            first = max(begin, window.keep_first + self._n_sent)
            stop = min(position, window.keep_stop)
            if first < stop:
                self._progress.at(window, self._sampling.steps)
                batch = to_uint8(frames[:, first - begin : stop - begin]).cpu().numpy()
                self._n_sent += len(batch)
                yield batch
            if is_last and position >= window.keep_stop:
                return None
            tail.append(frames)
            while sum(part.shape[1] for part in tail[1:]) >= self._options.motion_frames:
                tail.pop(0)
        return loop.take_over(torch.cat(tail, 1)[:, -self._options.motion_frames :])

    def _resume(self) -> tuple[int, Tensor | None, torch.Generator]:
        """The first window to run, the latents it takes over, and the random stream as it was."""
        generator = torch.Generator().manual_seed(self._options.seed)
        checkpoint = self._context.checkpoint
        if checkpoint is None:
            return 0, None, generator
        state = checkpoint.state
        first, latents, stream = state["next_window"], state.get("latents"), state["random"]
        assert isinstance(first, int)
        assert isinstance(stream, np.ndarray)
        generator.set_state(torch.from_numpy(np.array(stream, np.uint8)))
        known = torch.from_numpy(np.array(latents, np.float32)) if isinstance(latents, np.ndarray) else None
        return first, known, generator

    def _save(self, window: Window, known: Tensor | None, generator: torch.Generator) -> None:
        state: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]] | int | float | str | bool] = {
            "next_window": window.index + 1,
            "random": generator.get_state().numpy(),
        }
        if known is not None:
            state["latents"] = known.float().cpu().numpy()
        self._context.save(state)

    def _castable(self, wanted: Cast) -> Cast:
        """`wanted`, or its speaker alone where only weights for one person are here."""
        if not wanted.among_several or any(f.people == "multi" for f in find_transformers(self._settings)):
            return wanted
        self._context.warn(
            "Choosing one speaker among several people needs InfiniteTalk's multi weights, which are not here; the "
            "box was ignored, and everyone in the picture may move their lips."
        )
        return wanted.alone

    def _load_transformer(self) -> None:
        for warning in self._models.load_transformer(self._need, _reporting_to(self._context)):
            self._context.warn(warning)

    def _prepare(self, generator: torch.Generator) -> tuple[WindowLoop, Conditions]:
        """Everything that is computed once: text, sound statistics, the picture's colours."""
        stages = iter(range(4))
        options, models = self._options, self._models

        def begin(what: str) -> None:
            if self._context.cancelled():
                raise Cancelled("The job was cancelled.")
            self._context.progress("preprocess", next(stages), 4, what)

        begin("reading the prompt")
        prompt = clean_prompt(self._request.prompt) or DEFAULT_PROMPT
        negative = clean_prompt(options.negative_prompt) or NEGATIVE_PROMPT
        # The negative prompt matters to the three-pass form only.
        texts = models.encode_text([prompt, negative] if len(self._scales.passes) == 3 else [prompt])
        begin("measuring the sound")
        heard = self._schedule.heard[0]
        speech = tuple(
            SpeechEmbedding(models.wav2vec, Track(v.speech, heard * SAMPLES_PER_FRAME, offset=v.offset), heard)
            for v in self._cast.voices
        )
        begin("looking at the picture")
        self._conditions = conditions = Conditions(
            self._picture(), speech, self._schedule,
            size=self._size, vae=models.vae, tokens_of=models.encode_picture, side=models.side,
        )  # fmt: skip
        sampling, cache = self._sampling, None
        if sampling.teacache > 0:
            cache = TeaCache(options.resolution, sampling.steps, sampling.teacache, len(self._scales.passes))
        loop = WindowLoop(
            models.transformer,
            models.vae,
            Prompts(texts[0], texts[-1]),
            LoopSettings(
                steps=sampling.steps,
                shift=sampling.shift,
                scales=self._scales,
                colour_correction=options.colour_correction,
                motion_frames=options.motion_frames,
                apg=(options.apg_momentum, options.apg_norm_threshold) if options.apg else None,
            ),
            colours=conditions.colours(),
            generator=generator,
            cache=cache,
        )
        return loop, conditions

    def _picture(self) -> PictureAt:
        request = self._request
        if request.picture_video is not None:
            self._video = VideoPicture(request.picture_video, request.picture, self._schedule, self._cast.boxes)
            return self._video
        if self._options.moves_camera(request.duration_s, still=True):
            return moving_picture(request.picture, self._cast.boxes)
        return still_picture(request.picture, self._cast.boxes)


def _scales(sampling: Sampling) -> GuidanceScales:
    # TeaCache counts forwards, so every step must make the same ones.
    interval = 1 if sampling.teacache > 0 else sampling.guidance_interval
    return GuidanceScales(sampling.text_guidance, sampling.audio_guidance, interval)


@contextlib.contextmanager
def _explained(options: Options) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not ran_out(error):
            raise
        raise out_of_memory(error, options) from error


def ran_out(error: RuntimeError) -> bool:
    """Whether memory ran out: the allocator has a class for it, cuBLAS and pinned memory only words."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


def out_of_memory(error: RuntimeError, options: Options) -> OutOfMemory:
    """What to do about torch's error, in a sentence."""
    smaller = "resolution 480p, " if options.resolution == "720p" else ""
    first_line = str(error).splitlines()[0] if str(error) else "out of memory"
    return OutOfMemory(
        f"The GPU's memory ran out ({first_line}). Try {smaller}int8 or fp8 weights, LIPSYNC_OFFLOAD=blocks, or stop "
        "other programs on the card."
    )
