"""FlashHead's data sheet: measured and computed speeds, and the recommended profile.

Pro was measured on an H100, and Lite on an H200. Imports no torch.
"""

from collections.abc import Mapping

from lipsync_server.engines.datasheet import DataSheet, Row, Speed, computed_by_tflops, on_every_card

_MEASURED = "on an H100 with random weights, 2026-11-28, docs/flashhead.md"
_H100 = (
    Speed("H100", "flashhead", "pro", 0.51, "measured", f"4 steps, whole picture, {_MEASURED}"),
    Speed("H100", "flashhead", "pro fast", 0.39, "measured", f"2 steps, whole picture, {_MEASURED}"),
    # The H100 was measured before Lite's forward became a CUDA graph: 0.22.
    Speed("H100", "flashhead", "lite", 0.12, "computed", "measured on an H200, as fast here: docs/flashhead.md"),
)
# Computed from the rates of the card's own units, which is more exact than a ratio of two cards.
_BY_PARTS = (
    Speed("RTX 4090", "flashhead", "pro", 1.7, "computed", "by its parts: docs/flashhead.md; its authors: 2.3"),
    Speed("RTX 4090", "flashhead", "pro fast", 1.1, "computed", "by its parts: docs/flashhead.md, never run there"),
    Speed("RTX 4090", "flashhead", "lite", 0.5, "computed", "by its parts: docs/flashhead.md; users: 1.0"),
)


def _name_row(preset: str, options: Mapping[str, object]) -> Row:
    """The table row of a variant: "pro", "lite", or with " fast" behind it, the only preset with fewer steps."""
    variant = str(options.get("variant") or "pro")
    others = {name: value for name, value in options.items() if name != "variant"}
    return Row("flashhead", f"{variant} fast" if preset == "fast" else variant, others)


SHEET = DataSheet(
    name_row=_name_row,
    speeds=on_every_card(_H100, computed_by_tflops, _BY_PARTS),
    suits=("flashhead-pro", int(7.4 * 2**30)),
    profile_options={"flashhead-pro": {"variant": "pro"}, "flashhead-lite": {"variant": "lite"}},
)
