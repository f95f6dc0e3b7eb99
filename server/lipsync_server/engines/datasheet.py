"""The data sheet of an engine: its speeds, its profiles, and the machine that it needs.

An engine's folder may have a module `datasheet` with the constant SHEET. The bill, the doctor, the selftest and the
commands that rent a machine read the sheet through the registry, so that none of them knows an engine by name. They
call an engine without a data sheet "not measured". Knows the cards whose published rates a computed figure may use;
imports no torch and reads no files.

A row is one line of the bill: a model and one setting of it, with the seconds of work for a second of video.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Origin = Literal["measured", "computed", "published"]

MEASURED_CARD = "H100"
"""The card on which the project measures. Figures of all other cards are computed from its figures."""

TFLOPS_16_BIT: Mapping[str, float] = {
    "H100": 989,
    "RTX 4090": 165,
    "RTX 5090": 209,
    "RTX 3090": 71,
    "A100": 312,
    "L40S": 362,
}
"""Dense 16-bit TFLOP/s of each card, as NVIDIA publishes them."""


@dataclass(frozen=True)
class Speed:
    """The figure of one row for one card.

    seconds: of work for one second of video. engine: the engine, or one of several models with which it renders.
    preset: the setting of the row, as `DataSheet.name_row` names it. source: one sentence for people.
    """

    card: str
    engine: str
    preset: str
    seconds: float
    origin: Origin
    source: str

    @property
    def key(self) -> tuple[str, str, str]:
        """Card, engine and preset. Two figures with the same key are about the same setting on the same card."""
        return self.card, self.engine, self.preset

    @property
    def setting(self) -> str:
        """Engine and preset in words. Some engines have no presets."""
        return f"{self.engine} {self.preset}".strip()


@dataclass(frozen=True)
class HostMemory:
    """The host memory that an engine needs beside a card.

    usual_bytes: enough for every setting. least_gb: a rented machine with less may fail.
    least_gpu_bytes: GPU memory of the smallest card that the engine runs on. advice: one sentence for a machine with
    such a card and less than `usual_bytes`.
    """

    usual_bytes: int
    least_gb: float
    least_gpu_bytes: int
    advice: str


@dataclass(frozen=True)
class Row:
    """The name of a row, and the options that the name does not express."""

    engine: str
    preset: str
    other_options: Mapping[str, object] = field(default_factory=dict)


NameRow = Callable[[str, Mapping[str, object]], Row]
"""Names the row of a job from its preset and its engine's options."""


def name_row_by_preset(engine: str) -> NameRow:
    """The rows of an engine whose speed depends on the preset: the preset is the row's name."""
    return lambda preset, options: Row(engine, preset, options)


@dataclass(frozen=True)
class DataSheet:
    """The declaration of one engine.

    name_row: names the row of a job. speeds: every known figure. suits: the recommended profile of model files, and the
    least GPU memory in bytes of a card for it. profile_options: the options that a job has when a profile's files are
    the only ones, by profile. runs_on_cpu: whether the engine is made for machines without a card and without torch;
    cpu_speed is its speed there in words.
    """

    name_row: NameRow
    speeds: tuple[Speed, ...] = ()
    suits: tuple[str, int] | None = None
    profile_options: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    host_memory: HostMemory | None = None
    runs_on_cpu: bool = False
    cpu_speed: str = ""


def computed_by_tflops(measured: Speed, card: str) -> Speed:
    """The figure of `measured` for another card: seconds x (16-bit rate of its card / 16-bit rate of `card`)."""
    ours, theirs = TFLOPS_16_BIT[measured.card], TFLOPS_16_BIT[card]
    return scaled(measured, card, ours / theirs, f"{ours:g} / {theirs:g} (dense 16-bit TFLOP/s of both cards)")


def scaled(measured: Speed, card: str, factor: float, why: str) -> Speed:
    """The figure of `measured` for another card: seconds x factor, in two digits. why: the factor in words."""
    seconds = float(f"{measured.seconds * factor:.2g}")
    source = f"the {measured.card}'s figure x {why}"
    return Speed(card, measured.engine, measured.preset, seconds, "computed", source)


def on_every_card(
    measured: tuple[Speed, ...], compute: Callable[[Speed, str], Speed], better: tuple[Speed, ...] = ()
) -> tuple[Speed, ...]:
    """`measured`, and each of its figures computed for every other card. better: figures to use instead."""
    exact = {one.key: one for one in better}
    computed = (compute(one, card) for card in TFLOPS_16_BIT if card != MEASURED_CARD for one in measured)
    return (*measured, *(exact.get(one.key, one) for one in computed))
