"""A worker's log on its way to the server's: records become messages there and records again here.

The server's own handlers write them, in its own format. Knows logging and messages.LogLine.
"""

import logging
import traceback
from collections.abc import Callable

from lipsync_server.workers.messages import LogLine


class LineHandler(logging.Handler):
    """On the worker's side: hands every record to `send`, which may fail with OSError."""

    def __init__(self, send: Callable[[LogLine], object]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else None
        try:
            self._send(LogLine(record.name, record.levelno, record.getMessage(), record.created, trace))
        except OSError:
            self.handleError(record)


def write(line: LogLine, note: str = "") -> None:
    """On the server's side: write `line`, with `note` behind its message."""
    logger = logging.getLogger(line.logger)
    if logger.isEnabledFor(line.level):
        record = logger.makeRecord(line.logger, line.level, "worker", 0, line.message + note, (), None)
        record.created, record.exc_text = line.created, line.trace
        logger.handle(record)
