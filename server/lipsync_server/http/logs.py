"""Formats log lines: JSON for machines, plain text for a terminal, each with the id of its request.

Knows the logging module. Does not know which events are logged.
"""

import json
import logging
import sys
import unicodedata
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """Text for a terminal. Control characters are escaped, so that text from a caller cannot forge a log line."""

    def format(self, record: logging.LogRecord) -> str:
        escaped = logging.makeLogRecord(vars(record))
        escaped.msg, escaped.args = escape_controls(record.getMessage()), None
        return super().format(escaped)


def escape_controls(text: str) -> str:
    """`text` on one line, with control characters escaped."""
    return "".join(
        character if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else _escape(character)
        for character in text
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


class JsonFormatter(logging.Formatter):
    """One JSON object per line; the values passed to the logger as `extra` become fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := REQUEST_ID.get():
            line["request_id"] = request_id
        # Ray adds a field of its own to every record, whose name begins with an underscore.
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        line |= {name: value for name, value in extra.items() if not name.startswith("_")}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return escape_controls(json.dumps(line, default=str, ensure_ascii=False))


def set_up_logging(level: str, form: Literal["auto", "json", "text"]) -> None:
    """Send every log line to stderr in the format of LIPSYNC_LOG_FORMAT."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json" or (form == "auto" and not sys.stderr.isatty()):
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("aiosqlite", "asyncio", "aiohttp.access", "httpx", "httpx2"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
