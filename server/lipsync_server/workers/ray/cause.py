"""Explains Ray's errors to users: why an actor ended, and why an actor does not start.

Ray wraps an exception of an actor in several layers of text with terminal colours, process numbers and object
addresses; the useful line is often the last one. Knows the form of Ray's errors and queries Ray's free resources.
"""

import re
from collections.abc import Callable

import ray
from ray.exceptions import RayTaskError

from lipsync_server.workers.ray.cluster import Machine

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_EXCEPTION = re.compile(r"^(\w+\.)*\w*(Error|Exception|Exit|Interrupt|Warning|Expired)\b(:.*)?$")
_NOISE = re.compile(r"\(?(pid|ip|actor_id|repr)=[^,)]*[,)]?\s*")


def cause_of_death(error: BaseException) -> str:
    """The cause in one line: the exception of the actor's code if there was one, else Ray's own message."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        return _one_line(f"{type(error.cause).__name__}: {error.cause}")
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    raised = [line for line in lines if _EXCEPTION.match(line)]
    if raised:
        return raised[-1]
    return _NOISE.sub("", lines[0]).strip() if lines else type(error).__name__


def why_waiting(machine: Machine) -> str:
    """Why Ray starts no actor on `machine`; "" when Ray has no reason. Calls Ray, so this may block."""
    available: Callable[[], dict[str, dict[str, float]]] = ray._private.state.available_resources_per_node
    free = available().get(machine.node_id)
    if free is None:
        return f"Ray does not reach the machine; it must reach {machine.address} on all ports, and be reached by it"
    if free.get("CPU", 0) < machine.n_cpus or free.get("GPU", 0) < machine.n_gpus:
        return "all cores or GPUs of the machine are taken, most likely by the workers of another Lipsync server"
    return f"the machine has room for it; it must be reachable at {machine.address} on all ports"


def _one_line(text: str) -> str:
    return " ".join(_COLOUR.sub("", text).split())
