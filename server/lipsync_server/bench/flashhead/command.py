"""Measure FlashHead with random weights: `lipsync bench --random-weights --engine flashhead`.

Each section loads the engine from files in the published layout and renders jobs with it, encoding included. So load
time, first frame, speed and peak memory are the same as in a server. Knows the jobs to measure; rig.py runs a job.
"""

import math
import shutil
import time
from collections.abc import Callable
from functools import partial

import torch

from lipsync_server.bench import memory
from lipsync_server.bench.flashhead.rig import FULL, TINY, Bench
from lipsync_server.bench.machine import HEADER, Machine
from lipsync_server.bench.record import Numbers, Record
from lipsync_server.bench.sections import SectionRun, chosen
from lipsync_server.engines.flashhead.options import Options, Variant

CAP_BYTES = 8 * 10**9
"""A card that is sold with 8 GB, CUDA's own share included."""
_JOBS: dict[Variant, dict[str, Options]] = {
    "pro": {
        "whole": Options(variant="pro"),
        "square": Options(variant="pro", framing="crop"),
        "whole_2_steps": Options(variant="pro", preset="fast"),
    },
    "lite": {"whole": Options(variant="lite"), "square": Options(variant="lite", framing="crop")},
}


def _speed(variant: Variant, bench: Bench, found: Numbers) -> None:
    """Load twice, because the first load converts a new file. Then measure the parts of a window, and whole jobs."""
    bench.record.part(found, "first_load", partial(_load, bench, variant))
    with bench.engine(variant, found) as engine:
        # The first job compiles and measures kernels.
        bench.record.part(found, "first_job", partial(bench.job, engine, Options(variant=variant)))
        bench.record.part(found, "parts", partial(bench.parts, engine))
        for name, options in _JOBS[variant].items():
            bench.record.part(found, name, partial(bench.job, engine, options))
        # This part is the last one, because the weights stay rounded.
        bench.record.part(found, "forward_int8", partial(bench.forward_in_8_bits, engine, "int8"))


def _load(bench: Bench, variant: Variant, found: Numbers) -> None:
    """Load the engine once."""
    with bench.engine(variant, found):
        pass


def _capped(variant: Variant, bench: Bench, found: Numbers) -> None:
    """Load and one job of the whole picture on a card of 8 GB."""
    bench.model_files(variant)
    with memory.card_of(CAP_BYTES, bench.device), bench.engine(variant, found) as engine:
        bench.job(engine, Options(variant=variant), found, n_windows=min(4, bench.scale.n_windows))


SECTIONS: dict[str, Callable[[Bench, Numbers], None]] = {
    "pro": partial(_speed, "pro"),
    "pro capped": partial(_capped, "pro"),
    "lite": partial(_speed, "lite"),
    "lite capped": partial(_capped, "lite"),
}


def measure(asked: SectionRun) -> None:
    """Run the wanted sections on one device. Raises InvalidInput for a section that does not exist."""
    wanted = chosen(SECTIONS, asked.only)
    asked.scratch.mkdir(parents=True, exist_ok=True)
    device = torch.device(asked.device)
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    ends_at = math.inf if asked.budget_s is None else time.monotonic() + asked.budget_s
    record = Record(asked.json_path, ends_at, after_part=lambda: memory.free(device))
    scale, repeats = (TINY, 1) if asked.tiny else (FULL, 4)
    bench = Bench(scale, device, asked.scratch, record, repeats)
    record.section(HEADER, lambda found: found.update(Machine.here(str(device)).with_torch().numbers))
    try:
        for name in wanted:
            record.section(name, partial(SECTIONS[name], bench))
    finally:
        if not asked.keep_files:
            for folder in asked.scratch.glob("random-flashhead-*"):
                shutil.rmtree(folder, ignore_errors=True)
