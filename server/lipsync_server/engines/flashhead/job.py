"""One request in five chapters: face, windows, conditions, frames, save. `Job.frames` is the table of contents.

    1 face        the face is found and its square cut, or the job ends with a reason   video/face_crop.py
    2 windows     the frames that each run of the model makes                          models/sampling/windows.py
    3 conditions  the model is loaded; sound and picture are encoded                   video/window_loop.py
    4 frames      noise becomes a window of squares, which are set into the picture    video/paste_back.py
    5 save        the worker makes the frames durable, with a resume point

Chapters 4 and 5 repeat for each window. Knows requests, progress, cancelling and resume points. Does not know the
computations.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lipsync_server.engines.base import Frames, RenderContext, RenderRequest
from lipsync_server.engines.flashhead.loading.models import Models
from lipsync_server.engines.flashhead.model.config import WINDOW_FRAMES
from lipsync_server.engines.flashhead.options import DISTILLED_STEPS, Options
from lipsync_server.engines.flashhead.video.face_crop import SIDE, FaceCrop, crop_for, warnings_for
from lipsync_server.engines.flashhead.video.paste_back import PasteBack
from lipsync_server.engines.flashhead.video.placing import Place, Placing
from lipsync_server.engines.flashhead.video.window_loop import LoopSettings, WindowLoop, encode_picture
from lipsync_server.engines.landmarks import choose_face, landmarker
from lipsync_server.engines.progress import reporting_to, stop_if_cancelled
from lipsync_server.engines.second_attempt import Room, frames_with_room, with_room
from lipsync_server.errors import InvalidInput
from lipsync_server.models.encoders.speech import SAMPLES_PER_FRAME, SpeechEmbedding, Track
from lipsync_server.models.pictures import fit_picture, to_tensor, to_uint8
from lipsync_server.models.sampling.new_frames import NewFrames
from lipsync_server.models.sampling.resume import Start, start_of, state_after
from lipsync_server.models.sampling.sampler import draw_noise
from lipsync_server.models.sampling.windows import Schedule, Window, schedule

RAN_OUT = "The GPU's memory ran out once; the job went on with the model's weights in 8 bits."


def room_for(make: Callable[[], bool]) -> Room:
    """The Room of a job: after GPU memory ran out, its weights are rounded to 8 bits, which frees 1.4 GB."""
    return Room(make, "while FlashHead was at work", ("variant lite", "a GPU with 8 GB or more"))


Step = Callable[[int], Generator[Frames, None, Tensor | None]]
"""One window. Called with the number of its frames that were already yielded; yields the other frames."""
Enhance = Callable[[Tensor], Tensor]
"""Restores faces: squares (n, 3, 512, 512) in [0, 1] to squares of the same shape."""


@dataclass(frozen=True)
class _Square:
    """The square that the model animates, uint8 RGB (512, 512, 3), and the crop it came from (None: the middle)."""

    pixels: Frames
    crop: FaceCrop | None


class Job:
    """Makes the frames of one request."""

    def __init__(self, models: Models, request: RenderRequest, context: RenderContext) -> None:
        if not isinstance(request.options, Options):
            raise InvalidInput("FlashHead was given another engine's options.")
        self._models = models
        self._request, self._options, self._context = request, request.options, context

    def frames(self) -> Iterator[Frames]:
        """All frames of the video that are not stored yet: uint8 RGB (n, H, W, 3), in order."""
        self._warn_of_limits()
        square = self._square()
        room = room_for(self._make_room)
        start = self._start()
        self._models.recall(start.choices)
        with_room(lambda: self._models.load(self._options.variant, reporting_to(self._context)), room)
        plan = self._windows()
        loop = with_room(lambda: self._loop(square, start.generator), room)
        speech = with_room(lambda: self._speech(plan), room)
        known = start.known
        with closing(Placing(self._placing(square), self._models.device)) as placing:
            for window in plan.windows[start.window :]:
                step = partial(self._window, loop, speech, plan, window, known, placing)
                known = yield from frames_with_room(self._repeatable(step, start.generator), room)
                self._context.save(state_after(window.index, known, start.generator, self._models.chooser.in_use))

    def _make_room(self) -> bool:
        """Round the weights to 8 bits. Returns False if they are rounded already, so that nothing more can be freed."""
        if not self._models.make_room():
            return False
        self._context.warn(RAN_OUT)
        return True

    # 1 face

    def _warn_of_limits(self) -> None:
        """Warn about each part of the request that FlashHead ignores. Raises InvalidInput for two recordings."""
        if self._request.second_speech is not None:
            raise InvalidInput(
                "FlashHead moves one face, and two recordings were given. Send one, or use engine infinitetalk.",
                field="second_audio",
            )
        if self._request.picture_video is not None:
            self._context.warn("FlashHead animates a still picture; the first frame of the video was used.")
        if self._options.n_steps not in DISTILLED_STEPS:
            self._context.warn(
                f"FlashHead was trained for 2 or 4 steps; {self._options.n_steps} steps may look worse than 4."
            )

    def _square(self) -> _Square:
        """The square that the model animates. Raises NoFace or InvalidImage for a picture that cannot work."""
        stop_if_cancelled(self._context)
        self._context.progress("preprocess", 0, 4, "finding the face")
        options, picture = self._options, self._request.picture
        if options.framing == "centre":
            return _Square(fit_picture(picture, (SIDE, SIDE)), None)
        faces = landmarker().detect(picture, face_box=options.face_box)
        face = choose_face(faces, face_index=options.face_index, face_box=options.face_box)
        crop = crop_for(face, picture, options.face_scale)
        for warning in warnings_for(face, crop):
            self._context.warn(warning)
        return _Square(crop.cut(picture, SIDE), crop)

    # 2 windows

    def _windows(self) -> Schedule:
        config = self._models.transformer.config
        return schedule(
            self._request.n_frames,
            window_frames=WINDOW_FRAMES,
            motion_frames=config.motion_frames,
            stride=config.stride,
            whole_windows=True,
        )

    def _start(self) -> Start:
        """The first window, or the window after the resume point."""
        stored = self._context.resume_point
        return start_of(None if stored is None else stored.state, self._options.seed)

    # 3 conditions

    def _loop(self, square: _Square, generator: torch.Generator) -> WindowLoop:
        stop_if_cancelled(self._context)
        self._context.progress("preprocess", 1, 4, "looking at the face")
        picture = to_tensor(square.pixels).to(self._models.device)
        return WindowLoop(
            self._models.transformer,
            self._models.vae,
            LoopSettings(
                steps=self._options.n_steps,
                colour_correction=self._options.colour_correction,
                rounds_time=self._options.time_rounding == "bfloat16",
            ),
            picture=picture,
            condition=encode_picture(self._models.vae, picture, WINDOW_FRAMES),
            draw=lambda shape: draw_noise(shape, generator),
        )

    def _speech(self, plan: Schedule) -> SpeechEmbedding:
        """The features of the whole recording, at its own loudness, with silence to the end of the last window."""
        stop_if_cancelled(self._context)
        self._context.progress("preprocess", 2, 4, "listening to the sound")
        heard = plan.heard[0]
        track = Track(self._request.speech, heard * SAMPLES_PER_FRAME, levelled=False)
        return SpeechEmbedding(self._models.sound, track, heard)

    def _placing(self, square: _Square) -> Place:
        """Return the function from the loop's frames (3, n, 512, 512) in [-1, 1] to the video's frames."""
        options, crop = self._options, square.crop
        restore: Enhance | None = self._models.enhancer() if options.enhance else None
        self._context.progress("preprocess", 3, 4, "preparing the picture")
        paste: PasteBack | None = None
        if options.framing == "paste":
            assert crop is not None
            paste = PasteBack(
                self._request.picture, crop, square.pixels, self._models.device,
                feather=options.feather, follow_border=options.follow_border, grain=options.grain,
            )  # fmt: skip
        warned = False

        def place(frames: Tensor) -> Frames:
            nonlocal warned
            if paste is None and restore is None:
                return to_uint8(frames).cpu().numpy()
            squares = ((frames.permute(1, 0, 2, 3).float() + 1) / 2).clamp(0, 1)
            if restore is not None:
                squares = restore(squares)
            if paste is None:
                return to_uint8(squares.permute(1, 0, 2, 3) * 2 - 1).cpu().numpy()
            placed = paste(squares)
            if paste.n_beyond and not warned:
                warned = True
                self._context.warn(
                    "The head or the shoulders move beyond the square that FlashHead animates; they were bent back at "
                    "its border. A larger face_scale, for example 2.5, leaves more room."
                )
            return placed

        return place

    # 4 frames

    def _repeatable(self, window: Step, generator: torch.Generator) -> Step:
        """A window as a step that can be repeated: each attempt starts with the same random numbers."""
        random = generator.get_state()

        def attempt(n_sent: int) -> Generator[Frames, None, Tensor | None]:
            # A failed attempt has drawn random numbers.
            generator.set_state(random)
            return window(n_sent)

        return attempt

    def _window(
        self,
        loop: WindowLoop,
        speech: SpeechEmbedding,
        plan: Schedule,
        window: Window,
        known: Tensor | None,
        placing: Placing,
        n_sent: int,
    ) -> Generator[Frames, None, Tensor | None]:
        """Yield the window's new frames, without the first `n_sent`.

        Returns the latents with which the next window begins; None after the last window."""
        audio = speech.gather(plan.audio_indices(window))
        latents = loop.denoise(audio, known, lambda step: self._report(plan, window, step))
        is_last = window is plan.windows[-1]
        new = NewFrames(window, motion_frames=0 if is_last else plan.motion_frames, n_sent=n_sent)
        # The previous frames are placed into the picture while the GPU decodes the next ones.
        placed: deque[Callable[[], Frames]] = deque()
        for decoded in loop.decode(latents):
            if (kept := new.add(decoded)) is not None:
                self._report(plan, window, self._options.n_steps)
                placed.append(placing.begin(kept))
                if len(placed) > 1:
                    yield placed.popleft()()
            if new.complete:
                break
        taken_over = None if is_last else loop.take_over(new.tail())
        while placed:
            yield placed.popleft()()
        return taken_over

    def _report(self, plan: Schedule, window: Window, step: int) -> None:
        """Report that `step` of `window` begins, counted from 0. Raises Cancelled when the job is to stop."""
        stop_if_cancelled(self._context)
        self._context.progress("generate", *plan.progress(window, step, self._options.n_steps))
