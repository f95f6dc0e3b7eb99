"""The list of engines: whether each can run here, and the choice of `auto`.

An engine is a package with three modules: `options` (class Options), `info` (describe) and `engine` (create). Only
create() imports `engine`, so describing engines never loads torch or a model. A package may have three more modules:
`datasheet` (its speeds and the machine that it needs), `model_files` (a scan of a folder, and conversions) and `bench`
(a benchmark of a package from outside). To add an engine, add its folder and a line in SHIPPED, or install a package
of your own that names it under the entry point group `lipsync.engines` (docs/add-an-engine.md). Knows no work of an
engine.
"""

import importlib
import importlib.util
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import TYPE_CHECKING

from lipsync_server import garbage_collection
from lipsync_server.engine_packages import outside_packages
from lipsync_server.engines.datasheet import DataSheet, name_row_by_preset
from lipsync_server.errors import EngineUnavailable
from lipsync_server.extras import extra_is_missing
from lipsync_server.settings import EngineSettings
from lipsync_server.validation import nearest, show

if TYPE_CHECKING:  # brings numpy, which would slow down every --help
    from lipsync_server.engines.base import Engine, EngineInfo, EngineOptions


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineEntry:
    """The package of an engine.

    light: whether the engine may stay loaded beside another one. outside: whether the package is not part of this
    project. `auto` never chooses such an engine, so a caller must name it.
    """

    package: str
    light: bool = False
    outside: bool = False


@dataclass(frozen=True)
class Registry:
    """Engines by name, best first: the order in which `auto` prefers them."""

    entries: Mapping[str, EngineEntry] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Every value that a caller may give for the engine: `auto`, then the engines, best first."""
        return ("auto", *self.entries)

    def check_name(self, name: str) -> None:
        """Raise EngineUnavailable, with the names that exist, unless `name` is `auto` or an engine."""
        if name not in self.names:
            hint = f" Did you mean {near}?" if (near := nearest(name, self.names)) else ""
            raise EngineUnavailable(
                f"There is no engine {show(name)}; there are: {', '.join(self.names)}.{hint}", field="engine"
            )

    def describe(self, settings: EngineSettings) -> list["EngineInfo"]:
        """The description of every engine, best first, available or not. Reads files and hardware; loads nothing."""
        return [self._describe_one(name, settings) for name in self.entries]

    def choose(self, settings: EngineSettings) -> tuple[str, str]:
        """The name of the engine that `settings.engine` means, and one line with the reason for the choice.

        Raises EngineUnavailable, with the remedy, if the named engine cannot run here, or for `auto` no engine can.
        """
        if settings.engine != "auto":
            info = self.require(settings.engine, settings)
            return info.name, f"{info.name} on {info.device}: it was asked for"
        passed_over: list[EngineInfo] = []
        for info in self.describe(settings):
            if self.entries[info.name].outside:
                continue
            if info.available and not info.by_auto:
                info = replace(info, reason=f"it runs only when it is asked for by name ({info.reason})")
            elif info.available:
                why = f"{info.name} on {info.device}: the best that can run here"
                gists = [f"{other.name}: {gist(other.reason)}" for other in passed_over]
                return info.name, f"{why} ({'; '.join(gists)})" if gists else why
            passed_over.append(info)
        reasons = " ".join(f"{info.name}: {_clause(info.reason)}." for info in passed_over)
        raise EngineUnavailable(f"No engine can run here. {reasons}", field="engine")

    def require(self, name: str, settings: EngineSettings) -> "EngineInfo":
        """The description of engine `name`. Raises EngineUnavailable with the reason if the engine cannot run here."""
        self._entry(name)
        info = self._describe_one(name, settings)
        if not info.available:
            raise cannot_run(name, info.reason)
        return info

    def without(self, name: str) -> "Registry":
        """The same engines except `name`, for example while its model files are still being downloaded."""
        return Registry({other: entry for other, entry in self.entries.items() if other != name})

    def create(self, name: str, settings: EngineSettings) -> "Engine":
        """Make engine `name`, not yet loaded. Only this call imports the engine's own dependencies."""
        with garbage_collection.paused():  # the import takes seconds
            module = self._module(name, "engine")
        engine: Engine = module.create(settings)
        return engine

    def options_model(self, name: str) -> type["EngineOptions"]:
        """The pydantic model of the options of engine `name`."""
        model: type[EngineOptions] = self._module(name, "options").Options
        return model

    def data_sheet(self, name: str) -> DataSheet:
        """The data sheet of engine `name`; a sheet without figures if its package has none."""
        empty = DataSheet(name_row_by_preset(name))
        module = self.optional_module(name, "datasheet")
        if module is None:
            return empty
        sheet = getattr(module, "SHEET", None)
        if not isinstance(sheet, DataSheet):
            log.warning("engine %s: its module datasheet has no DataSheet named SHEET; it counts as not measured", name)
            return empty
        return sheet

    def optional_module(self, name: str, part: str) -> ModuleType | None:
        """The module `part` of an engine's package; None if the package has no such module.

        An error in the module of an outside package is logged, and the result is None. An error in this project's own
        package is raised.
        """
        entry = self._entry(name)
        try:
            if importlib.util.find_spec(f"{entry.package}.{part}") is None:
                return None
            return importlib.import_module(f"{entry.package}.{part}")
        except Exception:  # code of another package may raise any error, and a command of this project must not fail
            if not entry.outside:
                raise
            log.exception("engine %s from outside: its module %s cannot be read", name, part)
            return None

    def _describe_one(self, name: str, settings: EngineSettings) -> "EngineInfo":
        """The description of one engine, available or not."""
        from lipsync_server.engines.base import EngineInfo

        try:
            info: EngineInfo = self._module(name, "info").describe(settings)
        except EngineUnavailable as error:
            return EngineInfo(name=name, title=name, available=False, reason=error.detail)
        except Exception as error:  # code of another package may raise any error, and the list must not fail
            if not self.entries[name].outside:
                raise
            log.exception("engine %s from outside could not describe itself", name)
            reason = f"Its package failed with {type(error).__name__}: {error}. Mend or uninstall that package."
            return EngineInfo(name=name, title=name, available=False, reason=reason)
        return replace(info, name=name)

    def _entry(self, name: str) -> EngineEntry:
        """The entry of engine `name`. Raises EngineUnavailable for an unknown name and for `auto`."""
        if name not in self.entries:
            self.check_name("" if name == "auto" else name)
        return self.entries[name]

    def _module(self, name: str, part: str) -> ModuleType:
        """The module `part` of an engine's package. Raises EngineUnavailable if a package for it is missing."""
        entry = self._entry(name)
        package = entry.package
        try:
            return importlib.import_module(f"{package}.{part}")
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if package == missing or package.startswith(f"{missing}.") or missing == f"{package}.{part}":
                whose = f"the package with {package}" if entry.outside else "lipsync-server"
                reason = f"Engine {name} is not part of this installation any more; install {whose} again."
            else:
                reason = extra_is_missing(f"Engine {name}", [missing], "models")
            raise EngineUnavailable(reason, field="engine") from error


