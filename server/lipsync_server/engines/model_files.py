"""The work of an engine with model files on a disk: look through a folder, and convert a model.

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
    """One model file. part: the part of the model in words. numbers: how a large weight is stored ("bf16", "Q4_K").

    people: the number of talking people in the engine's own words, or None. remark: why the file is not used, or "".
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

    models: each whole model that the files make. missing: parts without which no preset runs. wanted: parts without
    which few steps look rough. downloads: names of the manifest's files that bring both, by one command for `profile`.
    """

    profile: str
    files: tuple[ScannedFile, ...] = ()
    models: tuple[str, ...] = ()
    presets: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()
    downloads: tuple[str, ...] = ()

    def command(self, folder: Path) -> str | None:
        """The one command that completes the folder; None where nothing is missing."""
        if not self.downloads:
            return None
        names = ",".join(self.downloads)
        return f"lipsync weights pull {self.profile} --only {names} --weights-dir {shlex.quote(str(folder))}"


@dataclass(frozen=True)
class Conversion:
    """A model that can be written in another number format. convert: weights folder and format -> the written file.

    formats: the number formats that can be chosen, the usual one first.
    """

    model: str
    formats: Sequence[str]
    convert: Callable[[Path, str], Path] = field(repr=False)


Scanner = Callable[[Path], FolderScan]


def scanners(registry: Registry = ENGINES) -> dict[str, Scanner]:
    """The function that looks through a folder, by engine, for the engines that have one."""
    return {
        name: cast("Scanner", module.scan)
        for name in registry.entries
        if (module := registry.optional_module(name, "model_files")) is not None and hasattr(module, "scan")
    }


def prompt_embedders(registry: Registry = ENGINES) -> dict[str, Callable[[EngineSettings], Path]]:
    """The function that writes the embeddings of an engine's default prompts, by engine, for engines that have one."""
    return {
        name: cast("Callable[[EngineSettings], Path]", module.embed_prompts)
        for name in registry.entries
        if (module := registry.optional_module(name, "model_files")) is not None and hasattr(module, "embed_prompts")
    }


def conversions(registry: Registry = ENGINES) -> dict[str, Conversion]:
    """Every conversion of every engine, by the model's name."""
    return {one.model: one for one in _all_conversions(registry)}


def _all_conversions(registry: Registry) -> Iterator[Conversion]:
    for name in registry.entries:
        module = registry.optional_module(name, "model_files")
        yield from getattr(module, "CONVERSIONS", ())
