"""The sentence for a feature whose Python packages are not installed.

The packages of big or rare features are extras of pyproject.toml. The server runs from a clone of the project, so the
advice is the README's command in that folder.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

Extra = Literal["models", "gpu", "s3", "ray", "enhance", "speech"]


def missing_packages(names: Sequence[str]) -> list[str]:
    """The packages of `names` that are not installed. Imports none of them."""
    return [name for name in names if find_spec(name) is None]


def extra_is_missing(feature: str, packages: Sequence[str], extra: Extra) -> str:
    """The sentence: `feature` needs `packages`, which are not installed, and the command that installs `extra`."""
    noun, are = ("package", "is") if len(packages) == 1 else ("packages", "are")
    return (
        f"{feature} needs the Python {noun} {', '.join(packages)}, which {are} not installed here. In the project's "
        f"folder run: {install_command(extra)}"
    )


def install_command(extra: Extra) -> str:
    """The shell command that installs an extra, in the project's folder."""
    return f"pip install -c constraints.txt -e '.[{extra}]'"
