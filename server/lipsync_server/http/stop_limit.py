"""End the process when its orderly stop takes too long, as after a disk has stopped answering.

A thread in a call that never returns keeps a Python process alive, and so does a database whose files are on a stuck
disk. A killed server loses nothing: jobs and videos are written so that they survive `kill -9`. Knows the process
only; does not know what hangs.
"""

import logging
import os
import sys
import threading
import time

log = logging.getLogger(__name__)

TIDY_UP_S = 20.0
"""Time for the workers, the open downloads and the database, after the running jobs have had theirs."""


def end_process_after(limit_s: float) -> None:
    """End the process with status 1 in `limit_s` seconds, unless it has ended by itself before.

    A daemon thread waits, because the event loop may be the part that hangs, and because the thread must not keep
    the process alive.
    """
    threading.Thread(target=_end_process, args=(limit_s,), name="stop limit", daemon=True).start()


def _end_process(limit_s: float) -> None:
    time.sleep(limit_s)
    log.error(
        "the server did not stop within %.0f s, because a disk or a program does not answer, so its process is ended "
        "now. Jobs and videos are kept: the next start continues them.",
        limit_s,
    )
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1)
