"""The fields of each provider's own form: the order of `lipsync cloud up` for a person who rents on the web page.

The field names come from the providers' documentation of August 2026. A page may have changed since then.
"""

import shlex

from lipsync_server.cloud.machine import PORT, RUN_START_SCRIPT, START_SCRIPT, Order
from lipsync_server.cloud.providers.runpod import CONTAINER_DISK_GB, VOLUME, pod_environment
from lipsync_server.cloud.providers.tensordock import LEAST_STORAGE_GB, N_VCPUS, RAM_GB, cloud_init
from lipsync_server.cloud.providers.vast import onstart
from lipsync_server.errors import InvalidInput

Fields = dict[str, str]


def template(provider: str, order: Order) -> Fields:
    """Return the fields in the order of the form. A value may have several lines. Raises InvalidInput."""
    makers = {"vast": _vast, "runpod": _runpod, "tensordock": _tensordock}
    if provider not in makers:
        raise InvalidInput(f"There is no provider {provider!r}; there are: {', '.join(makers)}.", field="provider")
    return makers[provider](order)


def _vast(order: Order) -> Fields:
    """The fields of Vast.ai's template."""
    variables = " ".join(f"-e {shlex.quote(f'{name}={value}')}" for name, value in order.environment.items())
    return {
        "Image path": order.image,
        "Docker options": f"-p {PORT}:{PORT} {variables}",
        "Launch mode": "SSH" if order.script else "Docker entrypoint",
        "On-start script": onstart(order.script) if order.script else "(empty)",
        "Disk space": f"{order.disk_gb} GB",
        "Filter of the offers": f"max CUDA version {order.min_cuda} or more, 1 GPU, at least one direct port",
    }


def _runpod(order: Order) -> Fields:
    """The fields of RunPod's form for a pod."""
    command = shlex.join(["bash", "-c", RUN_START_SCRIPT]) if order.script else "(empty)"
    environment = pod_environment(order)
    return {
        "Container image": order.image,
        "Container start command": command,
        "Container disk": f"{CONTAINER_DISK_GB} GB",
        "Volume disk": f"{order.disk_gb} GB",
        "Volume mount path": VOLUME,
        "Expose HTTP ports": str(PORT),
        "CUDA version filter": f"{order.min_cuda} or newer",
        "Environment variables": "\n".join(
            f"{name}={value}" for name, value in environment.items() if name != START_SCRIPT
        ),
        **({f"Environment variable {START_SCRIPT}": order.script} if order.script else {}),
    }


def _tensordock(order: Order) -> Fields:
    """The fields of TensorDock's form for a virtual machine."""
    return {
        "Operating system": "Ubuntu 24.04",
        "Resources": f"1 GPU, {N_VCPUS} vCPU, {RAM_GB} GB of memory",
        "Storage": f"{max(order.disk_gb, LEAST_STORAGE_GB)} GB",
        "Port": f"{PORT}, with a dedicated IP address",
        "Cloud-init": cloud_init(order),
    }
