"""Structured logs: one JSON object a line on stderr, with whatever ids the caller passed as `extra`.

Every line has `at` (RFC 3339, UTC), `level`, `logger` and `message`; a line about a job has `job`, one about a request
`request`, and `trace` where a trace is known. A traceback is the field `error`.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
TEXT_CHARACTERS_MAX: Final = 8_000
"""Of one field: what a client sends may end up in a line."""


class JsonLines(logging.Formatter):
    """Renders a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:TEXT_CHARACTERS_MAX],
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)[-TEXT_CHARACTERS_MAX:]
        return json.dumps(line, default=str, ensure_ascii=False)


def configure(level: str) -> None:
    """Send everything to stderr as JSON lines; libraries speak from `warning` on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("headrace").setLevel(level.upper())
