"""Reports progress once a minute during work that has a time limit of its own, such as recognising the words.

The server ends a render whose engine makes no progress for half an hour (workers/worker.py). Work in decoder processes
may take longer for a long recording, and those processes are ended by their own limits. Knows no work and no engine.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def reported_at_work(report: Callable[[str], None], *, interval_s: float = 60.0) -> Iterator[None]:
    """While the block runs, call `report` with a note that changes, in a thread, every `interval_s` seconds."""
    ended = threading.Event()
    began = time.monotonic()

    def tick() -> None:
        while not ended.wait(interval_s):
            report(f"for {time.monotonic() - began:.0f} s so far")

    thread = threading.Thread(target=tick, name="progress at intervals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
