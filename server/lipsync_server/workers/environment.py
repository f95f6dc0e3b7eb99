"""Chooses the environment variables of a worker process: the variables that its libraries need, and no secret.

A worker runs model code on untrusted input, so a vulnerability there must not reveal tokens, webhook keys or cloud
credentials. The names of all secrets are not known, so this module lists the allowed names instead: those of the
operating system, Python and the GPU libraries. A worker receives its settings in the first message, without secrets.
"""

import os
import re
from collections.abc import Mapping, MutableMapping

from lipsync_server.engines import hardware
from lipsync_server.settings import Settings

_NAMES = frozenset(
    (
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "TZ", "LANG", "LANGUAGE", "HOSTNAME", "TMPDIR",
        "VIRTUAL_ENV", "CC", "CXX", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH",
        "SSL_CERT_FILE", "SSL_CERT_DIR", "HF_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE",
    )
)  # fmt: skip
_PREFIXES = (
    "LC_", "LD_", "DYLD_", "XDG_", "PYTHON", "CUDA", "CUBLAS", "CUDNN", "NV", "NCCL_", "GLOO_", "TORCH", "PYTORCH_",
    "TRITON", "XFORMERS_", "FLASH_ATTENTION_", "OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "NUMBA_", "NUMEXPR_",
    "ORT_", "ONNX", "MALLOC_", "GLIBC_", "COVERAGE_",
)  # fmt: skip
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE", re.IGNORECASE)
_OF_RAY = "RAY_"
"""Ray's own processes need their token. The worker process that they start inherits it in any case."""


def is_safe(name: str) -> bool:
    """Whether a worker may receive the variable `name`."""
    return (name in _NAMES or name.startswith(_PREFIXES)) and not _SECRET.search(name)


def forget_secrets(environment: MutableMapping[str, str]) -> None:
    """Remove all other variables from the environment of this process; for actors, whose process Ray starts."""
    for name in [name for name in environment if not (is_safe(name) or name.startswith(_OF_RAY))]:
        del environment[name]


def child_environment(settings: Settings, index: int, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of child process `index`, with its share of the cores for the math libraries and of the GPUs.

    environment: the server's, by default that of this process; variables set there override the shares.
    """
    environment = os.environ if environment is None else environment
    n_threads = max(1, hardware.usable_cpus() // settings.workers)
    child = {
        "OMP_NUM_THREADS": str(n_threads),
        "OPENBLAS_NUM_THREADS": str(min(4, n_threads)),
        "NUMBA_NUM_THREADS": str(min(4, n_threads)),
        # glibc keeps an arena of freed memory per thread; two arenas suffice and keep the resident size low.
        "MALLOC_ARENA_MAX": "2",
        **{name: value for name, value in environment.items() if is_safe(name)},
    }
    n_gpus = len(hardware.gpus())
    if settings.workers > 1 and n_gpus > 1 and settings.device in ("auto", "cuda"):
        names = [part.strip() for part in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
        names = names or [str(number) for number in range(n_gpus)]
        if settings.workers <= n_gpus:
            share = names[index * n_gpus // settings.workers : (index + 1) * n_gpus // settings.workers]
        else:
            share = [names[index % n_gpus]]
        child["CUDA_VISIBLE_DEVICES"] = ",".join(share)
    return child
