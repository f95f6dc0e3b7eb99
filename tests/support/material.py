"""Small real inputs that tests render: a picture, a recording, and a task for the stand-in engine."""

from pathlib import Path

import av
import numpy as np
import soundfile
from lipsync_server.engines.ask import Ask
from lipsync_server.engines.base import Frames
from lipsync_server.paths import SAMPLES_DIR
from lipsync_server.workers.task import RenderTask
from PIL import Image
from stand_in.engine import N_BARS, bars


def make_picture(folder: Path) -> Path:
    path = folder / "picture.png"
    Image.new("RGB", (96, 96), (200, 160, 120)).save(path)
    return path


def small_portrait(folder: Path) -> Path:
    """A square around the shipped portrait's head with a quarter of its pixels, for videos of any size."""
    path = folder / "portrait.png"
    with Image.open(SAMPLES_DIR / "portrait.jpg") as portrait:
        portrait.resize((256, 256), box=(64, 0, 384, 320)).save(path)
    return path


def make_recording(folder: Path, duration_s: float, rate_hz: int = 16_000) -> Path:
    path = folder / f"recording-{duration_s}.wav"
    times = np.arange(round(duration_s * rate_hz)) / rate_hz
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 220 * times), rate_hz)
    return path


def make_task(folder: Path, *, duration_s: float = 2.0, task_id: str = "task", **options: object) -> RenderTask:
    """A task for the stand-in engine in a folder of its own, which may be there already."""
    home = folder / task_id
    home.mkdir(exist_ok=True)
    return RenderTask(
        task_id=task_id,
        engine="bars",
        image=make_picture(home),
        audio=make_recording(home, duration_s),
        output=home / "video.mp4",
        scratch=home / "scratch",
        ask=Ask(options=options),
    )


def read_frames(path: Path) -> Frames:
    """All frames of a video, uint8 RGB (n, height, width, 3)."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def bar_numbers(path: Path) -> list[int]:
    """For each frame of a video of the stand-in engine, which of its pictures it shows; -1 for none of them."""
    frames = read_frames(path)
    height, width = frames.shape[1:3]
    pictures = np.stack([bars(number, width, height) for number in range(N_BARS)]).astype(float)
    differences = np.abs(frames[:, None].astype(float) - pictures[None]).mean(axis=(2, 3, 4))
    return [int(row.argmin()) if row.min() < 40 else -1 for row in differences]


def expected_bars(n_frames: int) -> list[int]:
    return [frame % N_BARS for frame in range(n_frames)]
