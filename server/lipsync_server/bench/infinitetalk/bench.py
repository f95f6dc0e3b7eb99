"""One run of InfiniteTalk's benchmark: its sizes, its device and its random model files.

Knows no section.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from lipsync_server.bench import memory
from lipsync_server.bench.clock import Clock
from lipsync_server.bench.record import Measure, Numbers, Record, say
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.random_models import infinitetalk as random_models
from lipsync_server.random_models.infinitetalk import Sizes

EIGHT_BIT: dict[str, tuple[str, float]] = {
    "int8_scores": ("int8", 1.0),
    "8bit": ("fp8", 1.0),
    "8bit_half": ("fp8", 0.5),
    "8bit_quarter": ("fp8", 0.25),
}
"""Ways of self-attention in 8 bits: the kernel's name and the share of key tiles that it visits."""


@dataclass(frozen=True)
class Scale:
    """All sizes: as published, or tiny for a dry run on a CPU.

    picture, picture_hd: height and width in pixels. window_frames: frames of a window. motion_frames: frames at its
    start that are repeated from the window before. http_durations_s: seconds of sound in the jobs of the section http;
    a short job before them warms up. soak_jobs: jobs of the section soak.
    """

    models: Sizes = random_models.FULL
    picture: tuple[int, int] = (640, 640)
    picture_hd: tuple[int, int] = (960, 960)
    window_frames: int = 81
    motion_frames: int = 9
    http_durations_s: tuple[float, ...] = (10.0, 60.0)
    soak_jobs: int = 50

    @property
    def n_latents(self) -> int:
        """Latent frames of a window: 1 + (window_frames - 1) / 4. Each latent after the first stands for 4 frames."""
        return (self.window_frames - 1) // 4 + 1


FULL = Scale()
TINY = Scale(
    models=random_models.TINY, picture=(64, 64), picture_hd=(96, 96), window_frames=13, motion_frames=5,
    http_durations_s=(0.2,), soak_jobs=3,
)  # fmt: skip


class Bench:
    """Sizes, device, clock and record of one run.

    scratch: folder for files. path: the JSON file; sections of earlier runs stay in it. repeats: timed runs of each
    small piece of work.
    """

    def __init__(
        self, scale: Scale, device: torch.device, scratch: Path, path: Path | None = None, *, repeats: int = 4
    ) -> None:
        self.scale, self.device, self.scratch = scale, device, scratch
        self.clock = Clock(device, repeats)
        self.record = Record(path, after_part=self.free)

    @property
    def numbers(self) -> Numbers:
        """All numbers of the run, by section."""
        return self.record.numbers

    @property
    def config(self) -> TransformerConfig:
        """Sizes of the transformer."""
        return self.scale.models.transformer

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def free(self) -> None:
        """Release memory without references."""
        memory.free(self.device)

    def section(self, name: str, measure: Callable[[Self, Numbers], None]) -> None:
        """Measure one section, as Record.section."""
        self.record.section(name, lambda found: measure(self, found))

    def part(self, numbers: Numbers, name: str, measure: Measure) -> None:
        """Measure one part of a section's numbers, as Record.part."""
        self.record.part(numbers, name, measure)

    def model_files(self) -> Path:
        """The folder of all model files with random weights. The first call writes them."""
        folder, finished = self._model_files, self._model_files / "finished"
        if not finished.exists():
            say(f"writing model files with random weights to {folder}")
            started = time.perf_counter()
            random_models.write(folder, self.scale.models, random_models.FP8_FEW_STEPS, device=self.device)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            self.numbers["model_files"] = {"written_s": round(time.perf_counter() - started, 1), "bytes": size}
            self.record.save()
            say(f"model files: {self.numbers['model_files']}")
            finished.touch()
            self.free()
        return folder

    def remove_model_files(self) -> None:
        """Remove the folder of the model files."""
        shutil.rmtree(self._model_files, ignore_errors=True)

    @property
    def _model_files(self) -> Path:
        return self.scratch / f"random-models-{self.config.dim}"
