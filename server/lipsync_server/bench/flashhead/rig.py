"""FlashHead's model files with random weights, and one timed job of the real engine with frames that are encoded.

Random weights cost as much time and memory as trained ones. The jobs to measure are in command.py.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lipsync_server.bench import memory
from lipsync_server.bench.clock import Clock, median, relative_error
from lipsync_server.bench.record import Numbers, Record, say
from lipsync_server.bench.render_context import RecordingContext
from lipsync_server.engines.base import FPS, SPEECH_RATE_HZ, Frames, RenderRequest, State
from lipsync_server.engines.flashhead.engine import FlashHeadEngine
from lipsync_server.engines.flashhead.model.config import WINDOW_FRAMES
from lipsync_server.engines.flashhead.options import Options, Variant
from lipsync_server.engines.flashhead.video.face_crop import SIDE
from lipsync_server.media.mp4.encoder import FrameEncoder
from lipsync_server.models.sampling.sampler import draw_noise
from lipsync_server.paths import SAMPLES_DIR
from lipsync_server.quantization import EightBit
from lipsync_server.random_models import flashhead as random_models
from lipsync_server.settings import EngineSettings
from lipsync_server.workers.rendering.encoding import BackgroundEncoder


@dataclass(frozen=True)
class Scale:
    """All sizes: as published, or tiny for a dry run on a CPU.

    picture: width and height of the whole picture in pixels.
    n_windows: windows of a measured job. If there are several, the speed does not include the first one.
    """

    models: random_models.Sizes = random_models.FULL
    picture: tuple[int, int] = (1024, 1200)
    n_windows: int = 9


FULL = Scale()
TINY = Scale(models=random_models.TINY, picture=(256, 256), n_windows=1)


@dataclass
class _TimedContext(RecordingContext):
    """Stores the time of each save, which is the end of a window. saved_at: seconds on `time.perf_counter`."""

    saved_at: list[float] = field(default_factory=list)

    def save(self, state: State) -> None:
        super().save(state)
        self.saved_at.append(time.perf_counter())


@dataclass
class Bench:
    """Sizes, device, files and record of one run. scratch: folder for the model files, 10 GB for a variant."""

    scale: Scale
    device: torch.device
    scratch: Path
    record: Record
    repeats: int = 4
    clock: Clock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = Clock(self.device, self.repeats)

    def model_files(self, variant: Variant) -> Path:
        """A weights folder with the files of `variant`; they are written at the first call."""
        folder = self.scratch / f"random-flashhead-{variant}"
        finished = folder / "finished"
        if not finished.exists():
            say(f"writing FlashHead's {variant} files with random weights to {folder}")
            folder.mkdir(parents=True, exist_ok=True)
            random_models.write(folder, self.scale.models, (variant,), device=self.device)
            finished.touch()
            memory.free(self.device)
        return folder

    @contextmanager
    def engine(self, variant: Variant, found: Numbers) -> Iterator[FlashHeadEngine]:
        """The loaded engine. `found` receives the seconds of loading; the files are in the page cache."""
        settings = EngineSettings(weights_dir=self.model_files(variant), device=str(self.device), engine="flashhead")
        engine = FlashHeadEngine(settings)
        _, found["load_s"] = self.clock.timed(engine.load)
        try:
            yield engine
        finally:
            engine.close()
            memory.free(self.device)

    def job(self, engine: FlashHeadEngine, options: Options, found: Numbers, *, n_windows: int | None = None) -> None:
        """Run one job.

        `found` receives first_frame_s, s_per_s (seconds of work per second of video, from the second window on), and
        peaks of memory.
        """
        motion = self._motion_frames(engine)
        n_frames = WINDOW_FRAMES + (WINDOW_FRAMES - motion) * ((n_windows or self.scale.n_windows) - 1)
        request = RenderRequest(self.picture(), _speech(n_frames), n_frames / FPS, options)
        memory.reset_peak(self.device)
        with TemporaryDirectory(dir=self.scratch, prefix="frames-") as folder:
            encoder = FrameEncoder(Path(folder))
            context = _TimedContext(Path(folder))
            started, first = time.perf_counter(), 0.0
            with closing(BackgroundEncoder(encoder)) as sink:
                for frames in engine.generate(request, context):
                    first = first or time.perf_counter()
                    sink.put(frames)
                computed = time.perf_counter()
                sink.drain()
                encoded = time.perf_counter()
            encoder.abort()
        saved = context.saved_at
        windows_s = [end - begin for begin, end in pairwise([started, *saved])]
        steady, new_s = windows_s, n_frames / FPS
        if len(windows_s) > 1:
            steady, new_s = windows_s[1:], (n_frames - WINDOW_FRAMES) / FPS
        found |= {
            "video_s": n_frames / FPS,
            "first_frame_s": round(first - started, 3),
            "windows_s": [round(s, 3) for s in windows_s],
            "s_per_s": round(sum(steady) / new_s, 3),
            "whole_s": round(encoded - started, 3),
            "encoder_behind_s": round(encoded - computed, 3),
            **memory.peaks(self.device),
        }

    def parts(self, engine: FlashHeadEngine, found: Numbers) -> None:
        """Seconds of each part of a window alone: until the device has finished, and until the host has queued it."""
        models = engine.models
        config = models.transformer.config
        n_latents = (WINDOW_FRAMES - 1) // config.vae_stride[0] + 1
        side = SIDE // config.vae_stride[1]
        shape = (config.out_dim, n_latents, side, side)
        generator = torch.Generator().manual_seed(3)
        latent = draw_noise(shape, generator).to(self.device)
        audio = torch.randn(WINDOW_FRAMES, config.audio_window, config.audio_blocks, config.audio_channels)
        sound = models.transformer.hear(audio.to(self.device))
        timestep = torch.tensor([832.0], device=self.device)
        frames = torch.zeros(3, self._motion_frames(engine), SIDE, SIDE, device=self.device)

        def decode() -> list[Tensor]:
            return list(models.vae.decode(latent))

        works: dict[str, Callable[[], object]] = {
            "hear": lambda: models.transformer.hear(audio.to(self.device)),
            "forward": lambda: models.transformer(latent, latent, timestep, sound),
            "decode": decode,
            "take_over": lambda: models.vae.encode(frames),
            "noise": lambda: draw_noise(shape, generator).to(self.device),
        }
        with torch.inference_mode():
            for name, work in works.items():
                found[name] = self._timed(work)

    def forward_in_8_bits(self, engine: FlashHeadEngine, kind: EightBit, found: Numbers) -> None:
        """Seconds of a forward with weights rounded to `kind`, and its relative error. The weights stay rounded."""
        models = engine.models
        transformer, config = models.transformer, models.transformer.config
        n_latents = (WINDOW_FRAMES - 1) // config.vae_stride[0] + 1
        side = SIDE // config.vae_stride[1]
        generator = torch.Generator().manual_seed(3)
        latent = draw_noise((config.out_dim, n_latents, side, side), generator).to(self.device)
        audio = torch.randn(WINDOW_FRAMES, config.audio_window, config.audio_blocks, config.audio_channels)
        sound = transformer.hear(audio.to(self.device))
        timestep = torch.tensor([832.0], device=self.device)

        def forward() -> Tensor:
            out: Tensor = transformer(latent, latent, timestep, sound)
            return out

        with torch.inference_mode():
            wanted = forward()
            transformer.round_weights(kind)
            found["fused"] = transformer.use_fast_blocks() or "yes"
            found |= self._timed(forward)
            found["against_16_bit"] = relative_error(forward(), wanted)

    def _timed(self, work: Callable[[], object]) -> Numbers:
        """Median seconds of `work`, and seconds until the host has queued it."""
        seconds = median(self.clock.seconds(work))
        started = time.perf_counter()
        work()
        queued = time.perf_counter() - started
        self.clock.wait()
        return {"s": seconds, "host_s": round(queued, 6)}

    def picture(self) -> Frames:
        """The shipped portrait at the size of a photograph: uint8 RGB (H, W, 3)."""
        with Image.open(SAMPLES_DIR / "portrait.jpg") as portrait:
            return np.asarray(portrait.convert("RGB").resize(self.scale.picture), np.uint8)

    def _motion_frames(self, engine: FlashHeadEngine) -> int:
        """Count of frames that a window repeats from the window before."""
        return engine.models.transformer.config.motion_frames


def _speech(n_frames: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Noise as loud as speech, mono at 16 kHz."""
    n_samples = n_frames * SPEECH_RATE_HZ // FPS
    return (np.random.default_rng(0).standard_normal(n_samples) * 0.05).astype(np.float32)