def cannot_run(name: str, reason: str) -> EngineUnavailable:
    """The error for an engine that exists and is not available, with the reason of its description."""
    return EngineUnavailable(f"Engine {name} cannot run here: {_clause(reason)}.", field="engine")


def gist(reason: str) -> str:
    """The beginning of a reason, without its details."""
    return re.split(r"[;:.]\s", _clause(reason), maxsplit=1)[0]


def _clause(sentence: str) -> str:
    """A sentence as part of another one."""
    return sentence.strip().removesuffix(".")


SHIPPED = {
    "infinitetalk": EngineEntry("lipsync_server.engines.infinitetalk"),
    "flashhead": EngineEntry("lipsync_server.engines.flashhead"),
    "sadtalker": EngineEntry("lipsync_server.engines.sadtalker"),
    "preview": EngineEntry("lipsync_server.engines.preview", light=True),
}
"""The engines of this project, best first."""


def installed_outside() -> dict[str, EngineEntry]:
    """Engines of other installed packages: entry points of the group `lipsync.engines`, name = package."""
    found = outside_packages()
    for name in found:
        if name in (*SHIPPED, "auto"):
            log.warning("an installed package offers an engine %s too; the one of this project is used", name)
    return {
        name: EngineEntry(package, outside=True) for name, package in found.items() if name not in (*SHIPPED, "auto")
    }


ENGINES = Registry(SHIPPED | installed_outside())
"""The engines of this installation."""

describe = ENGINES.describe
choose = ENGINES.choose
create = ENGINES.create
options_model = ENGINES.options_model
