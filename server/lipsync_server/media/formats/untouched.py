"""Marks the refusal of a file that no decoder has read.

Our own readers of headers are plain Python, which a hostile file cannot take over. A process in which only they have
read the file may be used for the next one (sandbox/process.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from lipsync_server.errors import LipsyncError


@contextmanager
def before_decoding() -> Iterator[None]:
    """Run checks that call no decoder: a refusal that they raise says so."""
    try:
        yield
    except LipsyncError as refusal:
        refusal.before_decoding = True
        raise
