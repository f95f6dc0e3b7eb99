"""One request in six chapters: cast, windows, conditions, denoise, decode, save. `Job.frames` is the table of contents.

    1 cast        who speaks, and where in the picture                       video/people.py
    2 windows     which frames each run of the model makes                   models/sampling/windows.py
    3 conditions  the model is loaded; prompt, sound and picture are encoded  video/conditions.py
    4 denoise     noise becomes the latents of a window                      video/window_loop.py
    5 decode      latents become frames, which leave at once                 video/run_window.py
    6 save        the worker makes the frames durable, with a resume point

Chapters 4 to 6 repeat for each window. Latents are compressed frames, on which the model computes; the VAE encodes
frames to latents and decodes latents to frames. Knows requests, progress, cancelling, resume points and a second
attempt when the GPU's memory runs out. Does not know the computations, nor how models are loaded (loading/models.py).
"""

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lipsync_server.engines.base import Frames, RenderContext, RenderRequest
from lipsync_server.engines.infinitetalk.files.transformers import People, find_transformers
from lipsync_server.engines.infinitetalk.flashtalk import (
    USED,
    flashtalk_options,
    flashtalk_size,
    wants_flashtalk,
    warnings_for,
)
from lipsync_server.engines.infinitetalk.loading.models import Models
from lipsync_server.engines.infinitetalk.loading.planner import Need
from lipsync_server.engines.infinitetalk.lora_choice import job_loras
from lipsync_server.engines.infinitetalk.model.teacache import TeaCache
from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.engines.infinitetalk.out_of_memory import room_for
from lipsync_server.engines.infinitetalk.video.conditions import (
    ConditionMaker,
    PictureAt,
    moving_picture,
    still_picture,
)
from lipsync_server.engines.infinitetalk.video.guidance import GuidanceScales
from lipsync_server.engines.infinitetalk.video.people import Cast, cast_of
from lipsync_server.engines.infinitetalk.video.run_window import rehearse, run_window
from lipsync_server.engines.infinitetalk.video.sizes import choose_size
from lipsync_server.engines.infinitetalk.video.video_picture import VideoPicture
from lipsync_server.engines.infinitetalk.video.window_loop import LoopSettings, Prompts, WindowLoop
from lipsync_server.engines.progress import reporting_to, stop_if_cancelled
from lipsync_server.engines.second_attempt import frames_with_room, with_room
from lipsync_server.models.encoders.speech import SAMPLES_PER_FRAME, SpeechEmbedding, Track
from lipsync_server.models.encoders.text import DEFAULT_PROMPT, NEGATIVE_PROMPT, clean_prompt
from lipsync_server.models.sampling.resume import Start, start_of, state_after
from lipsync_server.models.sampling.windows import Schedule, Window, schedule
from lipsync_server.settings import EngineSettings

_DOWNLOAD_POLL_S = 0.5
"""Seconds from one look for the text encoder's file to the next, while it is still being downloaded."""
_N_PREPARATIONS = 3
"""Parts of the preparation: sound, picture, prompt."""
RAN_OUT = "The GPU's memory ran out once; the job went on with more of the model in host memory."


@dataclass(frozen=True)
class _Ready:
    """The models, settings and conditions that all windows share."""

    need: Need
    plan: Schedule
    loop: WindowLoop
    conditions: ConditionMaker


