"""The machine on which figures were measured: one header for every JSON file and every printed table.

Reads the headers of files that earlier versions of the benchmarks wrote, too: the tables in docs/ still use them.
"""

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from typing import Any, Self

import psutil

from lipsync_server.bench.record import Numbers
from lipsync_server.engines import hardware

HEADER = "machine"
"""The section of a JSON file that holds the header."""
_OLD_HEADER = "environment"
_PACKAGES = (
    "lipsync-server", "torch", "triton", "diffusers", "transformers", "xformers", "flash-attn", "sageattention",
    "safetensors", "numpy", "scipy", "opencv-python-headless", "pillow", "av", "ai-edge-litert",
)  # fmt: skip
# Names that differ between headers.
_SHOWN = {"python": "Python", "cuda": "CUDA", "cudnn": "cuDNN", "nccl": "NCCL"}
_NO_PACKAGES = {"device", "gpu", "gpu_bytes", "gpu_memory_gib", "cards", "took_s", "threads"}


@dataclass(frozen=True)
class Machine:
    """One machine. Empty strings and zeros stand for values that are not known.

    gpus: names of the cards that may be used. cards: how many of them were at work at the same time, each with
    sections of its own. software: versions by the name of the package.
    """

    device: str = ""
    system: str = ""
    cpu: str = ""
    n_cpus: int = 0
    memory_bytes: int = 0
    gpus: tuple[str, ...] = ()
    gpu_bytes: int = 0
    cards: int = 1
    software: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def here(cls, device: str = "") -> Self:
        """This machine. device: the measured device, as torch names it."""
        gpus = hardware.gpus()
        return cls(
            device=device,
            system=platform.platform(terse=True),
            cpu=hardware.cpu_name(),
            n_cpus=hardware.usable_cpus(),
            memory_bytes=psutil.virtual_memory().total,
            gpus=tuple(gpu.name for gpu in gpus),
            gpu_bytes=gpus[0].total_bytes if gpus else 0,
            software={"Python": platform.python_version(), **_versions()},
        )

    @classmethod
    def of(cls, numbers: Mapping[str, Any]) -> Self:
        """The machine of a file's numbers. Raises ValueError if the numbers have no header."""
        found = numbers.get(HEADER, numbers.get(_OLD_HEADER))
        if not isinstance(found, dict):
            raise ValueError(f"the numbers do not say on which machine they were measured: no section {HEADER}")
        if "software" in found:
            names = {name: value for name, value in found.items() if name in cls.__dataclass_fields__}
            return cls(**names | {"gpus": tuple(found["gpus"])})
        return cls._of_whole_runs(found) if "versions" in found else cls._of_sections(found)

    @classmethod
    def _of_whole_runs(cls, found: Mapping[str, str]) -> Self:
        """The old header of `lipsync bench`: sentences."""
        pairs = (version.rpartition(" ") for version in found["versions"].split(", "))
        system, _, memory = found["system"].rpartition(", ")
        cpu, _, n_cpus = found["CPU"].removesuffix(" cores").rpartition(", ")
        gpus = () if found["GPU"] == "none" else (found["GPU"],)
        return cls(
            system=system, cpu=cpu, n_cpus=int(n_cpus), memory_bytes=int(memory.removesuffix(" GiB")) * 2**30,
            gpus=gpus, software={name: version for name, _, version in pairs},
        )  # fmt: skip

    @classmethod
    def _of_sections(cls, found: Mapping[str, Any]) -> Self:
        """The old headers of the sections with random weights: one key for each package."""
        software = {
            _SHOWN.get(name, name): _dotted(value) if name == "cudnn" else str(value)
            for name, value in found.items()
            if name not in _NO_PACKAGES and value
        }
        device = str(found["device"])
        named_by_device = "gpu_memory_gib" in found
        gpu = device if named_by_device else found.get("gpu")
        return cls(
            device="cuda" if named_by_device else device,
            n_cpus=found.get("threads", 0),
            gpus=(gpu,) if gpu else (),
            gpu_bytes=found.get("gpu_bytes", round(found.get("gpu_memory_gib", 0) * 2**30)),
            cards=found.get("cards", 1),
            software=software,
        )

    def with_torch(self) -> Self:
        """A copy with the versions of CUDA, cuDNN and NCCL that torch uses. Imports torch."""
        import torch

        found = {
            "CUDA": torch.version.cuda,
            "cuDNN": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
            "NCCL": ".".join(map(str, torch.cuda.nccl.version())) if torch.cuda.is_available() else None,
        }
        known = {name: _dotted(value) if name == "cuDNN" else str(value) for name, value in found.items() if value}
        return replace(self, software={**self.software, **known})

    @property
    def numbers(self) -> Numbers:
        """The header for a JSON file."""
        return asdict(self) | {"gpus": list(self.gpus), "software": dict(self.software)}

    @property
    def card(self) -> str:
        """The GPUs in words, or the CPU or the device on a machine without GPUs."""
        if not self.gpus or self.device == "cpu":
            return self.cpu or self.device or "no GPU"
        first = self.gpus[0]
        return first if len(self.gpus) == 1 else f"{len(self.gpus)} x {first}"

    @property
    def software_line(self) -> str:
        """Packages with their versions, separated by commas."""
        return ", ".join(f"{name} {version}" for name, version in self.software.items())

    @property
    def rows(self) -> list[tuple[str, str]]:
        """The header as (name, text), for a table or the lines above a table. Unknown values are left out."""
        cores = f"{self.n_cpus} cores" if self.n_cpus else ""
        gpu_memory = f"{self.gpu_bytes / 2**30:.0f} GiB" if self.gpu_bytes else ""
        gpus = f"{len(self.gpus)} x {self.gpus[0]}" if len(self.gpus) > 1 else "".join(self.gpus)
        found = (
            ("system", self.system),
            ("CPU", ", ".join(filter(None, (self.cpu, cores)))),
            ("memory", f"{self.memory_bytes / 2**30:.0f} GiB" if self.memory_bytes else ""),
            ("GPU", ", ".join(filter(None, (gpus, gpu_memory))) or "none"),
            ("software", self.software_line),
        )
        return [(name, text) for name, text in found if text]


def _versions() -> dict[str, str]:
    """The versions of the installed packages in _PACKAGES."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _dotted(cudnn: object) -> str:
    """cuDNN's number as a version: 91900 is 9.19.0."""
    number = int(str(cudnn))
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
