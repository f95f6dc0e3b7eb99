"""The file in which the choices for one card are kept, and the note of a trial that ended its process.

Another card, driver or software has another file, so its choices are measured anew. Two processes may start at once:
each changes the file under a lock, so neither loses the other's choices. A folder that cannot be written costs the
measurement at each start and one line in the log.

A kernel that was never run on a card may end the whole process: by a crash below Python, or by a hang that the server
ends. The way under trial is therefore noted before it runs, and the note is removed afterwards. A way whose notes
remained after two processes is not tried again. Knows neither torch nor the meaning of a choice.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from lipsync_server.durable import write_file

log = logging.getLogger(__name__)

MOST_FATAL_TRIALS = 2
"""After so many processes that ended in the trial of a way, the way is not tried again."""


@dataclass(frozen=True)
class Card:
    """The key under which choices are kept: another card, driver or software measures again."""

    name: str
    driver: str = ""
    versions: str = ""

    @property
    def file_name(self) -> str:
        """The name of this card's file: the card in letters that every file system takes, and a digest of the key."""
        words = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-") or "card"
        digest = hashlib.sha256("\n".join((self.name, self.driver, self.versions)).encode()).hexdigest()
        return f"{words}-{digest[:12]}.json"


class Kept(BaseModel):
    """One kept choice. ms: the duration of each way that was timed."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    way: str
    ms: dict[str, float] = {}


class _Trials(BaseModel):
    """The trials of one way that have not ended. running: process ids. fatal: count of trials that ended a process."""

    model_config = ConfigDict(frozen=True)

    running: tuple[int, ...] = ()
    fatal: int = 0


class _Content(BaseModel):
    """The file of one card. The key is inside too, because its digest in the file's name is short."""

    model_config = ConfigDict(frozen=True)

    card: str
    driver: str
    versions: str
    choices: dict[str, Kept] = {}
    trials: dict[str, dict[str, _Trials]] = {}


@dataclass
class KeptChoices:
    """The kept choices of `card`. folder: where the file is; None keeps nothing."""

    card: Card
    folder: Path | None
    _unwritable: bool = field(default=False, init=False)

    def choice(self, key: str) -> Kept | None:
        """The kept choice for the question `key`, or None."""
        return self._read().choices.get(key)

    def keep(self, key: str, kept: Kept) -> None:
        """Keep the choice for the question `key`."""
        self._change(lambda found: found.model_copy(update={"choices": {**found.choices, key: kept}}))

    def why_not(self, key: str, way: str) -> str | None:
        """The reason why a way is not tried at all; None if it may be tried."""
        trials = self._read().trials.get(key, {}).get(way, _Trials())
        ended = trials.fatal + sum(_has_ended(process) for process in trials.running)
        if ended < MOST_FATAL_TRIALS:
            return None
        return f"its trial ended the process before (remove {self.card.file_name} from the cache to try it again)"

    @contextmanager
    def trial(self, key: str, way: str) -> Iterator[None]:
        """Note the way while the body tries it. The note stays only where the process ends in the body."""
        self._note(key, way, lambda known: _Trials(running=(*known.running, os.getpid()), fatal=known.fatal))
        try:
            yield
        finally:
            self._note(key, way, lambda known: _Trials(running=_without_this_process(known), fatal=known.fatal))

    def note_fatal(self, key: str, way: str) -> None:
        """Never try this way again: its trial left the card unusable for this process."""
        self._note(key, way, lambda _: _Trials(fatal=MOST_FATAL_TRIALS))

    def _note(self, key: str, way: str, change: Callable[[_Trials], _Trials]) -> None:
        """Change the note of one way. An empty note is removed."""

        def changed(found: _Content) -> _Content:
            ways = dict(found.trials.get(key, {}))
            noted = change(ways.pop(way, _Trials()))
            if noted != _Trials():
                ways[way] = noted
            trials = {other: noted for other, noted in found.trials.items() if other != key}
            return found.model_copy(update={"trials": {**trials, key: ways} if ways else trials})

        self._change(changed)

    def _read(self) -> _Content:
        """The file of this card; empty where it is missing, torn or another card's."""
        empty = _Content(card=self.card.name, driver=self.card.driver, versions=self.card.versions)
        if self.folder is None:
            return empty
        path = self.folder / self.card.file_name
        try:
            found = _Content.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return empty
        except (OSError, ValidationError) as error:
            if not self._unwritable:
                log.warning("the kept choices in %s cannot be read and are measured again: %s", path.name, error)
            return empty
        return found if found.model_copy(update={"choices": {}, "trials": {}}) == empty else empty

    def _change(self, change: Callable[[_Content], _Content]) -> None:
        """Change the file under the lock. A folder that cannot be written is logged once and not tried again."""
        if self.folder is None or self._unwritable:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder / ".lock"):
                content = change(self._read())
                text = json.dumps(content.model_dump(), indent=1, sort_keys=True) + "\n"
                write_file(self.folder / self.card.file_name, lambda file: file.write(text.encode()))
        except OSError as error:
            self._unwritable = True
            log.warning("the choices cannot be kept in %s and are measured at every start: %s", self.folder, error)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process is in the body. Without locks on this file system, the last writer's file stays."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            log.debug("%s cannot be locked: %s", path, error)
        yield
    finally:
        os.close(descriptor)


def _has_ended(process: int) -> bool:
    """Whether the process of a note has ended. In a container, this process may have the number of an earlier one."""
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it belongs to another user
        return False
    return False


def _without_this_process(known: _Trials) -> tuple[int, ...]:
    """The processes of a note except this one."""
    return tuple(process for process in known.running if process != os.getpid())
