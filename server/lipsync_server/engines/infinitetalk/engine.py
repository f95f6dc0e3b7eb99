"""Makes the InfiniteTalk engine for one GPU (one_gpu.py) or for several (several_gpus.py).

The registry calls `create`. Knows the number of GPUs. Does not know how either engine works.
"""

from lipsync_server.engines import hardware
from lipsync_server.engines.base import Engine
from lipsync_server.engines.infinitetalk.one_gpu import InfiniteTalkEngine
from lipsync_server.engines.infinitetalk.several_gpus import ParallelEngine
from lipsync_server.settings import EngineSettings


def create(settings: EngineSettings) -> Engine:
    """The engine for `settings.gpus_per_worker` GPUs, or for as many as this machine has."""
    n_gpus = min(settings.gpus_per_worker, len(hardware.gpus())) if settings.device in ("auto", "cuda") else 1
    return ParallelEngine(settings, n_gpus) if n_gpus > 1 else InfiniteTalkEngine(settings)
