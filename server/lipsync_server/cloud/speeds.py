"""Seconds of work that each engine needs for a second of video on each card, and the source of every figure.

`measured`: by this project, on that card. `computed`: from a roofline of the card, or from a measured figure by a
stated formula. No figure of a GeForce card was measured here: `lipsync bench` on yours is better than this table.
"""

from dataclasses import dataclass
from typing import Literal

Origin = Literal["measured", "computed", "published"]

_FORWARDS = {"fast": 4, "balanced": 13, "quality": 120}
"""Forwards of the transformer for a window: steps x passes (docs/performance.md)."""


@dataclass(frozen=True)
class Speed:
    """seconds: of work for one second of video. engine and preset as in a job; source: one sentence for people."""

    card: str
    engine: str
    preset: str
    seconds: float
    origin: Origin
    source: str


_MEASURED = "on an H100 SXM with random weights, 2026-11-26, docs/performance.md"
_ROOFLINE = "roofline of 2026-11-27 for int8 weights at 480p, +-20 to 30 %, never run on this card"


def _h100() -> list[Speed]:
    return [
        Speed("H100", "infinitetalk", "fast", 3.3, "measured", f"int8, 480p, {_MEASURED}"),
        Speed("H100", "infinitetalk", "balanced", 9.47, "measured", f"fp8, 480p, {_MEASURED}"),
        Speed("H100", "infinitetalk", "quality", 85.0, "computed", "120 forwards of the measured 2.03 s (fp8, 480p)"),
        Speed(
            "H100",
            "sadtalker",
            "256",
            0.104,
            "measured",
            "on an H100 SXM, random weights, 2026-11-25, docs/sadtalker.md",
        ),
        Speed(
            "H100",
            "sadtalker",
            "512",
            0.415,
            "measured",
            "on an H100 SXM, random weights, 2026-11-25, docs/sadtalker.md",
        ),
    ]


def _computed(card: str, fast: float) -> list[Speed]:
    speeds = [Speed(card, "infinitetalk", "fast", fast, "computed", _ROOFLINE)]
    for preset in ("balanced", "quality"):
        seconds = round(fast * _FORWARDS[preset] / _FORWARDS["fast"], 1)
        source = f"the figure of fast x {_FORWARDS[preset]} / {_FORWARDS['fast']} forwards"
        speeds.append(Speed(card, "infinitetalk", preset, seconds, "computed", source))
    return speeds


SPEEDS: tuple[Speed, ...] = (
    *_h100(),
    *_computed("RTX 4090", 13.0),
    *_computed("RTX 5090", 9.9),
    *_computed("RTX 3090", 30.0),
    *_computed("A100", 10.7),
    *_computed("L40S", 11.7),
)


def speeds_of(gpu: str) -> list[Speed]:
    """Every figure for a card, by its name as a provider writes it; [] for cards without one (a 4090D is no 4090)."""
    plain = _plain(gpu)
    return [speed for speed in SPEEDS if (name := _plain(speed.card)) in plain and f"{name}d" not in plain]


def expected_speed(gpu: str, engine: str = "infinitetalk", preset: str = "balanced") -> Speed | None:
    """The figure for one engine and preset; None where there is none."""
    return next((one for one in speeds_of(gpu) if (one.engine, one.preset) == (engine, preset)), None)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
