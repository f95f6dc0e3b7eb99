"""Measure InfiniteTalk with random weights at full size, section by section.

    lipsync bench --random-weights --json result.json [--only forward,windows]

Every section writes its numbers as soon as it has them, and one that fails says why and leaves the others alone. Where
several cards can be seen, the sections are spread over them (bench_cards.py). Knows which sections there are. Does not
know quality: random weights cost what real ones do and show noise. What stands above the engines is handed in by
`lipsync bench`: the thread that encodes beside them, and the sections that need a server.
"""

import argparse
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import gettempdir

import torch

from lipsync_server.bench import cards as bench_cards
from lipsync_server.bench import record as bench_record
from lipsync_server.bench.infinitetalk.errors import error_table
from lipsync_server.bench.infinitetalk.forward import forwards, kernels, loading
from lipsync_server.bench.infinitetalk.moving import moving_windows
from lipsync_server.bench.infinitetalk.soak import soak
from lipsync_server.bench.infinitetalk.two_gpus import two_gpus
from lipsync_server.bench.infinitetalk.windows import (
    capped_int8_windows,
    capped_windows,
    hd_windows,
    int8_windows,
    preset_windows,
    quality_window,
    quality_window_uncached,
    two_people_windows,
)
from lipsync_server.bench.record import Bench, Beside, Numbers

Section = Callable[[Bench, Numbers], None]


def environment(device: torch.device) -> Numbers:
    """Versions and the card."""
    found: Numbers = {"python": platform.python_version(), "torch": torch.__version__, "device": str(device)}
    if device.type == "cuda":
        cudnn = torch.backends.cudnn.version()
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": properties.name,
            "gpu_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": cudnn,
        }
    for package in ("triton", "diffusers", "transformers", "xformers", "flash_attn", "sageattention"):
        try:
            module = __import__(package)
        except Exception:  # whatever a broken or missing package raises
            found[package] = None
        else:
            found[package] = getattr(module, "__version__", "installed")
    return found


def _environment(bench: Bench, found: Numbers) -> None:
    found |= environment(bench.device)


# By name, in the order in which they run.
SECTIONS: dict[str, Section] = {
    "environment": _environment,
    "kernels": kernels,
    "forward": forwards,
    "errors": error_table,
    "loading": loading,
    "windows": preset_windows,
    "capped": capped_windows,
    "capped_int8": capped_int8_windows,
    "quality": quality_window,
    "hd": hd_windows,
    "two_people": two_people_windows,
    "int8": int8_windows,
    "moving": moving_windows,
    "quality_uncached": quality_window_uncached,
    "soak": soak,
    "two_gpus": two_gpus,
}
# What runs the benchmark in a process of its own, without what is handed in.
_ITSELF = (sys.executable, "-P", "-m", "lipsync_server.bench.infinitetalk.command")


def main(
    arguments: list[str] | None = None,
    *,
    beside: Beside | None = None,
    others: Mapping[str, Section] | None = None,
    itself: Sequence[str] = _ITSELF,
) -> None:
    """Run the sections asked for. beside, others: see the module. itself: a command that hands in the same."""
    known = {**SECTIONS, **(others or {})}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=None, help="file for the numbers; other sections' stay in it")
    parser.add_argument("--scratch", type=Path, default=Path(gettempdir()), help="folder for files: up to 50 GB")
    parser.add_argument(
        "--keep-checkpoint", action="store_true", help="leave the random checkpoint there for next time"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cards", type=int, default=None, help="spread over so many cards at most; 1: one process")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, for a dry run")
    parser.add_argument("--only", default="", help=f"of {', '.join(known)}; separated by commas")
    given = parser.parse_args(arguments)
    wanted = [name for name in given.only.split(",") if name] or list(known)
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        parser.error(f"there is no section {', '.join(unknown)} here; there are {', '.join(known)}")
    # Numbers without what they were measured on say nothing: every process begins with that.
    wanted = [name for name in wanted if name != "environment"]
    scale = bench_record.TINY if given.tiny else bench_record.FULL
    given.scratch.mkdir(parents=True, exist_ok=True)
    bench = Bench(scale, torch.device(given.device), given.scratch, given.json, beside)
    queue, cards = bench_cards.tasks(wanted), bench_cards.visible_cards()[: given.cards] if bench.cuda else []
    if min(len(queue), len(cards)) > 1:
        command = [*itself, *(["--tiny"] if given.tiny else [])]
        bench_cards.spread(bench, queue, cards, command, keep_checkpoint=given.keep_checkpoint)
        return
    if given.device == "cuda":
        bench.device = torch.device("cuda", torch.cuda.current_device())
    try:
        for name in ["environment", *wanted]:
            bench.section(name, known[name])
    finally:
        if not given.keep_checkpoint:
            bench.remove_checkpoint()


if __name__ == "__main__":
    main()
