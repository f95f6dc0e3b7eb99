"""SadTalker's data sheet: measured and computed speeds, and the recommended profile.

Only the H100's figures were measured. Imports no torch.
"""

from collections.abc import Mapping

from lipsync_server.engines.datasheet import DataSheet, Row, Speed, computed_by_tflops, on_every_card

_MEASURED = "on an H100 SXM with random weights, 2026-11-25, docs/sadtalker.md"
_H100 = (
    Speed("H100", "sadtalker", "256", 0.104, "measured", _MEASURED),
    Speed("H100", "sadtalker", "512", 0.415, "measured", _MEASURED),
)


def _name_row(preset: str, options: Mapping[str, object]) -> Row:
    """The table row of a size. A file of `lipsync bench --share` has the size in the place of the preset."""
    size = str(options.get("size") or (preset if preset.isdecimal() else "256"))
    return Row("sadtalker", size, {name: value for name, value in options.items() if name != "size"})


SHEET = DataSheet(
    name_row=_name_row,
    speeds=on_every_card(_H100, computed_by_tflops),
    suits=("sadtalker-256", int(5.5 * 2**30)),
    profile_options={"sadtalker-256": {"size": 256}, "sadtalker-512": {"size": 512}},
)
