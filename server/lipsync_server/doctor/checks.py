"""The checks of `lipsync doctor`. Each is a small function that returns a Finding with one sentence of advice.

The checks read facts (facts.py), settings and the list of weights. They download nothing, import no torch and load no
model, so that the server can run them at its start.
"""

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from lipsync_server.doctor.facts import Facts, Version, read_facts
from lipsync_server.doctor.finding import Finding, Report, State
from lipsync_server.engines.recommended import profile_for_card, profile_of_engine
from lipsync_server.engines.registry import ENGINES, Registry, gist
from lipsync_server.errors import EngineUnavailable
from lipsync_server.extras import way_to_install
from lipsync_server.settings import Settings
from lipsync_server.weights.manifest import Manifest, load_manifest
from lipsync_server.weights.verify import profile_complete

GIB = 2**30

_LEAST_DRIVERS: dict[int, Version] = {12: (525,), 13: (580,)}
"""Major version of CUDA -> the first driver branch that runs programs for it (NVIDIA's compatibility table)."""
_BLACKWELL_DRIVER: Version = (570,)
_BLACKWELL = 10
"""The first compute capability of Blackwell cards (RTX 50 series, B200)."""
_AMPERE = (8, 0)
_CUDA_ERRORS = {
    100: "no card is visible to this process: start the container with `--gpus all`, or unset CUDA_VISIBLE_DEVICES.",
    802: "the card's fabric manager is not running: restart the machine, or rent another one.",
    803: "the driver's library and its kernel module differ: restart the machine.",
    804: "this image brings a CUDA library that GeForce cards refuse: use an image without cuda-compat, such as ours.",
    999: "the driver is in an unknown state: restart the machine.",
}
_LEAST_MEMORY_BYTES = 2 * GIB
_BUSY_SHARE = 0.25


def examine(
    settings: Settings, *, facts: Facts | None = None, registry: Registry = ENGINES, ports: bool = True
) -> Report:
    """Run every check. ports: False if this process itself listens on the ports."""
    facts = facts or read_facts()
    manifest = load_manifest(settings.manifest)
    findings = [
        check_card(facts),
        check_driver(facts),
        check_cuda(facts),
        check_torch(facts, registry),
        check_compiler(facts),
        check_memory(facts, registry),
        check_disk(settings.weights_dir, "weights disk", bytes_to_download(settings, manifest, facts)),
        check_disk(settings.data_dir, "videos disk", settings.min_free_disk_bytes),
        *(check_port(settings.host, port, name) for port, name in _ports(settings) if ports),
        *check_weights(settings, manifest),
    ]
    engine, engines = check_engines(settings, registry, set(engines_without_weights(settings, manifest)))
    return Report(engine, tuple(finding for finding in (*findings, *engines) if finding is not None))


def check_card(facts: Facts) -> Finding:
    """The cards: name, generation, memory, and whether another program uses much of the memory."""
    if not facts.gpus:
        if facts.n_nvidia_cards and not facts.driver:
            return Finding("card", "problem", "an NVIDIA card is here, but no driver answers.", _install_driver(facts))
        if facts.driver:
            return Finding(
                "card", "problem", "NVIDIA's driver is here, but this process sees no card.", _pass_card(facts)
            )
        advice = "If the machine has one, start the container with `--gpus all`." if facts.in_container else ""
        return Finding("card", "note", "no NVIDIA card; engines run on the CPU.", advice)
    shown, state, advice = [], "ok", ""
    for gpu in facts.gpus:
        major, minor = gpu.compute_capability
        shown.append(
            f"{gpu.name}, compute capability {major}.{minor}, {gpu.free_bytes / GIB:.1f} of "
            f"{gpu.total_bytes / GIB:.1f} GiB free"
        )
        if gpu.compute_capability < _AMPERE:
            state, advice = "note", "Cards before Ampere (RTX 30 series) lack our kernels: expect it to be slow."
        elif gpu.free_bytes < gpu.total_bytes * (1 - _BUSY_SHARE):
            state, advice = "note", f"Another program holds memory of {gpu.name}: `nvidia-smi` names it."
    return Finding("card", _state(state), f"{'; '.join(shown)}.", advice)


def check_driver(facts: Facts) -> Finding | None:
    """The driver against the CUDA that torch is built for, and against the card's generation."""
    if not facts.driver:
        return None
    shown = ".".join(f"{part:02d}" if index > 1 else str(part) for index, part in enumerate(facts.driver))
    least: Version = (525,)
    reason = "CUDA 12"
    if facts.torch is not None and facts.torch.cuda:
        least, reason = _LEAST_DRIVERS.get(facts.torch.cuda[0], least), f"torch for CUDA {_dotted(facts.torch.cuda)}"
    if any(gpu.compute_capability[0] >= _BLACKWELL for gpu in facts.gpus) and least < _BLACKWELL_DRIVER:
        least, reason = _BLACKWELL_DRIVER, "this card's generation"
    if facts.driver < least:
        advice = f"Install driver {least[0]} or newer on the host, or rent a machine that has it."
        return Finding("driver", "problem", f"NVIDIA {shown}, and {reason} needs {least[0]}.", advice)
    return Finding("driver", "ok", f"NVIDIA {shown}; {reason} needs {least[0]}.")


