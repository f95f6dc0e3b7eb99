"""The facts that the checks use: driver, CUDA, cards, torch's build, memory, and whether this is a container.

All facts are read without torch, also on machines without a GPU. CUDA is started in a separate process, because a
process that has started CUDA cannot fork children that use it. The facts are judged in checks.py.
"""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from lipsync_server.engines import hardware
from lipsync_server.engines.hardware import Gpu
from lipsync_server.engines.host_memory import HostMemory, host_memory
from lipsync_server.nvidia_driver import driver_version

Version = tuple[int, ...]

_NVIDIA = "0x10de"
_DISPLAY_CLASSES = ("0x0300", "0x0302")  # PCI classes of graphics cards with and without a screen
# Prints CUDA's status and the newest CUDA version that the driver knows, 12080 for 12.8.
_START_CUDA = (
    "import ctypes\n"
    "cuda = ctypes.CDLL('libcuda.so.1')\n"
    "version = ctypes.c_int()\n"
    "cuda.cuDriverGetVersion(ctypes.byref(version))\n"
    "print(cuda.cuInit(0), version.value)\n"
)


@dataclass(frozen=True)
class CudaStart:
    """The result of starting CUDA.

    status: of cuInit, 0 for success, None without the driver's library.
    version: the newest CUDA version that the driver supports, () if unknown.
    """

    status: int | None
    version: Version


@dataclass(frozen=True)
class TorchBuild:
    """The installed torch. cuda: the CUDA version that it is built for, () for the CPU."""

    version: str
    cuda: Version


@dataclass(frozen=True)
class Facts:
    """The facts of one machine.

    n_nvidia_cards: on the PCI bus, with a driver or without. driver: NVIDIA's version, () without one. has_compiler:
    whether there are a C compiler and Python's headers, which Triton needs.
    """

    gpus: tuple[Gpu, ...]
    n_nvidia_cards: int
    driver: Version
    cuda: CudaStart
    torch: TorchBuild | None
    memory: HostMemory | None
    n_cpus: int
    in_container: bool
    has_compiler: bool


def read_facts() -> Facts:
    """The facts of this machine; takes under a second."""
    driver = version_of(driver_version())
    return Facts(
        gpus=hardware.gpus(),
        n_nvidia_cards=nvidia_cards(),
        driver=driver,
        cuda=start_cuda() if driver else CudaStart(None, ()),
        torch=torch_build(),
        memory=host_memory(),
        n_cpus=hardware.usable_cpus(),
        in_container=in_container(),
        has_compiler=has_compiler(),
    )


def version_of(text: str) -> Version:
    """The numbers of the first version in `text`: (535, 183, 1) for "535.183.01"; () without one."""
    found = re.search(r"\d+(\.\d+)+", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def start_cuda() -> CudaStart:
    """Start CUDA in a child process, and report the result."""
    try:
        ended = subprocess.run([sys.executable, "-c", _START_CUDA], capture_output=True, text=True, timeout=60)
        status, version = (int(word) for word in ended.stdout.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return CudaStart(None, ())
    return CudaStart(status, (version // 1000, version % 1000 // 10) if version else ())


def nvidia_cards(sys_root: Path = Path("/sys")) -> int:
    """NVIDIA's graphics cards on the PCI bus, whether their driver is installed or not."""
    n_cards = 0
    for device in (sys_root / "bus/pci/devices").glob("*"):
        try:
            vendor, kind = ((device / name).read_text(encoding="ascii").strip() for name in ("vendor", "class"))
        except OSError:
            continue
        n_cards += vendor == _NVIDIA and kind.startswith(_DISPLAY_CLASSES)
    return n_cards


def torch_build() -> TorchBuild | None:
    """The installed torch, from its version file. torch itself is not imported."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        tree = ast.parse(Path(spec.origin).with_name("version").with_suffix(".py").read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return TorchBuild("of an unknown version", ())
    values: dict[str, object] = {}
    for node in tree.body:
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else node.targets[0]
            if isinstance(node, ast.Assign)
            else None
        )
        if isinstance(target, ast.Name) and isinstance(value := getattr(node, "value", None), ast.Constant):
            values[target.id] = value.value
    return TorchBuild(str(values.get("__version__", "")), version_of(str(values.get("cuda") or "")))


def in_container(root: Path = Path("/")) -> bool:
    """Whether this process runs in a Docker, Podman or Kubernetes container."""
    marks = (root / ".dockerenv", root / "run/.containerenv")
    return any(mark.exists() for mark in marks) or bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


def has_compiler() -> bool:
    """Whether Triton can compile its launchers: whether there are a C compiler and Python's headers."""
    compilers = [os.environ.get("CC", ""), "gcc", "clang", "cc"]
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return header.is_file() and any(shutil.which(name) for name in compilers if name)
