"""Structured logs: one JSON object a line on stderr, and what each line is about.

Every line has `at` (RFC 3339, UTC), `level`, `logger` and `message`, what its caller passed as `extra`, and what the
code at work is `about`: `request` and `trace` of who asked, `subject` and `sequence` of the message, `job`, `node`. A
traceback is the field `error`.

A door says once what it handles (an HTTP request, a question, a message of a stream, a node), and every line that is
written meanwhile carries it, those of libraries and of tasks that were begun there, too.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
TEXT_CHARACTERS_MAX: Final = 8_000
"""Of one field: what a client sends may end up in a line."""
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,64}")
"""What is taken over as the id of a request, from whoever names one."""

_ABOUT: Final[ContextVar[Mapping[str, object]]] = ContextVar("about", default=MappingProxyType({}))


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """Every line that is written inside carries these fields, beside those of around; empty ones are left out."""
    token = _ABOUT.set({**_ABOUT.get(), **{name: value for name, value in fields.items() if value}})
    try:
        yield
    finally:
        _ABOUT.reset(token)


def request_id() -> str:
    """The id of the request at work; empty if there is none."""
    return str(_ABOUT.get().get("request", ""))


def new_request_id() -> str:
    return secrets.token_hex(8)


class JsonLines(logging.Formatter):
    """Renders a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:TEXT_CHARACTERS_MAX],
        }
        line |= _ABOUT.get()
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
