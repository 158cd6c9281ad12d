"""Server-sent events: a parser without I/O (WHATWG HTML, "Interpreting an event stream")."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

EVENT_BYTES_MAX = 4 * 1024**2
"""Our servers send chunks of output up to 256 KiB; an event that is far longer is no event."""


class StreamBroken(ValueError):
    """What arrives is not a stream of events."""


@dataclass(frozen=True)
class Event:
    """`name` is `message` where the server gave none; `id` is the last id seen so far, to resume from."""

    name: str
    data: str
    id: str = ""


class Parser:
    """Bytes in, events out. Cuts anywhere; an event counts once its empty line has arrived."""

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry_s: float | None = None
        self._buffer = bytearray()
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that these bytes complete."""
        self._buffer += data
        if len(self._buffer) > EVENT_BYTES_MAX and b"\n" not in data:
            raise StreamBroken(f"a line of more than {EVENT_BYTES_MAX} bytes")
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        for line in lines:
            event = self._on_line(line.rstrip(b"\r").decode("utf-8", "replace"))
            if event is not None:
                yield event

    def _on_line(self, line: str) -> Event | None:
        if not line:
            return self._complete()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._size += len(value)
            if self._size > EVENT_BYTES_MAX:
                raise StreamBroken(f"an event of more than {EVENT_BYTES_MAX} bytes")
            self._data.append(value)
        elif field == "event":
            self._name = value
        elif field == "id" and "\0" not in value:
            self.last_id = value
        elif field == "retry" and value.isascii() and value.isdigit():
            self.retry_s = int(value) / 1000
        return None  # everything else, a comment (`:`) too, is to be ignored

    def _complete(self) -> Event | None:
        name, data = self._name or "message", self._data
        self._name, self._data, self._size = "", [], 0
        return Event(name, "\n".join(data), self.last_id) if data else None
