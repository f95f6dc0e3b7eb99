"""Remove information lines of native libraries from the error stream.

A C++ library writes to file descriptor 2 directly, not through Python's logging. TensorFlow Lite has no switch for its
line about the delegate that it created. Knows no library by name.
"""

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_one_at_a_time = threading.Lock()


@contextmanager
def without_information_lines() -> Iterator[None]:
    """Delay the error stream, and write it at the end without the lines that begin with `INFO:`.

    Lines of other threads are delayed too. Only `INFO:` lines are lost.
    """
    with _one_at_a_time, tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        before = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            held.seek(0)
            for line in held:
                if not line.startswith(b"INFO:"):
                    os.write(2, line)