def check_cuda(facts: Facts) -> Finding | None:
    """Whether CUDA starts, and the newest CUDA version that the driver supports."""
    if not facts.driver:
        return None
    if facts.cuda.status is None:
        detail = "the driver's library libcuda.so.1 is not here."
        advice = (
            "Start the container with `--gpus all` and NVIDIA_DRIVER_CAPABILITIES=compute,utility,video."
            if facts.in_container
            else "Install the driver's library (Debian: libcuda1; Ubuntu: libnvidia-compute)."
        )
        return Finding("CUDA", "problem", detail, advice)
    if facts.cuda.status:
        sentence = _CUDA_ERRORS.get(facts.cuda.status, "restart the machine; if that does not help, rent another one.")
        return Finding(
            "CUDA", "problem", f"it does not start (error {facts.cuda.status}).", sentence[0].upper() + sentence[1:]
        )
    return Finding("CUDA", "ok", f"it starts; the driver knows CUDA up to {_dotted(facts.cuda.version)}.")


def check_torch(facts: Facts, registry: Registry = ENGINES) -> Finding:
    """Whether torch is installed and built for this machine's card."""
    card = bool(facts.gpus)
    if facts.torch is None:
        advice = f"{way_to_install('gpu')}." if card else ""
        without = ", ".join(name for name in registry.entries if registry.data_sheet(name).runs_on_cpu)
        detail = f"not installed; engines that run without: {without or 'none'}."
        return Finding("torch", "problem" if card else "note", detail, advice)
    if not facts.torch.cuda:
        if card:
            return Finding(
                "torch",
                "problem",
                f"{facts.torch.version} is built for the CPU and cannot use the card.",
                f"{way_to_install('gpu')}.",
            )
        return Finding("torch", "ok", f"{facts.torch.version}, built for the CPU.")
    return Finding("torch", "ok", f"{facts.torch.version}, built for CUDA {_dotted(facts.torch.cuda)}.")


def check_compiler(facts: Facts) -> Finding | None:
    """Whether there is a C compiler: Triton compiles a small C program for each kernel that it starts."""
    if not facts.gpus or facts.torch is None:
        return None
    if facts.has_compiler:
        return Finding("compiler", "ok", "a C compiler and Python's headers are here, for Triton.")
    advice = "Install them, on Debian: apt-get install gcc libc6-dev python3-dev."
    return Finding("compiler", "problem", "Triton needs a C compiler and Python's headers.", advice)


def check_memory(facts: Facts, registry: Registry = ENGINES) -> Finding:
    """Host memory, up to the container's limit if there is one."""
    if facts.memory is None:
        return Finding("host memory", "note", "this system does not report how much is free.")
    memory = facts.memory
    total, free = memory.total_bytes / GIB, memory.available_bytes / GIB
    limit = ", the container's limit" if memory.is_container_limit else ""
    detail = f"{free:.1f} of {total:.1f} GiB free{limit}; {facts.n_cpus} CPU core{'s' if facts.n_cpus > 1 else ''}."
    if memory.available_bytes < _LEAST_MEMORY_BYTES:
        where = "raise the container's limit" if memory.is_container_limit else "use a machine with more"
        return Finding("host memory", "problem", detail, f"A render needs 2 GiB: close other programs, or {where}.")
    largest_gpu_bytes = max((gpu.total_bytes for gpu in facts.gpus), default=0)
    wanted = [sheet.host_memory for sheet in map(registry.data_sheet, registry.entries) if sheet.host_memory]
    short = [
        one.advice
        for one in wanted
        if memory.available_bytes < one.usual_bytes and largest_gpu_bytes >= one.least_gpu_bytes
    ]
    if short:
        return Finding("host memory", "note", detail, " ".join(short))
    return Finding("host memory", "ok", detail)


def check_disk(folder: Path, name: str, needed_bytes: int) -> Finding:
    """Whether `folder` can be written to, and has `needed_bytes` free."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    detail = f"{free / 1e9:.1f} GB free in {folder}"
    if not os.access(place, os.W_OK):
        return Finding(name, "problem", f"{folder} cannot be written to.", f"Give this user the rights to {place}.")
    if free < needed_bytes:
        advice = "Free some, rent a machine with a larger disk, or set LIPSYNC_WEIGHTS_DIR or LIPSYNC_DATA_DIR."
        return Finding(name, "problem", f"{detail}, and {needed_bytes / 1e9:.1f} GB are needed.", advice)
    return Finding(name, "ok", f"{detail}; {needed_bytes / 1e9:.1f} GB are needed.")


def check_port(host: str, port: int, name: str) -> Finding:
    """Whether the server could listen on this address and port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                advice = f"Stop that program, or choose another with --{name.replace(' ', '-')}."
                return Finding(
                    name, "problem", f"another program, perhaps this server, listens on {host}:{port}.", advice
                )
            advice = "Choose another with --host and --port."
            return Finding(name, "problem", f"{host}:{port} cannot be listened on: {error.strerror}.", advice)
    return Finding(name, "ok", f"{host}:{port} is free.")


