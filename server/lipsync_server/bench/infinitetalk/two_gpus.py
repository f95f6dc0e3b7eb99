"""The section that needs two cards: one window on both.

Starts the two processes; parallel.py measures in them.
"""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lipsync_server.bench.infinitetalk.bench import Bench
from lipsync_server.bench.record import Numbers, read

_COMMAND = (sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
_MEASURE = "lipsync_server.bench.infinitetalk.parallel"
# Three times the usual duration. If one process dies, the other would wait for it for ever.
_TIMEOUT_S = 240


def two_gpus(bench: Bench, found: Numbers) -> None:
    """A forward and a `fast` window on one card and on two. On a machine with one card, `found` has the reason."""
    n_cards = torch.cuda.device_count() if bench.cuda else 0
    if n_cards < 2:
        found["missing"] = f"it needs two cards, and of these {n_cards} can be seen"
    else:
        in_two_processes(bench, found)


def in_two_processes(bench: Bench, found: Numbers) -> None:
    """Measure with two processes, on cards if the bench has them. Raises RuntimeError if they fail."""
    with TemporaryDirectory(dir=bench.scratch, prefix="two-gpus-") as folder:
        config, path = Path(folder) / "config.json", Path(folder) / "numbers.json"
        config.write_text(json.dumps(asdict(bench.config)), encoding="utf-8")
        flags = ["--quant", "fp8", "--json", str(path), "--config", str(config)]
        flags += ["--size", *map(str, bench.scale.picture), "--frames", str(bench.scale.window_frames)]
        process = subprocess.Popen([*_COMMAND, _MEASURE, *flags])
        try:
            status = process.wait(_TIMEOUT_S)
        finally:
            # SIGTERM makes torch.distributed.run end its own processes, which are in no process group of ours.
            process.terminate()
            process.wait()
            found.update(read(path))
    if status != 0:
        raise RuntimeError(f"torch.distributed.run ended with status {status}; its output is above")
