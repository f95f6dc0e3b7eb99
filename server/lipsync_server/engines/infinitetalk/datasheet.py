"""InfiniteTalk's data sheet: measured and computed speeds, the recommended profile, and the host memory.

FlashTalk is a model of this engine, and has rows of its own. Only the H100's figures were measured. Imports no torch.
"""

from collections.abc import Mapping

from lipsync_server.engines.datasheet import DataSheet, HostMemory, Row, Speed, on_every_card, scaled
from lipsync_server.engines.infinitetalk import roofline

_GIB = 2**30
_FORWARDS = {"fast": 4, "balanced": 13, "quality": 120}
"""Forwards of the transformer for a window: steps x passes (docs/performance.md)."""
_FAST_S = {"H100": 3.3, **{name: float(f"{roofline.usual(card):.2g}") for name, card in roofline.CARDS.items()}}
"""Seconds of work of the preset `fast`: measured on the H100, from a roofline on the other cards."""
_MEASURED = "on an H100 SXM with random weights, 2026-11-26, docs/performance.md"
_WINDOW = "a window of 28 new frames at 448 x 768, 4 steps, H100, random weights, 2026-11-28, docs/flashtalk.md"
_BY_PARTS = "by its parts, int8: docs/flashtalk.md"

_INFINITETALK = (
    Speed("H100", "infinitetalk", "fast", _FAST_S["H100"], "measured", f"int8, 480p, {_MEASURED}"),
    Speed("H100", "infinitetalk", "balanced", 9.47, "measured", f"fp8, 480p, {_MEASURED}"),
    Speed("H100", "infinitetalk", "quality", 85.0, "computed", "120 forwards of the measured 2.03 s (fp8, 480p)"),
)
_FLASHTALK = (
    Speed("H100", "flashtalk", "balanced", 2.15, "measured", _WINDOW),
    Speed("H100", "flashtalk", "fast", 1.23, "measured", "the same in 2 steps"),
)
# Computed from the rates of the card's own units, which is more exact than a ratio of two cards.
_FLASHTALK_BY_PARTS = (
    Speed("RTX 4090", "flashtalk", "balanced", 5.8, "computed", _BY_PARTS),
    Speed("RTX 4090", "flashtalk", "fast", 3.3, "computed", _BY_PARTS),
)


def _by_roofline(one: Speed, card: str) -> Speed:
    """A preset's speed on `card`: the roofline's figure for `fast` x the preset's forwards / the forwards of `fast`."""
    if one.preset == "fast":
        least, most = roofline.fastest(roofline.CARDS[card]), roofline.slowest(roofline.CARDS[card])
        source = f"roofline, int8 at 480p, {least:.1f} to {most:.1f} likely, never run on this card"
        return Speed(card, one.engine, one.preset, _FAST_S[card], "computed", source)
    n_forwards, n_fast = _FORWARDS[one.preset], _FORWARDS["fast"]
    seconds = round(_FAST_S[card] * n_forwards / n_fast, 1)
    source = f"the figure of fast x {n_forwards} / {n_fast} forwards"
    return Speed(card, one.engine, one.preset, seconds, "computed", source)


def _as_infinitetalk_fast(one: Speed, card: str) -> Speed:
    """FlashTalk's measured speed, scaled by InfiniteTalk's ratio of the two cards in preset `fast`."""
    here, there = _FAST_S[card], _FAST_S[one.card]
    return scaled(one, card, here / there, f"{here:g} / {there:g} (infinitetalk fast on both cards)")


def _name_row(preset: str, options: Mapping[str, object]) -> Row:
    """The table row of a preset with its options; FlashTalk's row if the options name `model=flashtalk`."""
    if options.get("model") == "flashtalk":
        return Row("flashtalk", preset, {name: value for name, value in options.items() if name != "model"})
    return Row("infinitetalk", preset, options)


SHEET = DataSheet(
    name_row=_name_row,
    speeds=(
        *on_every_card(_INFINITETALK, _by_roofline),
        *on_every_card(_FLASHTALK, _as_infinitetalk_fast, _FLASHTALK_BY_PARTS),
    ),
    suits=("infinitetalk-int8-fast", 23 * _GIB),
    profile_options={"flashtalk": {"model": "flashtalk"}},
    host_memory=HostMemory(
        usual_bytes=20 * _GIB,
        least_gb=24,
        least_gpu_bytes=11 * _GIB,
        advice="InfiniteTalk needs 9 GiB, and 20 at 720p on a card of 24 GB: prefer a host with 32 GB.",
    ),
)
