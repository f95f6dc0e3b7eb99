"""The sentence for a feature whose Python packages are not installed, with the way to install them.

The packages of big or rare features are extras of pyproject.toml. The way depends on the place where the server runs: a
clone of the project, one of the project's container images (which have no pip), or an installed wheel.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from lipsync_server.paths import PACKAGE_DIR

Extra = Literal["models", "gpu", "s3", "ray", "enhance", "speech", "japanese"]
IN_GPU_IMAGE: Final[tuple[Extra, ...]] = ("models", "gpu", "ray", "s3", "speech", "japanese")
"""The extras that the Dockerfile installs in the GPU image: `speech` includes `japanese`."""
_IMAGE_MARK: Final = "lipsync-image"
"""A file in the folder of the Python environment of an image. Its content is the image's target: cpu or gpu."""
_DISTRIBUTION: Final = "lipsync-server"


def missing_packages(names: Sequence[str]) -> list[str]:
    """The packages of `names` that are not installed. Imports none of them."""
    return [name for name in names if find_spec(name) is None]


def extra_is_missing(feature: str, packages: Sequence[str], extra: Extra) -> str:
    """The sentences: `feature` needs `packages`, which are not installed, and the way to install `extra`.

    The text has no full stop at its end, because the caller may add an alternative.
    """
    noun, are = ("package", "is") if len(packages) == 1 else ("packages", "are")
    return (
        f"{feature} needs the Python {noun} {', '.join(packages)}, which {are} not installed here. "
        f"{way_to_install(extra)}"
    )


def way_to_install(extra: Extra, then: str = "") -> str:
    """A sentence with the way to install an extra in the place where this server runs. It has no full stop at its end.

    then: a command that the person must run afterwards, "" for none.
    """
    image = _image()
    if image:
        after = f". Then run in the container: {then}" if then else ""
        return _way_in_image(extra, image) + after
    after = f" && {then}" if then else ""
    if (PACKAGE_DIR.parents[1] / "pyproject.toml").is_file():
        return f"In the project's folder run: pip install -c constraints.txt -e '.[{extra}]'{after}"
    packages = " ".join(f"'{requirement}'" for requirement in sorted(set(_requirements(extra))))
    return f"In the server's Python environment run: pip install {packages}{after}"


def _way_in_image(extra: Extra, image: str) -> str:
    """The sentence for one of the project's images. image: its target, cpu or gpu."""
    target, tag = ("--target cpu ", "lipsync:cpu") if image == "cpu" else ("", "lipsync")
    build = f"docker build . {target}--build-arg EXTRAS={extra} -t {tag}"
    if image == "cpu" and extra in ("models", "gpu"):
        return "This is the CPU image; use the GPU image, which has all engines"
    if image == "cpu" and extra in IN_GPU_IMAGE:
        return (
            "This is the CPU image, which has no pip: use the GPU image, which has the packages and also starts on a "
            f"machine without a GPU, or build the CPU image with them in the project's folder: {build}"
        )
    return f"This image has no pip: build it with the packages in the project's folder: {build}"


def _image() -> str:
    """The target of the container image in which this program runs; "" outside of the project's images."""
    mark = Path(sys.prefix) / _IMAGE_MARK
    return mark.read_text(encoding="utf-8").strip() if mark.is_file() else ""


def _requirements(extra: str) -> Iterator[str]:
    """The requirements of an extra, as the installed package lists them. An extra inside an extra is followed."""
    for line in metadata.requires(_DISTRIBUTION) or []:
        requirement, _, condition = (part.strip() for part in line.partition(";"))
        if not re.search(rf"extra == ['\"]{extra}['\"]", condition):
            continue
        inner = re.fullmatch(rf"{_DISTRIBUTION}\[(.+)\]", requirement)
        if inner is None:
            yield requirement
        else:
            for name in inner[1].split(","):
                yield from _requirements(name.strip())