class Job:
    """Makes the frames of one request. Call `close` after the last frame, and when the job is given up."""

    def __init__(
        self, models: Models, settings: EngineSettings, request: RenderRequest, context: RenderContext
    ) -> None:
        assert isinstance(request.options, Options)
        self._models, self._settings = models, settings
        self._request, self._options, self._context = request, request.options, context
        self._flashtalk = self._runs_flashtalk()
        if self._flashtalk:
            self._options = flashtalk_options(self._options)
        self._sampling = self._options.sampling
        # TeaCache counts forwards, so with TeaCache every step must make the same ones.
        interval = 1 if self._sampling.teacache > 0 else self._sampling.guidance_interval
        self._scales = GuidanceScales(self._sampling.text_guidance, self._sampling.audio_guidance, interval)
        height, width = request.picture.shape[:2]
        choose = flashtalk_size if self._flashtalk else choose_size
        self._size = choose(height, width, self._options.resolution)
        self._video: VideoPicture | None = None
        self._conditions: ConditionMaker | None = None

    def frames(self) -> Iterator[Frames]:
        """All frames of the video that are not stored yet: uint8 RGB (n, H, W, 3), in order."""
        cast = self._cast()
        self._warn_of_flashtalk()
        plan = self._windows(cast)
        need = self._need(cast)
        room = room_for(lambda: self._make_room(need), self._options)
        start = self._start()
        self._models.recall(start.choices)
        with_room(lambda: self._load(need), room)
        ready = with_room(lambda: self._prepare(need, cast, plan, start), room)
        known = start.known
        for window in plan.windows[start.window :]:
            self._models.first_run_of(self._size)
            step = self._denoise_and_decode(ready, window, known)
            known = yield from frames_with_room(step, room)
            self._context.save(state_after(window.index, known, start.generator, self._models.chooser.in_use))

    def close(self) -> None:
        """Close the video that stands for the picture, and wait for work on the side stream."""
        if self._video is not None:
            self._video.close()
        if self._conditions is not None:
            self._conditions.close()

    # 1 cast

    def _cast(self) -> Cast:
        """Who speaks. One speaker among several becomes one alone where only model files for one person are here."""
        wanted = cast_of(self._request, self._options)
        if not wanted.among_several or any(files.people == "multi" for files in find_transformers(self._settings)):
            return wanted
        self._context.warn(
            "Choosing one speaker among several people needs InfiniteTalk's multi weights, which are not here; the "
            "box was ignored, and everyone in the picture may move their lips."
        )
        return wanted.alone

    def _runs_flashtalk(self) -> bool:
        """Whether this job runs on FlashTalk's weights, which were trained for one person alone in the picture."""
        cast = cast_of(self._request, self._options)
        people: People = "multi" if len(cast.voices) == 2 else "single"
        still = self._request.picture_video is None
        return wants_flashtalk(self._settings, self._options, people=people, still=still)

    def _warn_of_flashtalk(self) -> None:
        """Warn that FlashTalk was chosen without being named, and of numbers that it was not trained for."""
        if not self._flashtalk:
            return
        if self._options.model == "auto":
            self._context.warn(USED)
        for warning in warnings_for(self._options, self._size):
            self._context.warn(warning)

    # 2 windows

    def _windows(self, cast: Cast) -> Schedule:
        return schedule(
            self._request.n_frames,
            n_people=len(cast.voices),
            window_frames=self._options.window_frames,
            motion_frames=self._options.motion_frames,
            whole_windows=self._flashtalk,
        )

    def _start(self) -> Start:
        """The first window, or the window after the resume point."""
        stored = self._context.resume_point
        return start_of(None if stored is None else stored.state, self._options.seed)

    # 3 conditions

    def _need(self, cast: Cast) -> Need:
        """The demands of this job on the models, by which they are chosen and their memory is planned."""
        height, width = self._size
        people: People = "multi" if len(cast.voices) == 2 else "single"
        return Need(
            people,
            self._sampling.distilled,
            height * width,
            len(self._scales.passes),
            flashtalk=self._flashtalk,
            loras=job_loras(self._settings, self._options.loras),
        )

    def _load(self, need: Need) -> None:
        for warning in self._models.load_transformer(need, reporting_to(self._context)):
            self._context.warn(warning)

    def _make_room(self, need: Need) -> bool:
        """Move half of the transformer's blocks to host memory. Returns whether that frees GPU memory."""
        if not self._models.make_room(need, reporting_to(self._context)):
            return False
        self._context.warn(RAN_OUT)
        return True

    def _prepare(self, need: Need, cast: Cast, plan: Schedule, start: Start) -> _Ready:
        """Compute once for the job: the sound's statistics, the picture's colours, the prompts' embeddings.

        The prompts come last, because their encoder may still be downloading. A rehearsal uses the time of this wait.
        """
        speech = self._speech(cast, plan)
        self._conditions = conditions = self._condition_maker(cast, plan, speech)
        colours = conditions.colours()
        prompts = self._prompts(lambda: self._rehearse(plan, conditions, colours, start))
        loop = WindowLoop(
            self._models.transformer, self._models.vae, prompts, self._loop_settings(),
            colours=colours, generator=start.generator, cache=self._teacache(),
        )  # fmt: skip
        return _Ready(need, plan, loop, conditions)

    def _speech(self, cast: Cast, plan: Schedule) -> tuple[SpeechEmbedding, ...]:
        """The features of each person's recording, with silence to the end of the last window."""
        self._report_preparation(0, "measuring the sound")
        heard = plan.heard[0]
        return tuple(
            SpeechEmbedding(self._models.wav2vec, Track(v.speech, heard * SAMPLES_PER_FRAME, offset=v.offset), heard)
            for v in cast.voices
        )

    def _condition_maker(self, cast: Cast, plan: Schedule, speech: tuple[SpeechEmbedding, ...]) -> ConditionMaker:
        """The maker of each window's conditions from picture and sound."""
        self._report_preparation(1, "looking at the picture")
        models = self._models
        return ConditionMaker(
            self._picture(cast, plan), speech, plan,
            size=self._size, vae=models.vae, tokens_of=models.encode_picture, side=models.side,
        )  # fmt: skip

    def _prompts(self, rehearse: Callable[[], None]) -> Prompts:
        """The embeddings of the prompts. rehearse: called during a wait for the text encoder."""
        self._report_preparation(2, "reading the prompt")
        prompt = clean_prompt(self._request.prompt) or DEFAULT_PROMPT
        negative = clean_prompt(self._options.negative_prompt) or NEGATIVE_PROMPT
        # Only guidance in three passes uses the negative prompt.
        prompts = [prompt, negative] if len(self._scales.passes) == 3 else [prompt]
        texts = self._models.encode_text(prompts, lambda: self._wait_for_text_encoder(rehearse))
        return Prompts(texts[0], texts[-1])

    def _rehearse(self, plan: Schedule, conditions: ConditionMaker, colours: Tensor, start: Start) -> None:
        """Run one step of the job's first window with an empty prompt, so that kernels are compiled already."""
        models = self._models
        text = torch.zeros(1, models.transformer.config.text_dim)
        loop = WindowLoop(
            models.transformer, models.vae, Prompts(text, text), replace(self._loop_settings(), steps=1),
            colours=colours, generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        for first in plan.windows[start.window :][:1]:
            rehearse(loop, first, conditions, start.known, lambda step: stop_if_cancelled(self._context))

    def _teacache(self) -> TeaCache | None:
        """The cache that skips passes, or None where the options switch it off."""
        sampling = self._sampling
        if sampling.teacache == 0:
            return None
        return TeaCache(self._options.resolution, sampling.steps, sampling.teacache, len(self._scales.passes))

    def _loop_settings(self) -> LoopSettings:
        """The settings of the window loop from the job's options."""
        options, sampling = self._options, self._sampling
        return LoopSettings(
            steps=sampling.steps,
            shift=sampling.shift,
            scales=self._scales,
            colour_correction=options.colour_correction,
            motion_frames=options.motion_frames,
            apg=(options.apg_momentum, options.apg_norm_threshold) if options.apg else None,
            flashtalk=self._flashtalk,
        )

    def _wait_for_text_encoder(self, rehearse: Callable[[], None]) -> None:
        """Use a part of the wait for a rehearsal if this process has made no window of this size; otherwise sleep."""
        self._report_preparation(2, "waiting for the text encoder, which is still being downloaded")
        if self._models.first_run_of(self._size):
            rehearse()
        else:
            time.sleep(_DOWNLOAD_POLL_S)

    def _picture(self, cast: Cast, plan: Schedule) -> PictureAt:
        """The picture of each window: a video's frame, the still picture, or the still picture as a camera moves."""
        request = self._request
        if request.picture_video is not None:
            self._video = VideoPicture(request.picture_video, request.picture, plan, cast.boxes)
            return self._video
        if self._options.moves_camera(request.duration_s, still=True):
            return moving_picture(request.picture, cast.boxes)
        return still_picture(request.picture, cast.boxes)

    # 4 denoise and 5 decode

    def _denoise_and_decode(
        self, ready: _Ready, window: Window, known: Tensor | None
    ) -> Callable[[int], Generator[Frames, None, Tensor | None]]:
        """One window as a step that can begin again: yields its frames, returns the latents for the next window."""
        loop, windows = ready.loop, ready.plan.windows
        random = loop.generator.get_state()
        is_last = window is windows[-1]

        def attempt(n_sent: int) -> Generator[Frames, None, Tensor | None]:
            # After a failed attempt another transformer is loaded, and random numbers were drawn.
            loop.restart(self._models.transformer, random)
            prefetches = not is_last and self._models.encodes_beside(ready.need)
            try:
                result = yield from run_window(
                    loop,
                    window,
                    ready.conditions,
                    known,
                    is_last=is_last,
                    prefetch=windows[window.index + 1] if prefetches else None,
                    n_sent=n_sent,
                    on_step=lambda step: self._report_step(ready.plan, window, step),
                )
            except RuntimeError:
                # Perhaps memory ran out: a second attempt needs the memory of kept keys and values.
                loop.forget()
                raise
            return result.taken_over

        return attempt

    # Progress

    def _report_preparation(self, n_done: int, part: str) -> None:
        """Report that a part of the preparation begins. Raises Cancelled when the job is to stop."""
        stop_if_cancelled(self._context)
        self._context.progress("preprocess", n_done, _N_PREPARATIONS, part)

    def _report_step(self, plan: Schedule, window: Window, step: int) -> None:
        """Report that `step` of `window` begins, counted from 0. Raises Cancelled when the job is to stop."""
        stop_if_cancelled(self._context)
        self._context.progress("generate", *plan.progress(window, step, self._sampling.steps))
