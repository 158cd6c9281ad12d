"""HTTP on the standard library: connections kept alive a thread, errors in our words, streams that resume.

Three ways to fail, told apart because they mean different things to the one who asked: refused (an answer),
unreachable (no answer: it may or may not have happened), and a stream that broke off (tried again in here).
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode, urlsplit

from headrace import errors
from headrace.sse import Event, Parser, StreamBroken
from headrace.state import Endpoint

Query = Mapping[str, "str | int | float | None"]
OnRetry = Callable[[errors.HeadraceError | None], None]
"""Told once that a stream broke off, with the reason, and once (None) that it is back."""

ANSWER_BYTES_MAX = 256 * 1024**2
"""Far above any answer; only so that a stranger at the address cannot fill the memory."""
STREAM_SILENCE_S_MAX = 60.0
"""A stream that says nothing for so long (a gateway sends comments more often) is taken for dead."""
RETRY_S_FIRST, RETRY_S_MAX = 0.1, 2.0
PATIENCE_S = 300.0
"""How long a broken stream is tried again: longer than a restart or an upgrade of a gateway takes."""
READ_BYTES = 65_536

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_CLOSED = (http.client.RemoteDisconnected, ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


@dataclass(frozen=True)
class Reply:
    """A good answer: its headers (names in lower case) and its body."""

    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Requests to one server. `refresh` is asked for its address anew after a break: a stack may restart elsewhere."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        refresh: Callable[[], Endpoint | None] | None = None,
        timeout_s: float = 30.0,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.endpoint = endpoint
        self._refresh = refresh
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._kept = threading.local()

    def get(self, path: str, query: Query | None = None) -> dict[str, Any]:
        """The JSON object at a path."""
        return _object(self.request("GET", path, query=query).body, path)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that answers this one."""
        return _object(self.request("POST", path, body=json.dumps(body).encode()).body, path)

    def send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] = _NO_HEADERS
    ) -> dict[str, Any]:
        """The JSON object that answers a request of another method."""
        content = json.dumps(body).encode() if body is not None else None
        return _object(self.request(method, path, body=content, headers=headers).body, path)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: bytes | None = None,
        media: str = "application/json",
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> Reply:
        """The answer to one request. Raises Refused or ServerUnreachable.

        Sent again only where a connection kept from before turns out to be closed: the server had let go of it.
        """
        headers = self._headers() | ({"Content-Type": media} if body is not None else {}) | dict(headers)
        target = path + _query(query)
        kept: http.client.HTTPConnection | None = getattr(self._kept, "connection", None)
        self._kept.connection = None
        try:
            if kept is not None:
                try:
                    return self._exchange(kept, method, target, headers, body)
                except _CLOSED:
                    kept.close()
            fresh = _connect(self.endpoint, self._timeout_s)
            return self._exchange(fresh, method, target, headers, body)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def events(
        self, path: str, query: Query | None = None, *, last_id: str = "", on_retry: OnRetry | None = None
    ) -> Iterator[Event]:
        """The events of a stream up to and with its `end`. Broken off, it is resumed after the last event seen."""
        wait_s, broken_at = RETRY_S_FIRST, None
        while True:
            try:
                for event in self._stream(path + _query(query), last_id):
                    if broken_at is not None and on_retry is not None:
                        on_retry(None)
                    last_id, wait_s, broken_at = event.id, RETRY_S_FIRST, None
                    yield event
                    if event.name == "end":
                        return
                problem: errors.HeadraceError = errors.ServerUnreachable("the stream of events ended early")
            except (errors.ServerUnreachable, errors.ServerFault) as error:
                problem = error
            now = time.monotonic()
            if broken_at is None:
                broken_at = now
                if on_retry is not None:
                    on_retry(problem)
            elif now - broken_at > self._patience_s:
                raise problem
            time.sleep(wait_s * (0.5 + random.random() / 2))  # a thousand clients do not come back at once
            wait_s = min(2 * wait_s, RETRY_S_MAX)
            self.endpoint = (self._refresh() if self._refresh else None) or self.endpoint

    def close(self) -> None:
        """Closes what this thread keeps open."""
        kept = getattr(self._kept, "connection", None)
        if kept is not None:
            kept.close()
        self._kept.connection = None

    def _exchange(
        self, connection: http.client.HTTPConnection, method: str, target: str, headers: Mapping[str, str], body: Any
    ) -> Reply:
        """One request and its answer; the connection is kept if it can serve another."""
        done = False
        try:
            connection.request(method, _prefix(self.endpoint) + target, body=body, headers=headers)
            response = connection.getresponse()
            content = response.read(ANSWER_BYTES_MAX)
            done = response.isclosed() and not response.will_close
        finally:
            if not done:
                connection.close()
        self._kept.connection = connection if done else None
        if response.status >= 400:
            raise errors.refused(response.status, _decoded(content), what=f"{method} {target.partition('?')[0]}")
        return Reply({name.lower(): value for name, value in response.getheaders()}, content)

    def _stream(self, target: str, last_id: str) -> Iterator[Event]:
        """The events of one connection, until it breaks off."""
        headers = self._headers() | {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if last_id:
            headers["Last-Event-ID"] = last_id
        connection = _connect(self.endpoint, STREAM_SILENCE_S_MAX)
        try:
            connection.request("GET", _prefix(self.endpoint) + target, headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                body = _decoded(response.read(READ_BYTES))
                raise errors.refused(response.status, body, what=f"GET {target.partition('?')[0]}")
            parser = Parser(last_id)
            while data := response.read1(READ_BYTES):
                yield from parser.feed(data)
        except (OSError, http.client.HTTPException, StreamBroken) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.endpoint.token}"} if self.endpoint.token else {}

    def _unreachable(self, error: Exception) -> errors.ServerUnreachable:
        where = self.endpoint
        reason = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        told = (
            "is HEADRACE_URL right?"
            if where.origin == "HEADRACE_URL"
            else "headrace status tells, headrace up starts it"
        )
        return errors.ServerUnreachable(f"{where.url} cannot be reached: {reason}", told)


def _connect(endpoint: Endpoint, timeout_s: float) -> http.client.HTTPConnection:
    parts = urlsplit(endpoint.url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=timeout_s)


def _prefix(endpoint: Endpoint) -> str:
    return urlsplit(endpoint.url).path.rstrip("/")


def _query(query: Query | None) -> str:
    said = {name: value for name, value in (query or {}).items() if value is not None and value != ""}
    return "?" + urlencode(said) if said else ""


def _decoded(content: bytes) -> Any:
    """The JSON in an answer that is no good one; None where it is not JSON (a proxy's page)."""
    try:
        return json.loads(content)
    except ValueError:
        return None


def _object(content: bytes, path: str) -> dict[str, Any]:
    decoded = _decoded(content)
    if not isinstance(decoded, dict):
        raise errors.ServerFault(f"{path}: the answer is no JSON object", "is that address a Headrace gateway?")
    return decoded
