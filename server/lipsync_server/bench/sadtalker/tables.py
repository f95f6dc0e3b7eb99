"""The tables of SadTalker's measured sections, for docs/sadtalker.md. Measures nothing."""

from collections.abc import Callable, Mapping
from typing import Any

from lipsync_server.bench.machine import Machine
from lipsync_server.markdown import table

Numbers = Mapping[str, Any]


def _machine(numbers: Numbers, reference: Numbers) -> str:
    """A row for each fact of the machine."""
    return table(("", ""), Machine.of(numbers).rows)


def _speed(numbers: Numbers, reference: Numbers) -> str:
    """A row for each section `speed`."""
    rows: list[tuple[str, ...]] = []
    for name, found in numbers.items():
        if not name.startswith("speed ") or not isinstance(found, dict):
            continue
        _, size, precision, *how = name.split()
        text = ", ".join([precision, "compiled" if "compiled" in how else "not compiled"])
        text += ", memory of a 6 GB card" if "capped" in how else ""
        if "fps" not in found:
            rows.append((size, text, str(found.get("failed", found.get("left_out"))), "", "", "", "", "", ""))
            continue
        text += f", at a load of {found['load_average']:.1f}" if "load_average" in found else ""
        gpu = _gpu(found, 1)
        # Files before December 2026 have the share under its old name.
        share = found.get("of_convolutions", found.get("of_floor"))
        of_rate = "" if share is None else f"{share:.0%}"
        cells = (str(found["batch_size"]), f"{found['fps']:.3g}", f"{found['seconds_per_second']:.3g}")
        cpu = f"{found['cpu_s_per_frame']:.2g}"
        rows.append((size, text, *cells, of_rate, gpu, f"{found['first_batch_s']:.1f} s", cpu))
    heads = (
        "size", "how", "batch", "frames a second", "s/s", "of reference rate", "peak GPU memory", "first batch",
        "CPU s a frame",
    )  # fmt: skip
    return table(heads, rows)


def _length(numbers: Numbers, reference: Numbers) -> str:
    """Two rows for each section `length`: the short and the long video."""
    rows = []
    for name, found in numbers.items():
        if not name.startswith("length ") or not isinstance(found, dict) or "short" not in found:
            continue
        for part in (found["short"], found["long"]):
            gpu = _gpu(part, 2)
            cells = (
                f"{part['video_s']:g} s",
                str(part["n_frames"]),
                f"{part['fps']:.3g}",
                f"{part['rss_mib']:.0f} MiB",
            )
            rows.append((name.removeprefix("length "), *cells, gpu))
    return table(("renderer", "video", "frames", "frames a second", "RSS", "peak GPU memory"), rows)


def _engine(numbers: Numbers, reference: Numbers) -> str:
    """A row for each whole render of `lipsync bench`."""
    rows = []
    for run in numbers["runs"]:
        stages = run["stage_s"]
        cells = (f"{run['wall_s']:.1f}", f"{stages['generate']:.1f}", f"{run['wall_s'] / run['duration_s']:.2f}")
        rows.append((f"{run['duration_s']:g} s", *cells, f"{run['peak_rss_bytes'] / 2**20:.0f} MiB"))
    return table(("sound", "seconds in all", "of which rendering", "s/s", "largest RSS"), rows)


def _gpu(found: Numbers, digits: int) -> str:
    """Peak GPU memory of tensors; files before December 2026 have it under its old name."""
    gib = found.get("peak_gib", found.get("peak_gpu_gib"))
    return "" if gib is None else f"{gib:.{digits}f} GiB"


TABLES: dict[str, Callable[[Numbers, Numbers], str]] = {
    "machine": _machine,
    "speed": _speed,
    "length": _length,
    "engine": _engine,
}
