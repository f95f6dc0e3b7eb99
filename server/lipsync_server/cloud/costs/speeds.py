"""Seconds of work that each engine needs for a second of video on each card, and the source of every figure.

`measured`: by this project on that card, or by the user (`lipsync bench --share`, measured.py). `computed`: from a
roofline of the card, or from a measured figure by a stated formula. `published`: by others. This project has measured
no GeForce card: a user's file replaces the figure of the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Origin = Literal["measured", "computed", "published"]

_FORWARDS = {"fast": 4, "balanced": 13, "quality": 120}
"""Forwards of InfiniteTalk's transformer for a window: steps x passes (docs/performance.md)."""

_VARIANTS = ("256", "512", "pro", "lite")


@dataclass(frozen=True)
class Speed:
    """seconds: of work for one second of video. engine: flashtalk is a profile of the engine infinitetalk.

    preset: as in a job; for sadtalker the size, for flashhead the variant, with `fast` behind it for that preset.
    source: one sentence for people.
    """

    card: str
    engine: str
    preset: str
    seconds: float
    origin: Origin
    source: str


_H100_FAST, _H100_FP16_TFLOPS = 3.3, 989
_MEASURED = "on an H100 SXM with random weights, 2026-11-26, docs/performance.md"
_SADTALKER = "on an H100 SXM with random weights, 2026-11-25, docs/sadtalker.md"
_FLASHHEAD = "on an H100 with random weights, 2026-11-28, docs/flashhead.md"
_ROOFLINE = "roofline of 2026-11-27 for int8 weights at 480p, +-20 to 30 %, never run on this card"

_H100 = (
    Speed("H100", "infinitetalk", "fast", _H100_FAST, "measured", f"int8, 480p, {_MEASURED}"),
    Speed("H100", "infinitetalk", "balanced", 9.47, "measured", f"fp8, 480p, {_MEASURED}"),
    Speed("H100", "infinitetalk", "quality", 85.0, "computed", "120 forwards of the measured 2.03 s (fp8, 480p)"),
    Speed(
        "H100",
        "flashtalk",
        "balanced",
        2.15,
        "measured",
        "a window of 28 new frames at 448 x 768, 4 steps, H100, random weights, 2026-11-28, docs/flashtalk.md",
    ),
    Speed("H100", "flashtalk", "fast", 1.23, "measured", "the same in 2 steps"),
    Speed("H100", "flashhead", "pro", 0.51, "measured", f"4 steps, whole picture, {_FLASHHEAD}"),
    Speed("H100", "flashhead", "pro fast", 0.39, "measured", f"2 steps, whole picture, {_FLASHHEAD}"),
    Speed("H100", "flashhead", "lite", 0.22, "measured", f"4 steps, whole picture, {_FLASHHEAD}"),
    Speed("H100", "sadtalker", "256", 0.104, "measured", _SADTALKER),
    Speed("H100", "sadtalker", "512", 0.415, "measured", _SADTALKER),
)

# Computed from the rates of the card's own units, which is more exact than a ratio of two cards.
_BY_PARTS = (
    Speed("RTX 4090", "flashtalk", "balanced", 5.8, "computed", "by its parts, int8: docs/flashtalk.md"),
    Speed("RTX 4090", "flashtalk", "fast", 3.3, "computed", "by its parts, int8: docs/flashtalk.md"),
    Speed("RTX 4090", "flashhead", "pro", 1.7, "computed", "by its parts: docs/flashhead.md; its authors: 2.3"),
    Speed("RTX 4090", "flashhead", "pro fast", 1.1, "computed", "by its parts: docs/flashhead.md, never run there"),
    Speed("RTX 4090", "flashhead", "lite", 0.5, "computed", "by its parts: docs/flashhead.md; users: 1.0"),
)


def _computed(card: str, fast: float, fp16_tflops: float) -> list[Speed]:
    """The figures of a card without a measurement. fast: seconds by the roofline; fp16_tflops: dense, as published."""
    speeds = [Speed(card, "infinitetalk", "fast", fast, "computed", _ROOFLINE)]
    for preset in ("balanced", "quality"):
        seconds = round(fast * _FORWARDS[preset] / _FORWARDS["fast"], 1)
        source = f"the figure of fast x {_FORWARDS[preset]} / {_FORWARDS['fast']} forwards"
        speeds.append(Speed(card, "infinitetalk", preset, seconds, "computed", source))
    for one in _H100:
        if one.engine == "flashtalk":
            factor, why = fast / _H100_FAST, f"{fast:g} / {_H100_FAST:g} (infinitetalk fast on both cards)"
        elif one.engine in ("flashhead", "sadtalker"):
            factor = _H100_FP16_TFLOPS / fp16_tflops
            why = f"{_H100_FP16_TFLOPS:g} / {fp16_tflops:g} (dense 16-bit TFLOP/s of both cards)"
        else:
            continue
        seconds = float(f"{one.seconds * factor:.2g}")
        speeds.append(Speed(card, one.engine, one.preset, seconds, "computed", f"the H100's figure x {why}"))
    return [next((other for other in _BY_PARTS if _same(one, other)), one) for one in speeds]


def _same(one: Speed, other: Speed) -> bool:
    return (one.card, one.engine, one.preset) == (other.card, other.engine, other.preset)


SPEEDS: tuple[Speed, ...] = (
    *_H100,
    *_computed("RTX 4090", 13.0, 165),
    *_computed("RTX 5090", 9.9, 209),
    *_computed("RTX 3090", 30.0, 71),
    *_computed("A100", 10.7, 312),
    *_computed("L40S", 11.7, 362),
)


def card_name(gpu: str) -> str:
    """This table's name of a card, from a provider's or driver's name; for an unknown card that name, shortened."""
    known = dict.fromkeys(speed.card for speed in SPEEDS)
    short = " ".join(word for word in gpu.replace("_", " ").split() if word.lower() not in ("nvidia", "geforce"))
    return next((card for card in known if _is_card(card, gpu)), short)


def speeds_of(gpu: str, measured: Sequence[Speed] = ()) -> list[Speed]:
    """Every figure for a card; [] for cards without one (a 4090D is no 4090).

    measured: the user's own figures, which replace those of the table for the same card, engine and preset."""
    own = [speed for speed in measured if _is_card(speed.card, gpu)]
    table = [speed for speed in SPEEDS if _is_card(speed.card, gpu) and not any(_same(speed, one) for one in own)]
    return [*own, *table]


def expected_speed(
    gpu: str, engine: str = "infinitetalk", preset: str = "balanced", measured: Sequence[Speed] = ()
) -> Speed | None:
    """The figure for one engine and preset; None where there is none."""
    return next((one for one in speeds_of(gpu, measured) if (one.engine, one.preset) == (engine, preset)), None)


def row_of_profile(profile: str, preset: str) -> tuple[str, str]:
    """Engine and preset of this table for a profile and a job's preset: ("flashhead", "lite") for flashhead-lite."""
    engine, _, rest = profile.partition("-")
    variant = next((word for word in rest.split("-") if word in _VARIANTS), "")
    if not variant:
        return "flashtalk" if engine == "flashtalk" else "infinitetalk", preset
    return engine, f"{variant} fast" if engine == "flashhead" and preset == "fast" else variant


def _is_card(card: str, gpu: str) -> bool:
    """Whether `gpu` is the card `card`, and not another card with the same beginning (4090D, 4090 Laptop, 3090 Ti)."""
    name, plain = _plain(card), _plain(gpu)
    return name in plain and not plain.partition(name)[2].startswith(("d", "laptop", "ti", "super"))


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
