"""Read the speeds that a user measured on their own card, for the bill: files of `lipsync bench --share`.

The files are in a folder beside the list of rented machines, or are named on the command line. A file in the folder
that cannot be read is an error; otherwise the bill would silently use the table's figures.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from lipsync_server.card_speeds import CardSpeeds, SharedSpeed, read_card_speeds
from lipsync_server.cloud.costs.speeds import card_name, row_of_job
from lipsync_server.cloud.remembered import default_path
from lipsync_server.engines.datasheet import Speed
from lipsync_server.errors import InvalidInput


def default_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """`lipsync/speeds` in the user's folder for settings."""
    return default_path(environment).parent / "speeds"


def measured_speeds(named: Sequence[Path], folder: Path) -> list[Speed]:
    """The speeds in the named files and folders, then the speeds in `folder`, if it exists.

    If a setting is in two files, the first named file counts, and within a folder the newest measurement. Raises
    InvalidInput for a path that does not exist, or a file that `lipsync bench --share` did not write.
    """
    speeds: dict[tuple[str, str, str], Speed] = {}
    for place in (*named, *([folder] if folder.is_dir() else [])):
        if not place.exists():
            raise InvalidInput(f"--measured: there is no file or folder {place}.", field="measured")
        files = sorted(place.glob("*.json")) if place.is_dir() else [place]
        for found in sorted(map(read_card_speeds, files), key=lambda one: one.measured_on, reverse=True):
            for speed in _speeds(found):
                speeds.setdefault((speed.card, speed.engine, speed.preset), speed)
    return list(speeds.values())


def _speeds(found: CardSpeeds) -> list[Speed]:
    """The speeds of one file, with the table's names of card, engine and preset."""
    card = card_name(found.card)
    source = f"by you on {found.card}, {found.measured_on}, median of {{}} (lipsync bench --share)"
    return [
        Speed(
            card,
            *_names(shared),
            shared.seconds_per_second,
            "measured",
            source.format(f"{shared.n_runs} run{'s' * (shared.n_runs > 1)} of {shared.sound_s:g} s"),
        )
        for shared in found.speeds
    ]


def _names(shared: SharedSpeed) -> tuple[str, str]:
    """Engine and preset with the table's names.

    A resolution other than 480p and other options are added to the preset.
    """
    row = row_of_job(shared.engine, shared.preset, shared.options)
    more = [shared.resolution] if shared.resolution not in ("", "480p") else []
    more += [f"{name}={value}" for name, value in sorted(row.other_options.items())]
    return row.engine, " ".join((row.preset, *more)).strip()
