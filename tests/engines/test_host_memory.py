"""Host memory as Linux reports it: of the machine, and of a container in both versions of control groups."""

from pathlib import Path

import pytest
from lipsync_server.engines.host_memory import HostMemory, host_memory

GIB = 2**30
MEMINFO = "MemTotal:       67108864 kB\nMemFree:         1048576 kB\nMemAvailable:   50331648 kB\n"


def _kernel(tmp_path: Path, files: dict[str, str], own_group: str = "0::/\n") -> HostMemory | None:
    """The figure for a machine of 64 GiB, of which 48 are free, with the files of a control group. sizes: in GiB."""
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    cgroup.mkdir()
    (proc / "meminfo").write_text(MEMINFO)
    (proc / "self/cgroup").write_text(own_group)
    for name, text in files.items():
        path = cgroup / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return host_memory(proc, cgroup)


@pytest.mark.parametrize(
    ("files", "own_group", "total", "free"),
    [
        ({}, "0::/\n", 64, 48),
        ({"memory.max": "max\n", "memory.current": f"{9 * GIB}"}, "0::/\n", 64, 48),
        ({"memory.max": f"{16 * GIB}\n", "memory.current": f"{4 * GIB}\n"}, "0::/\n", 16, 12),
        # The kernel frees cached file pages when memory is needed, so they count as available.
        (
            {
                "memory.max": f"{16 * GIB}\n",
                "memory.current": f"{15 * GIB}\n",
                "memory.stat": f"anon {3 * GIB}\ninactive_file {8 * GIB}\nactive_file {4 * GIB}\n",
            },
            "0::/\n",
            16,
            13,
        ),
        # The limit belongs to a parent of the process's own group.
        (
            {
                "pod/memory.max": f"{24 * GIB}",
                "pod/memory.current": f"{20 * GIB}",
                "pod/box/memory.max": "max",
                "pod/box/memory.current": f"{5 * GIB}",
            },
            "0::/pod/box\n",
            24,
            4,
        ),
        ({"memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "1"}, "", 64, 48),
        # Version 1 in a container: the path is the host's, and the group's own folder is the root.
        (
            {
                "memory/memory.limit_in_bytes": f"{8 * GIB}",
                "memory/memory.usage_in_bytes": f"{6 * GIB}",
                "memory/memory.stat": f"cache {5 * GIB}\ntotal_inactive_file {4 * GIB}\ntotal_active_file {GIB}\n",
            },
            "4:memory:/docker/0123\n1:cpu:/docker/0123\n",
            8,
            7,
        ),
        # The limit was lowered below the current use while the group ran.
        ({"memory.max": f"{GIB}", "memory.current": f"{2 * GIB}"}, "0::/\n", 1, 0),
        ({"memory.max": "nonsense"}, "not a line of a control group\n0::/../../escape\n", 64, 48),
    ],
)
def test_the_memory_of_machine_and_container_is_read(
    tmp_path: Path, files: dict[str, str], own_group: str, total: int, free: int
) -> None:
    found = _kernel(tmp_path, files, own_group)
    assert found is not None
    assert (found.total_bytes, found.available_bytes) == (total * GIB, free * GIB)
    assert found.place == ("this machine" if total == 64 else "this container")


def test_a_system_that_does_not_report_its_memory_is_not_refused(tmp_path: Path) -> None:
    assert host_memory(tmp_path, tmp_path) is None
