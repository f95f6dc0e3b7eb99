"""The table of the parts that finish a video, for docs/performance.md. Measures nothing."""

from collections.abc import Callable, Mapping
from typing import Any

from lipsync_server.bench.machine import Machine
from lipsync_server.markdown import table

Numbers = Mapping[str, Any]


def finishing_table(found: Numbers) -> str:
    """Markdown: seconds of each part for a second of video, and its share of the render that the file measured."""
    parts = found["parts"]
    render_s = parts[0]["wall_s"]
    rows = []
    for part in parts:
        if part["why_not"]:
            rows.append((part["name"], "not measured", "", ""))
            continue
        share = "" if part is parts[0] else f"{part['wall_s'] / render_s:.0%}"
        rows.append((part["name"], f"{part['wall_s']:.3f} s", f"{part['cpu_s']:.3f} s", share))
    return table(("part", "wall clock", "processor time", f"of the render by {found['engine']}"), rows)


def _finishing(numbers: Numbers, reference: Numbers) -> str:
    """The table, and the machine below it."""
    found = numbers["finishing"]
    machine = Machine.of(numbers)
    load = f"load average at the end {found['load_average']:g}"
    head = f"{machine.card}, {machine.n_cpus} cores, {load}; {machine.software_line}."
    return f"{finishing_table(found)}\n\n{head}"


TABLES: dict[str, Callable[[Numbers, Numbers], str]] = {"finishing": _finishing}
