"""Prints the requirements that pyproject.toml names for an image, one a line: `requirements.py EXTRA[,EXTRA] ...`.

The image installs them before it sees the source, so that an edit of the source leaves their layer as it is. An extra
that includes another one (`lipsync-server[models]`) is followed. Needs nothing but Python's standard library.
"""

import re
import sys
import tomllib
from pathlib import Path


def requirements(project: dict[str, object], extras: list[str]) -> list[str]:
    """The plain requirements of `project` and those of `extras`, sorted, each once."""
    name, optional = project["name"], project["optional-dependencies"]
    assert isinstance(optional, dict)
    plain = project["dependencies"]
    assert isinstance(plain, list)
    found, waiting, seen = set(plain), list(extras), set[str]()
    while waiting:
        extra = waiting.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for requirement in optional[extra]:
            inner = re.fullmatch(rf"{re.escape(str(name))}\[(.+)\]", requirement)
            if inner:
                waiting += [part.strip() for part in inner[1].split(",")]
            else:
                found.add(requirement)
    return sorted(found)


if __name__ == "__main__":
    pyproject = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    extras = [extra for argument in sys.argv[1:] for extra in argument.split(",") if extra]
    sys.stdout.write("\n".join(requirements(pyproject["project"], extras)) + "\n")
