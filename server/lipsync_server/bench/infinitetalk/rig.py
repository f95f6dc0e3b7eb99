"""Windows of a film with random weights, computed and encoded as the engine and its worker do, with seconds by part.

The windows to measure are in windows.py. Does not know HTTP, model files or jobs.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from lipsync_server.bench.infinitetalk.bench import Bench
from lipsync_server.bench.record import Numbers, say
from lipsync_server.engines.base import FPS, Frames
from lipsync_server.engines.infinitetalk.flashtalk import MOTION_FRAMES, WINDOW_FRAMES, flashtalk_options
from lipsync_server.engines.infinitetalk.model.teacache import TeaCache
from lipsync_server.engines.infinitetalk.model.transformer import InfiniteTalkTransformer
from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.engines.infinitetalk.video.conditions import ConditionMaker, moving_picture, still_picture
from lipsync_server.engines.infinitetalk.video.guidance import GuidanceScales
from lipsync_server.engines.infinitetalk.video.run_window import consume, run_window
from lipsync_server.engines.infinitetalk.video.window_loop import LoopSettings, Prompts, WindowLoop
from lipsync_server.media.mp4.encoder import FrameEncoder
from lipsync_server.models.encoders.speech import SAMPLES_PER_FRAME, SpeechEmbedding, Track
from lipsync_server.models.sampling.side_stream import SideStream
from lipsync_server.models.sampling.windows import Window, schedule
from lipsync_server.random_models.networks import random_clip, random_vae, random_wav2vec
from lipsync_server.workers.rendering.encoding import BackgroundEncoder


class PartClock:
    """Seconds of each part of a window.

    On a GPU a part lasts from the moment at which the main stream reaches the part's beginning to the moment at which
    the stream reaches its end. The host does not wait, so that it queues the next part early, as in the engine. A part
    in which the GPU waits for the host counts in full.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._spans: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self.parts: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the seconds of the body to the part `name`."""
        if self._bench.cuda:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            yield
            end.record()
            self._spans.append((name, begin, end))
            return
        started = time.perf_counter()
        yield
        self._add(name, time.perf_counter() - started)

    def wait(self) -> None:
        """Wait for the device and add the parts that it has finished."""
        if self._bench.cuda:
            torch.cuda.current_stream(self._bench.device).synchronize()
        for name, begin, end in self._spans:
            self._add(name, begin.elapsed_time(end) / 1000)
        self._spans.clear()

    def _add(self, name: str, seconds: float) -> None:
        self.parts[name] = round(self.parts.get(name, 0.0) + seconds, 3)


class Rig:
    """All models except the transformer with random weights, a picture of noise, and noise as speech for a few windows.

    size: height and width in pixels. moves: whether the camera moves. flashtalk: whether to use the sampler and the
    windows of FlashTalk. keep_clip: whether CLIP stays on the GPU between pictures. encodes_beside: whether the picture
    of the next window is encoded during this window.
    """

    def __init__(
        self,
        bench: Bench,
        *,
        size: tuple[int, int],
        n_windows: int,
        n_people: int = 1,
        moves: bool = False,
        flashtalk: bool = False,
    ) -> None:
        self._bench, self._flashtalk = bench, flashtalk
        scale, device, cuda = bench.scale, bench.device, bench.cuda
        dtype = torch.bfloat16 if cuda else torch.float32
        sizes = scale.models
        self.vae = random_vae(device=device, dtype=dtype, base_dim=sizes.vae_width, kernels=cuda)
        self.clip = random_clip(
            device=device, dtype=torch.float16 if cuda else torch.float32, config=sizes.clip
        )  # fmt: skip
        self.wav2vec = random_wav2vec(device=device, config=sizes.wav2vec)
        n_window, n_motion = scale.window_frames, scale.motion_frames
        if flashtalk and cuda:
            n_window, n_motion = WINDOW_FRAMES, MOTION_FRAMES
        self._motion_frames, self._new_s = n_motion, (n_window - n_motion) / FPS
        n_frames = n_window + (n_window - n_motion) * (n_windows - 1)
        self.schedule = schedule(
            n_frames, n_people=n_people, window_frames=n_window, motion_frames=n_motion, whole_windows=flashtalk
        )
        heard = self.schedule.heard[0]
        voices = []
        for person in range(n_people):
            samples = np.random.default_rng(person).standard_normal(heard * SAMPLES_PER_FRAME) * 0.05
            voices.append(SpeechEmbedding(self.wav2vec, Track(samples.astype(np.float32), len(samples)), heard))
        self._voices, self._size = tuple(voices), size
        picture = np.random.default_rng(9).integers(0, 256, (*size, 3), dtype=np.uint8)
        self._picture_at = (moving_picture if moves else still_picture)(picture, None)
        self._side = SideStream(device)
        self.keep_clip, self.encodes_beside = True, False
        self.new_job()

    def new_job(self) -> None:
        """Forget encoded pictures, so that the next window encodes its picture again."""
        self.conditions = ConditionMaker(
            self._picture_at, self._voices, self.schedule,
            size=self._size, vae=self.vae, tokens_of=self._tokens, side=self._side,
        )  # fmt: skip

    @torch.inference_mode()
    def _tokens(self, picture: Tensor) -> Tensor:
        """CLIP's tokens of a picture. Without `keep_clip`, CLIP is on the GPU only for this call, as in the engine."""
        self.clip.to(self._bench.device)
        tokens = self.clip.encode(picture)
        if not self.keep_clip:
            self.clip.to(torch.device("cpu"))
        return tokens

    def loop(self, transformer: InfiniteTalkTransformer, preset: str, cache: TeaCache | None = None) -> WindowLoop:
        """The window loop of a job with this preset. cache: the step cache of the option teacache."""
        options = Options(preset=preset)
        sampling = (flashtalk_options(options) if self._flashtalk else options).sampling
        text = torch.randn(120, self._bench.config.text_dim, device=self._bench.device)
        scales = GuidanceScales(sampling.text_guidance, sampling.audio_guidance, sampling.guidance_interval)
        return WindowLoop(
            transformer, self.vae, Prompts(text, text),
            LoopSettings(
                sampling.steps, sampling.shift, scales, motion_frames=self._motion_frames, flashtalk=self._flashtalk
            ),
            colours=self.conditions.colours(), generator=torch.Generator().manual_seed(0), cache=cache,
        )  # fmt: skip

    def run(self, loop: WindowLoop, n_windows: int, found: Numbers, *, note: str) -> None:
        """Run the first `n_windows` windows.

        `found` receives the seconds of each part, and s_per_s: seconds of work per second of new video. s_per_s is
        computed from the last window, because the first ones include compiling.
        """
        windows: list[dict[str, float]] = []
        found["windows"] = windows
        known: Tensor | None = None
        with TemporaryDirectory(dir=self._bench.scratch, prefix="frames-") as folder, ExitStack() as after:
            encoder = FrameEncoder(Path(folder))
            after.callback(encoder.abort)
            sink = after.enter_context(closing(BackgroundEncoder(encoder)))
            for window in self.schedule.windows[:n_windows]:
                known, parts = self._window(loop, window, known, encoder, sink)
                windows.append(parts)
                say(f"{note}, window {window.index}: {parts}")
                self._bench.record.save()
            started = time.perf_counter()
            sink.drain()
            drained_s = round(time.perf_counter() - started, 3)
        found |= {
            "attention": loop.transformer.attention_line,
            "fused_blocks": loop.transformer.fast_blocks,
            "new_video_s": self._new_s,
            "s_per_s": round(windows[-1]["all"] / self._new_s, 3),
            "encoder_behind_s": drained_s,
        }

    def _window(
        self, loop: WindowLoop, window: Window, known: Tensor | None, encoder: FrameEncoder, sink: BackgroundEncoder
    ) -> tuple[Tensor, dict[str, float]]:
        """Run one window. Returns the latents that the next window repeats, and the seconds of each part."""
        clock = PartClock(self._bench)
        started = time.perf_counter()
        following = self.schedule.windows[window.index + 1 :]

        def put(batch: Frames) -> None:
            with clock.part("encoder_wait"):
                sink.put(batch)

        frames = run_window(
            loop, window, self.conditions, known,
            is_last=False, prefetch=following[0] if following and self.encodes_beside else None, clock=clock.part,
        )  # fmt: skip
        result = consume(frames, put)
        assert result.taken_over is not None

        def store() -> None:
            encoder.end_segment()

        # The worker stores each window for good, in the encoder's thread.
        with clock.part("encoder_wait"):
            sink.after_all(store)
        clock.wait()
        clock.parts["all"] = round(time.perf_counter() - started, 3)
        return result.taken_over, clock.parts
