"""Seconds of work that each engine needs for a second of video on each card, and the source of every figure.

`measured`: by this project on that card, or by the user (`lipsync bench --share`, measured.py). `computed`: from a
roofline of the card, or from a measured figure by a stated formula. `published`: by others. This project has measured
no GeForce card: a user's file replaces the figure of the table. The figures are in the data sheets of the engines
(engines/datasheet.py), and this module looks them up.
"""

from collections.abc import Mapping, Sequence

from lipsync_server.cloud.machine import plain_name
from lipsync_server.engines.datasheet import TFLOPS_16_BIT, Row, Speed
from lipsync_server.engines.recommended import best_profile
from lipsync_server.engines.registry import ENGINES
from lipsync_server.weights.manifest import Manifest

SPEEDS: tuple[Speed, ...] = tuple(speed for name in ENGINES.entries for speed in ENGINES.data_sheet(name).speeds)


def card_name(gpu: str) -> str:
    """This table's name of a card, from a provider's or driver's name. An unknown card keeps its name, shortened."""
    known = dict.fromkeys((*TFLOPS_16_BIT, *(speed.card for speed in SPEEDS)))
    short = " ".join(word for word in gpu.replace("_", " ").split() if word.lower() not in ("nvidia", "geforce"))
    return next((card for card in known if is_card(card, gpu)), short)


def speeds_of(gpu: str, measured: Sequence[Speed] = ()) -> list[Speed]:
    """Every figure for a card; [] for cards without one (a 4090D is no 4090).

    measured: the user's own figures. They replace the table's figures for the same card, engine and preset.
    """
    own = [speed for speed in measured if is_card(speed.card, gpu)]
    known = {speed.key for speed in own}
    return [*own, *(speed for speed in SPEEDS if is_card(speed.card, gpu) and speed.key not in known)]


def expected_speed(gpu: str, row: Row, measured: Sequence[Speed] = ()) -> Speed | None:
    """The figure of one row for a card; None if the row has no figure."""
    wanted = (row.engine, row.preset)
    return next((one for one in speeds_of(gpu, measured) if (one.engine, one.preset) == wanted), None)


def row_of_job(engine: str, preset: str, options: Mapping[str, object]) -> Row:
    """The row of a job. An engine that is not installed here has rows by its name and the preset."""
    if engine not in ENGINES.entries:
        return Row(engine, preset, options)
    return ENGINES.data_sheet(engine).name_row(preset, options)


def row_of_profile(manifest: Manifest, profile: str, preset: str) -> Row:
    """The row of a job with this preset where only the model files of `profile` are present.

    Without a profile, the row is that of the best profile. Raises InvalidInput for an unknown profile.
    """
    profile = profile or best_profile()[0]
    engine = manifest.profile(profile).engine
    options = ENGINES.data_sheet(engine).profile_options.get(profile, {}) if engine in ENGINES.entries else {}
    return row_of_job(engine, preset, options)


def is_card(card: str, gpu: str) -> bool:
    """Whether `gpu` is the card `card`, and not another card with the same beginning (4090D, 4090 Laptop, 3090 Ti)."""
    name, plain = plain_name(card), plain_name(gpu)
    return name in plain and not plain.partition(name)[2].startswith(("d", "laptop", "ti", "super"))