def check_weights(settings: Settings, manifest: Manifest) -> Iterator[Finding]:
    """For each engine that downloads weights, the complete profiles, or else the smallest download."""
    for engine in dict.fromkeys(profile.engine for profile in manifest.profiles.values()):
        names = [name for name, profile in manifest.profiles.items() if profile.engine == engine]
        complete = [name for name in names if profile_complete(manifest, name, settings.weights_dir)]
        if complete:
            yield Finding(f"weights of {engine}", "ok", f"{', '.join(complete)}.")
            continue
        wanted = settings.profile if settings.profile in names else profile_of_engine(engine, names)
        missing = missing_bytes(manifest, wanted, settings.weights_dir)
        detail = f"none of its profiles is complete; {wanted} lacks {missing / 1e9:.1f} GB."
        yield Finding(f"weights of {engine}", "note", detail, f"Download them with: lipsync weights pull {wanted}.")


def engines_without_weights(settings: Settings, manifest: Manifest) -> Iterator[str]:
    """The engines without a complete profile. check_weights names their download."""
    for engine in {profile.engine for profile in manifest.profiles.values()}:
        names = [name for name, profile in manifest.profiles.items() if profile.engine == engine]
        if not any(profile_complete(manifest, name, settings.weights_dir) for name in names):
            yield engine


def check_engines(settings: Settings, registry: Registry, without_weights: set[str]) -> tuple[str, list[Finding]]:
    """The engine that renders here ("" if none can), and a finding for each engine.

    without_weights: engines whose missing files are already in the finding of check_weights.
    """
    findings = []
    for info in registry.describe(settings):
        if info.available:
            findings.append(Finding(f"engine {info.name}", "ok", f"runs on {info.device}."))
        else:
            reason = f"{gist(info.reason)}." if info.name in without_weights else info.reason
            findings.append(Finding(f"engine {info.name}", "note", "does not run here.", reason))
    try:
        engine, _ = registry.choose(settings)
    except EngineUnavailable as error:
        advice = "Change that, or choose another engine with --engine (LIPSYNC_ENGINE)."
        return "", [*findings, Finding("rendering", "problem", error.detail, advice)]
    return engine, [*findings, Finding("rendering", "ok", f"{engine} makes the videos.")]


def profile_for(settings: Settings, facts: Facts) -> str:
    """The profile that the settings name, or the profile for the largest card; "" without a card."""
    memory = max((gpu.total_bytes for gpu in facts.gpus), default=0)
    return settings.profile or profile_for_card(memory)


def missing_bytes(manifest: Manifest, profile: str, weights_dir: Path) -> int:
    """Bytes of a profile that are not here yet, from the published sizes."""
    files = manifest.profile_files(profile, weights_dir)
    missing = [file for file in files if not manifest.local_path(file, weights_dir).is_file()]
    return sum(file.size_bytes + file.named_bytes for file in missing)


def bytes_to_download(settings: Settings, manifest: Manifest, facts: Facts) -> int:
    """Disk space for the weights that the settings name or the card suits, and the spare space of a download."""
    profile = profile_for(settings, facts)
    missing = missing_bytes(manifest, profile, settings.weights_dir) if profile else 0
    if not missing:
        return 0
    from lipsync_server.weights.download import SPARE_BYTES  # imports the hub's client

    return missing + SPARE_BYTES


def _ports(settings: Settings) -> list[tuple[int, str]]:
    """The port numbers on which the server will listen, each with its name."""
    health = [] if settings.port_health is None else [(settings.port_health, "port health")]
    return [(settings.port, "port"), *health]


def _install_driver(facts: Facts) -> str:
    """The advice for a machine without a driver."""
    if facts.in_container:
        return "Start the container with `--gpus all` on a host that has NVIDIA's driver and container toolkit."
    return "Install NVIDIA's driver, on Debian: apt-get install nvidia-driver."


def _pass_card(facts: Facts) -> str:
    """The advice for a process that sees no card although the machine has a driver."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        return "Unset CUDA_VISIBLE_DEVICES, which hides the cards."
    if facts.in_container:
        return "Start the container with `--gpus all`."
    return "Run `nvidia-smi`, which prints the reason."


def _dotted(version: Version) -> str:
    """A version as text: "12.8" for (12, 8)."""
    return ".".join(map(str, version)) or "an unknown version"


def _state(state: str) -> State:
    """`state` with the type State, which a type checker cannot infer from a loop."""
    return "note" if state == "note" else "ok"
