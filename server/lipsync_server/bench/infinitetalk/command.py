"""Measure InfiniteTalk with random weights at full size, section by section: `lipsync bench --random-weights`.

Random weights cost as much time and memory as trained ones, and the pictures are noise. So every machine can measure
speed without downloading model files. If several cards are visible, the sections are spread over them.
"""

import sys
import time
from collections.abc import Sequence

import torch

from lipsync_server.bench import cards as bench_cards
from lipsync_server.bench.infinitetalk.attention_table import kernels
from lipsync_server.bench.infinitetalk.bench import FULL, TINY, Bench
from lipsync_server.bench.infinitetalk.errors import error_table
from lipsync_server.bench.infinitetalk.forward import forwards, loading
from lipsync_server.bench.infinitetalk.http import http
from lipsync_server.bench.infinitetalk.moving import moving_windows
from lipsync_server.bench.infinitetalk.older_cards import older_cards
from lipsync_server.bench.infinitetalk.soak import soak
from lipsync_server.bench.infinitetalk.two_gpus import two_gpus
from lipsync_server.bench.infinitetalk.windows import (
    capped_int8_windows,
    capped_windows,
    flashtalk_windows,
    hd_windows,
    int8_windows,
    preset_windows,
    quality_window,
    quality_window_uncached,
    two_people_windows,
)
from lipsync_server.bench.machine import HEADER, Machine
from lipsync_server.bench.sections import Section, SectionRun, chosen

# The sections in the order in which they run. soak and http share the random model files of 28 GB.
SECTIONS: dict[str, Section[Bench]] = {
    "kernels": Section(kernels, 30),
    "older_cards": Section(older_cards, 25),
    "forward": Section(forwards, 200),
    "errors": Section(error_table, 40),
    "loading": Section(loading, 35),
    "windows": Section(preset_windows, 95),
    "flashtalk": Section(flashtalk_windows, 47),
    "capped": Section(capped_windows, 45),
    "capped_int8": Section(capped_int8_windows, 45),
    "quality": Section(quality_window, 160),
    "hd": Section(hd_windows, 110),
    "two_people": Section(two_people_windows, 40),
    "int8": Section(int8_windows, 60),
    "moving": Section(moving_windows, 60),
    "quality_uncached": Section(quality_window_uncached, 280),
    "soak": Section(soak, 75, shares="model files"),
    "two_gpus": Section(two_gpus, 80, n_cards=2),
    "http": Section(http, 330, shares="model files"),
}
# The command that runs some sections in a process of their own. bench_cards adds their names.
ITSELF = (sys.executable, "-P", "-m", "lipsync_server.cli", "bench", "--random-weights", "--engine", "infinitetalk")


def measure(asked: SectionRun, *, itself: Sequence[str] = ITSELF) -> None:
    """Run the wanted sections.

    itself: the command that runs sections on one of several cards. Raises InvalidInput for a section that does not
    exist.
    """
    wanted = chosen(SECTIONS, asked.only)
    asked.scratch.mkdir(parents=True, exist_ok=True)
    device = torch.device(asked.device)
    bench = Bench(TINY if asked.tiny else FULL, device, asked.scratch, asked.json_path)
    if asked.budget_s is not None:
        bench.record.ends_at = time.monotonic() + asked.budget_s
    queue = bench_cards.tasks({name: SECTIONS[name] for name in wanted})
    cards = bench_cards.visible_cards()[: asked.cards] if bench.cuda else []
    if min(len(queue), len(cards)) > 1:
        command = [*itself, *(["--tiny"] if asked.tiny else [])]
        bench_cards.spread(bench.record, asked.scratch, queue, cards, command, keep_files=asked.keep_files)
        return
    if asked.device == "cuda":
        bench.device = torch.device("cuda", torch.cuda.current_device())
    # Every process begins with the header, because numbers without their machine have no meaning.
    machine = Machine.here(str(bench.device)).with_torch()
    bench.record.part(bench.numbers, HEADER, lambda found: found.update(machine.numbers))
    try:
        for name in wanted:
            bench.section(name, SECTIONS[name].measure)
    finally:
        if not asked.keep_files:
            bench.remove_model_files()
