"""Moves a worker's log records to the server: a record becomes a message in the worker and a record again here.

The server's handlers then write the record in the server's format. Knows logging and messages.LogLine.
"""

import logging
import traceback
from collections.abc import Callable

from lipsync_server.workers.messages import LogLine


class LineHandler(logging.Handler):
    """The worker's side: calls `send` with every record as a LogLine. `send` may raise OSError."""

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
    """The server's side: log `line`, with `note` after its message."""
    logger = logging.getLogger(line.logger)
    if logger.isEnabledFor(line.level):
        record = logger.makeRecord(line.logger, line.level, "worker", 0, line.message + note, (), None)
        record.created, record.exc_text = line.created, line.trace
        logger.handle(record)
