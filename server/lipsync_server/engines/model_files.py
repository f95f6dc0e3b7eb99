"""The work of an engine with model files on a disk: scan a folder, and convert a model.

An engine's folder may have a module `model_files` with a function `scan(folder) -> FolderScan`, a constant CONVERSIONS,
or both. `lipsync weights scan` and `convert` find them through the registry. Knows no engine.
"""

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from lipsync_server.engines.registry import ENGINES, Registry
from lipsync_server.settings import EngineSettings


@dataclass(frozen=True)
class ScannedFile:
    """One model file.

    kind: the file's layout. part: the part of the model in words. numbers: number format of a large weight ("bf16",
    "Q4_K"). people: the number of talking people in the engine's own words, or None. remark: the reason why the file is
    not used, or "".
    """

    path: Path
    kind: str
    part: str
    numbers: str
    size_bytes: int
    people: str | None
    used: bool
    remark: str


@dataclass(frozen=True)
class FolderScan:
    """The model files of one engine in a folder.

    models: each complete model among the files. presets: that the files serve. missing: parts without which no preset
    runs. wanted: parts without which presets of few steps look rough. downloads: names of the manifest's files that
    contain the missing and the wanted parts. profile: the profile of the one command that downloads them.
    """

    profile: str
    files: tuple[ScannedFile, ...] = ()
    models: tuple[str, ...] = ()
    presets: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()
    downloads: tuple[str, ...] = ()

    def command(self, folder: Path) -> str | None:
        """The one command that completes the folder; None if nothing is missing."""
        if not self.downloads:
            return None
        names = ",".join(self.downloads)
        return f"lipsync weights pull {self.profile} --only {names} --weights-dir {shlex.quote(str(folder))}"


@dataclass(frozen=True)
class Conversion:
    """A model that can be written in another number format.

    formats: the possible number formats, the usual one first. convert: writes the file. It takes the weights folder and
    the format, and returns the path of the new file.
    """

    model: str
    formats: Sequence[str]
    convert: Callable[[Path, str], Path] = field(repr=False)


Scanner = Callable[[Path], FolderScan]


def scanners(registry: Registry = ENGINES) -> dict[str, Scanner]:
    """The functions that scan a folder, by the name of their engine."""
    return {
        name: cast("Scanner", module.scan)
        for name in registry.entries
        if (module := registry.optional_module(name, "model_files")) is not None and hasattr(module, "scan")
    }


def prompt_embedders(registry: Registry = ENGINES) -> dict[str, Callable[[EngineSettings], Path]]:
    """The functions that write the embeddings of default prompts, by the name of their engine."""
    return {
        name: cast("Callable[[EngineSettings], Path]", module.embed_prompts)
        for name in registry.entries
        if (module := registry.optional_module(name, "model_files")) is not None and hasattr(module, "embed_prompts")
    }


def conversions(registry: Registry = ENGINES) -> dict[str, Conversion]:
    """Every conversion of every engine, by the model's name."""
    return {one.model: one for one in _all_conversions(registry)}


def _all_conversions(registry: Registry) -> Iterator[Conversion]:
    """The conversions of each engine in turn."""
    for name in registry.entries:
        module = registry.optional_module(name, "model_files")
        yield from getattr(module, "CONVERSIONS", ())
