"""Host memory that this process may still take: the machine's memory, or less under a container's limit.

A process that takes more is killed by the kernel without a message. So an engine compares its need with this figure
before it reads model files. Linux keeps the figures in files: /proc/meminfo for the machine, and the files of the
control group (cgroup) for a container, in version 2 (`memory.max`) or version 1 (`memory.limit_in_bytes`). Pages of
files that were read count as free, because the kernel gives them up when memory is needed. Knows these files. Does not
know any engine.
"""

from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")

# Version 1 writes "no limit" as a number near 2**63.
_NO_LIMIT = 2**60
_V1_FOLDER = "memory"


@dataclass(frozen=True)
class HostMemory:
    """Host memory in bytes.

    total_bytes: memory of the machine, or the container's limit if that is lower. available_bytes: not in use now.
    is_container_limit: whether a container's limit decided `available_bytes`.
    """

    total_bytes: int
    available_bytes: int
    is_container_limit: bool

    @property
    def place(self) -> str:
        """The owner of the limit in words, for a message."""
        return "this container" if self.is_container_limit else "this machine"


def host_memory(proc: Path | None = None, cgroup: Path | None = None) -> HostMemory | None:
    """The memory of this machine or container; None on a system that does not report it (not Linux).

    proc, cgroup: the roots of the kernel's files; None for `PROC` and `CGROUP`.
    """
    proc, cgroup = proc or PROC, cgroup or CGROUP
    machine = _table(proc / "meminfo")
    try:
        total, available = machine["MemTotal"] * 1024, machine["MemAvailable"] * 1024
    except KeyError:
        return None
    found = HostMemory(total, available, is_container_limit=False)
    for folder in _groups(proc, cgroup):
        for limit, in_use in (_version_2(folder), _version_1(folder)):
            if limit is not None:
                left = max(0, limit - in_use)
                found = HostMemory(
                    total_bytes=min(found.total_bytes, limit),
                    available_bytes=min(found.available_bytes, left),
                    is_container_limit=found.is_container_limit or left < found.available_bytes,
                )
    return found


def _groups(proc: Path, cgroup: Path) -> list[Path]:
    """The folders of this process's control group and of all groups around it. Each of them may have a limit."""
    folders = {cgroup: None, cgroup / _V1_FOLDER: None}
    try:
        lines = (proc / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and _V1_FOLDER not in controllers.split(","):
            continue
        root = cgroup / _V1_FOLDER if controllers else cgroup
        # In a container the path may be the host's path. Its folders do not exist here, and are dropped below.
        inside = Path(path.lstrip("/"))
        folders |= {root / part: None for part in (inside, *inside.parents) if ".." not in part.parts}
    return [folder for folder in folders if folder.is_dir()]


def _version_2(folder: Path) -> tuple[int | None, int]:
    """The limit of a cgroup in bytes (None without one), and the bytes in use that the kernel cannot give up."""
    limit = _number(folder / "memory.max")
    if limit is None or limit >= _NO_LIMIT:
        return None, 0
    files = _table(folder / "memory.stat")
    return limit, (_number(folder / "memory.current") or 0) - files.get("inactive_file", 0) - files.get(
        "active_file", 0
    )


def _version_1(folder: Path) -> tuple[int | None, int]:
    """As `_version_2`, from the files of version 1."""
    limit = _number(folder / "memory.limit_in_bytes")
    if limit is None or limit >= _NO_LIMIT:
        return None, 0
    files = _table(folder / "memory.stat")
    in_use = _number(folder / "memory.usage_in_bytes") or 0
    return limit, in_use - files.get("total_inactive_file", 0) - files.get("total_active_file", 0)


def _number(path: Path) -> int | None:
    """The number in a file; None for `max`, and for a file that is missing or has no number."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _table(path: Path) -> dict[str, int]:
    """The numbers of a file with a name and a number in each line; {} if the file cannot be read."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    numbers = {}
    for line in lines:
        name, *values = line.replace(":", " ").split()
        if values and values[0].isdigit():
            numbers[name] = int(values[0])
    return numbers
