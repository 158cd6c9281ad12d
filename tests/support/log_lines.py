"""What services running inside a test write into their logs, as an operator finds it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from events.logs import JsonLines

ABOUT: Final = frozenset({"request", "job", "node", "subject"})
"""One of these says what a line is about."""


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


@contextmanager
def log_lines() -> Iterator[list[dict[str, Any]]]:
    """Every line that is written inside, from `info` on."""
    kept, root, ours = _Kept(), logging.getLogger(), logging.getLogger("headrace")
    level = ours.level
    root.addHandler(kept)
    ours.setLevel(logging.INFO)
    try:
        yield kept.lines
    finally:
        root.removeHandler(kept)
        ours.setLevel(level)
