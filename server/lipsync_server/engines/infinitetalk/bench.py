"""Measure InfiniteTalk with random weights at full size, section by section.

    lipsync bench --random-weights --json result.json [--only forward,windows]

Every section writes its numbers as soon as it has them, and one that fails says why and leaves the others alone. Knows
which sections there are. Does not know quality: random weights cost what real ones do and show noise. What stands above
the engines is handed in by `lipsync bench`: the thread that encodes beside them, and the sections that need a server.
"""

import argparse
import platform
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from . import bench_record
from .bench_errors import error_table
from .bench_forward import forwards, kernels, loading
from .bench_record import Bench, Beside, Numbers
from .bench_soak import soak
from .bench_windows import (
    capped_int8_windows,
    capped_windows,
    hd_windows,
    int8_windows,
    preset_windows,
    quality_window,
    quality_window_uncached,
    two_people_windows,
)

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
    "quality_uncached": quality_window_uncached,
    "soak": soak,
}
# Five minutes of a card for one number: only when it is asked for.
ON_REQUEST = ("quality_uncached",)


def main(
    arguments: list[str] | None = None,
    *,
    beside: Beside | None = None,
    others: Mapping[str, Section] | None = None,
) -> None:
    """Run the sections asked for. beside, others: see the module."""
    known = {**SECTIONS, **(others or {})}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=None, help="file for the numbers; other sections' stay in it")
    parser.add_argument("--scratch", type=Path, default=Path("/tmp"), help="folder for files: up to 30 GB")  # noqa: S108
    parser.add_argument(
        "--keep-checkpoint", action="store_true", help="leave the random checkpoint there for next time"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, for a dry run")
    parser.add_argument("--only", default="", help=f"of {', '.join(known)}; separated by commas")
    given = parser.parse_args(arguments)
    wanted = [name for name in given.only.split(",") if name] or [name for name in known if name not in ON_REQUEST]
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        parser.error(f"there is no section {', '.join(unknown)} here; there are {', '.join(known)}")
    device = torch.device("cuda", torch.cuda.current_device()) if given.device == "cuda" else torch.device(given.device)
    scale = bench_record.TINY if given.tiny else bench_record.FULL
    given.scratch.mkdir(parents=True, exist_ok=True)
    bench = Bench(scale, device, given.scratch, given.json, beside)
    # Numbers without what they were measured on say nothing.
    wanted = ["environment", *(name for name in wanted if name != "environment")]
    try:
        for name in wanted:
            bench.section(name, known[name])
    finally:
        if not given.keep_checkpoint:
            bench.remove_checkpoint()


if __name__ == "__main__":
    main()
