"""Write the tables of docs/sadtalker.md from measured JSON files.

    python -m lipsync_server.bench.sadtalker.tables docs/sadtalker.md

A table stands between `<!-- bench KIND FILE.json -->` and `<!-- bench: end -->`; the file lies in performance/ beside
the document, and while it is not there the table says so. Kinds: `machine`, `speed`, `length` of bench.py's files,
`engine` of those of `lipsync bench --json`. A test holds the document against the files. Measures nothing.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lipsync_server.bench.markdown import rewrite, table

Numbers = Mapping[str, Any]
_BLOCK = re.compile(r"(<!-- bench (\w+) (\S+) -->\n).*?(<!-- bench: end -->)", re.DOTALL)


def with_tables(document: str, folder: Path) -> str:
    """`document` with every table made anew from the files in `folder`; raises ValueError for an unknown kind."""

    def made(match: re.Match[str]) -> str:
        begin, kind, file, end = match.groups()
        if kind not in TABLES:
            raise ValueError(f"there is no table {kind}; there are {', '.join(TABLES)}")
        path = folder / file
        text = "Not measured yet."
        if path.exists():
            text = TABLES[kind](json.loads(path.read_text(encoding="utf-8"))) + f"\n\n[{file}](performance/{file})"
        return f"{begin}{text}\n{end}"

    return _BLOCK.sub(made, document)


def _machine(numbers: Numbers) -> str:
    return table(("", ""), [(name, str(value)) for name, value in numbers["machine"].items()])


def _speed(numbers: Numbers) -> str:
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
        gpu = f"{found['peak_gpu_gib']:.1f} GiB" if "peak_gpu_gib" in found else ""
        of_floor = f"{found['of_floor']:.0%}" if "of_floor" in found else ""
        cells = (str(found["batch_size"]), f"{found['fps']:.3g}", f"{found['seconds_per_second']:.3g}")
        cpu = f"{found['cpu_s_per_frame']:.2g}"
        rows.append((size, text, *cells, of_floor, gpu, f"{found['first_batch_s']:.1f} s", cpu))
    heads = (
        "size", "how", "batch", "frames a second", "s/s", "of the floor", "peak GPU memory", "first batch",
        "CPU s a frame",
    )  # fmt: skip
    return table(heads, rows)


def _length(numbers: Numbers) -> str:
    rows = []
    for name, found in numbers.items():
        if not name.startswith("length ") or not isinstance(found, dict) or "short" not in found:
            continue
        for part in (found["short"], found["long"]):
            gpu = f"{part['peak_gpu_gib']:.2f} GiB" if "peak_gpu_gib" in part else ""
            cells = (
                f"{part['video_s']:g} s",
                str(part["n_frames"]),
                f"{part['fps']:.3g}",
                f"{part['rss_mib']:.0f} MiB",
            )
            rows.append((name.removeprefix("length "), *cells, gpu))
    return table(("renderer", "video", "frames", "frames a second", "RSS", "peak GPU memory"), rows)


def _engine(numbers: Numbers) -> str:
    rows = []
    for run in numbers["runs"]:
        stages = run["stage_s"]
        cells = (f"{run['wall_s']:.1f}", f"{stages['generate']:.1f}", f"{run['wall_s'] / run['duration_s']:.2f}")
        rows.append((f"{run['duration_s']:g} s", *cells, f"{run['peak_rss_bytes'] / 2**20:.0f} MiB"))
    return table(("sound", "seconds in all", "of which rendering", "s/s", "largest RSS"), rows)


TABLES: dict[str, Callable[[Numbers], str]] = {
    "machine": _machine,
    "speed": _speed,
    "length": _length,
    "engine": _engine,
}


if __name__ == "__main__":
    rewrite(with_tables)
