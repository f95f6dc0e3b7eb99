"""A real `lipsync serve` in a process of its own, for tests that need the whole thing."""

import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_S = 60


@dataclass
class LiveServer:
    """`url` has no trailing slash; `process` may be killed by the test."""

    url: str
    port: int
    process: subprocess.Popen[str]


@contextmanager
def live_server(data_dir: Path, *flags: str, env: dict[str, str] | None = None) -> Iterator[LiveServer]:
    """Start a server on a free port of loopback and stop it at the end."""
    command = [sys.executable, "-m", "lipsync_server.cli", "serve", "--port", "0", "--data-dir", str(data_dir)]
    log = (data_dir.parent / "server.log").open("a")
    process = subprocess.Popen(
        [*command, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(env or {})},
    )
    try:
        port = _port(process)
        # Nobody reads the rest, and a full pipe would stop the server: `cat` keeps it flowing into the log.
        drain = subprocess.Popen(["cat"], stdin=process.stdout, stdout=log)
        yield LiveServer(f"http://127.0.0.1:{port}", port, process)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if "drain" in locals():
            drain.wait(20)
        log.close()


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    seen, end = [], time.monotonic() + START_S
    while time.monotonic() < end:
        ready, _, _ = select.select([process.stdout], [], [], 1)
        if not ready:
            continue
        line = process.stdout.readline()
        if not line:
            break
        seen.append(line)
        text = json.loads(line)["message"] if line.startswith("{") else line
        if found := re.search(r"listening on http://[^ ]*:(\d+)", text):
            return int(found[1])
    raise AssertionError("the server did not start:\n" + "".join(seen))
