"""Reads a Dockerfile into stages of steps: enough of the language for this project's own, and an error for the rest."""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

KNOWN = {
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "RUN",
    "SHELL",
    "USER",
    "VOLUME",
    "WORKDIR",
}


@dataclass
class Stage:
    """One FROM: its base (an image or an earlier stage) and its steps as (instruction, rest)."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


def stages(path: Path) -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    stage: Stage | None = None
    text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if not instruction:
            continue
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = found[name] = Stage(name, base)
        elif stage is None or instruction not in KNOWN:
            raise ValueError(f"this reader does not know: {line}")
        else:
            stage.steps.append((instruction, rest.strip()))
    return found


def words(rest: str) -> list[str]:
    """The exec form of a command, or the words of a COPY or ENV."""
    return [str(word) for word in json.loads(rest)] if rest.startswith("[") else shlex.split(rest)
