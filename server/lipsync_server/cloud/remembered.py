"""The machines that this user rented, with their tokens, in one file that only this user may read (mode 600).

A machine's id and token are printed once. After the terminal is closed, the user finds both here. Does not know whether
a machine still exists; its provider does.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lipsync_server.durable import write_file
from lipsync_server.errors import InvalidInput


class RememberedMachine(BaseModel):
    """One machine that `lipsync cloud up` started. wheel: the file that is uploaded to it, "" for none."""

    model_config = ConfigDict(extra="ignore")

    provider: str
    machine_id: str
    token: str = Field(default="", repr=False)
    url: str = ""
    price_per_hour: float | None = None
    profile: str = ""
    wheel: str = ""


class _File(BaseModel):
    """The contents of the file."""

    machines: list[RememberedMachine] = []


def default_path(environment: Mapping[str, str] = os.environ) -> Path:
    """`lipsync/machines.json` in the user's folder for settings."""
    home = environment.get("XDG_CONFIG_HOME") or environment.get("APPDATA")
    return (Path(home) if home else Path.home() / ".config") / "lipsync" / "machines.json"


def remembered(path: Path) -> list[RememberedMachine]:
    """Every machine in the file, oldest first; [] without a file. Raises InvalidInput for a file that is not ours."""
    try:
        return _File.model_validate_json(path.read_bytes()).machines
    except FileNotFoundError:
        return []
    except ValidationError as error:
        raise InvalidInput(f"{path} is damaged. Move it away; the providers still list your machines.") from error


def remember(path: Path, machine: RememberedMachine) -> None:
    """Add `machine`, or replace the entry with its id."""
    _write(path, [*_others(path, machine.provider, machine.machine_id), machine])


def forget(path: Path, provider: str, machine_id: str) -> None:
    """Remove the entry, and its stored wheel if no other machine needs it."""
    others = _others(path, provider, machine_id)
    known = find(path, machine_id, provider)
    _write(path, others)
    if known is not None and known.wheel and all(one.wheel != known.wheel for one in others):
        wheel = Path(known.wheel)
        if wheel.parent.parent == _wheels(path):
            shutil.rmtree(wheel.parent, ignore_errors=True)


def keep_wheel(path: Path, wheel: Path) -> Path:
    """Copy a wheel to a folder beside the file of machines, for later starts of its machine. Returns the copy.

    A machine accepts only the wheel whose SHA-256 is in its order. A newly built wheel has another SHA-256, so it must
    not replace this copy. The name of the copy's folder is the beginning of the SHA-256.
    """
    folder = _wheels(path) / hashlib.sha256(wheel.read_bytes()).hexdigest()[:16]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Path(shutil.copy(wheel, folder / wheel.name))


def _wheels(path: Path) -> Path:
    """The folder of the stored wheels, beside the file of machines `path`."""
    return path.parent / "wheels"


def find(path: Path, machine_id: str, provider: str = "") -> RememberedMachine | None:
    """The entry with this id; None if the file has none."""
    fits = [one for one in remembered(path) if one.machine_id == machine_id and provider in ("", one.provider)]
    return fits[-1] if fits else None


def _others(path: Path, provider: str, machine_id: str) -> list[RememberedMachine]:
    """Every machine in the file except this one."""
    return [one for one in remembered(path) if (one.provider, one.machine_id) != (provider, machine_id)]


def _write(path: Path, machines: list[RememberedMachine]) -> None:
    """Replace the file durably: a machine that is forgotten costs money."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = _File(machines=machines).model_dump_json(indent=1)
    write_file(path, lambda file: file.write(text.encode()), mode=0o600)
