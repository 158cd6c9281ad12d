"""A gateway made of lists: for tests of how the command line draws, and of what it does when connections break.

It decides nothing. A test says what a job's streams contain (`tell`), when a connection is cut (`cut_after`), and
reads what was asked (`asked`). The real gateway is tested elsewhere, with the real services.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

TOKEN = "a-token"
JOB = "j-7f3a91c2m4xq"
STREAM_S_MAX = 30.0
"""A stream that nobody ends is a test that hangs."""

AT = 1_790_000_000.0
ENVIRONMENT = {"digest": "sha256:aaaa", "state": "ready", "lock": "sha256:e3b0c442aaaa", "packages": 86, "took_s": 0.0}
VIEW: dict[str, Any] = {
    "job": JOB,
    "name": "vit-l-384",
    "team": "vision",
    "user": "ana",
    "queue": "vision",
    "tier": "gpu4",
    "state": "queued",
    "held": False,
    "attempt": 0,
    "submitted_at": AT,
    "queued_at": AT,
    "entrypoint": ["python", "train.py"],
    "priority": 0,
    "attempts_max": 3,
    "allocations": [],
}
PLACED = {
    "state": "placed",
    "attempt": 1,
    "placed_at": AT + 2,
    "allocations": [{"node": "gpu-a03", "cpus": 32, "memory_bytes": 2**37, "gpus": [0, 1, 2, 3]}],
}
RUNNING = PLACED | {"state": "running", "started_at": AT + 2.041}
SUCCEEDED = RUNNING | {"state": "succeeded", "finished_at": AT + 14.341, "exit_code": 0, "reason": "exit code 0"}
WHY = {
    "job": JOB,
    "state": "queued",
    "position": 2,
    "of": 11,
    "summary": "waits for 4 GPUs of one node",
    "hindrances": [
        {"ok": False, "kind": "resources", "message": "4 GPUs of one node are not free", "asked": 4, "free": 2},
        {"ok": True, "kind": "environment", "message": "environment e3b0c442 is ready"},
    ],
}


def a_view(**changes: Any) -> dict[str, Any]:
    """A JobView, with these fields changed."""
    return VIEW | changes


def a_chunk(data: bytes, *, offset: int = 0, stream: str = "stdout", attempt: int = 1) -> dict[str, Any]:
    """The data of a `chunk` event."""
    return {"attempt": attempt, "stream": stream, "offset": offset, "data": base64.b64encode(data).decode()}


class FakeGateway:
    """Serves on a free port of the loopback from `start` to `stop`; may be started again on the same port."""

    def __init__(self) -> None:
        self.views: dict[str, dict[str, Any]] = {}
        self.pages: dict[str, Any] = {"/v1/status": {"version": "0.1.0", "services": {}}, "/readyz": {}}
        self.logs: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self.series: list[dict[str, Any]] = []
        self.blobs: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, Any]] = []
        self.refusals: dict[str, tuple[int, Any]] = {}
        """Path → status and body of the answer to whatever comes there."""
        self.cut_after: dict[str, int] = {}
        """Stream → events after which its next connection breaks off, once."""
        self.on_submit: Callable[[FakeGateway, dict[str, Any]], None] = lambda gateway, body: None
        self.on_control: Callable[[FakeGateway, str], None] = lambda gateway, verb: None
        self._streams: dict[str, list[tuple[str, Any]]] = {"events": [], "log": [], "metrics": []}
        self._told = threading.Condition()
        self._port = 0
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> FakeGateway:
        gateway = self

        class Handler(_Handler):
            fake = gateway

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Closes the port and breaks every stream off."""
        server, self._server = self._server, None
        with self._told:
            self._told.notify_all()
        if server is not None:
            server.shutdown()
            server.server_close()

    def tell(self, stream: str, name: str, data: Any) -> None:
        """Adds an event to a stream (`events`, `log`, `metrics`)."""
        with self._told:
            self._streams[stream].append((name, data))
            self._told.notify_all()

    def state(self, **changes: Any) -> None:
        """The job is like this now: its view, and an event about it."""
        self.views[JOB] = self.views.get(JOB, VIEW) | changes
        self.tell("events", "state", self.views[JOB])

    def prints(self, data: bytes, stream: str = "stdout") -> None:
        """The job prints this."""
        offset = len(self.logs[stream])
        self.logs[stream] += data
        self.tell("log", "chunk", a_chunk(data, offset=offset, stream=stream))

    def ends(self) -> None:
        """Every stream has come to its end."""
        for stream in self._streams:
            self.tell(stream, "end", {})

    def event(self, stream: str, index: int) -> tuple[str, Any] | None:
        """The event at a place of a stream, as soon as there is one; None when the server stops."""
        with self._told:
            self._told.wait_for(lambda: self._server is None or index < len(self._streams[stream]), STREAM_S_MAX)
            running = self._server is not None and index < len(self._streams[stream])
            return self._streams[stream][index] if running else None


class _Handler(BaseHTTPRequestHandler):
    fake: FakeGateway
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def do_PATCH(self) -> None:
        self._answer("PATCH")

    def _answer(self, method: str) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), dict(parse_qsl(parts.query))
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.fake.asked.append((method, self.path, content))
        if path in self.fake.refusals:
            status, body = self.fake.refusals[path]
            self._json(status, body)
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}" and path != "/readyz":
            self._json(401, {"error": {"message": "this token is unknown"}})
        elif path in self.fake.pages:
            self._json(200, self.fake.pages[path])
        elif path.startswith("/v1/blobs"):
            self._blobs(method, path, content)
        elif path == "/v1/jobs":
            self._jobs(method, query, content)
        elif path.startswith("/v1/jobs/"):
            self._job(method, path.removeprefix("/v1/jobs/").split("/"), query)
        else:
            self._json(404, {"error": {"message": f"no such page: {path}"}})

    def _blobs(self, method: str, path: str, content: bytes) -> None:
        if method == "POST":
            wanted = json.loads(content)["digests"]
            self._json(200, {"missing": [digest for digest in wanted if digest not in self.fake.blobs]})
            return
        digest = path.removeprefix("/v1/blobs/")
        if digest != "sha256:" + hashlib.sha256(content).hexdigest():
            self._json(422, {"error": {"message": "the digest is wrong"}})
            return
        self.fake.blobs[digest] = content
        self._json(201, {})

    def _jobs(self, method: str, query: dict[str, str], content: bytes) -> None:
        if method == "POST":
            body = json.loads(content)
            self.fake.views[JOB] = a_view(environment=ENVIRONMENT if body.get("environment") else None)
            self.fake.on_submit(self.fake, body)
            self._json(201, {"verdict": "accepted", "job": JOB, "sequence": 7})
            return
        found = list(self.fake.views.values())
        after = query.get("after")
        begin = next((i + 1 for i, view in enumerate(found) if view["job"] == after), 0)
        page = found[begin : begin + int(query.get("limit", 100))]
        self._json(200, {"jobs": page, "next": page[-1]["job"] if found[begin + len(page) :] else ""})

    def _job(self, method: str, rest: list[str], query: dict[str, str]) -> None:
        view = next((v for v in self.fake.views.values() if v["job"].startswith(rest[0]) or v["name"] == rest[0]), None)
        if view is None:
            self._json(404, {"error": {"message": f"no job {rest[0]}", "hint": "headrace jobs --all"}})
        elif method == "POST":
            self.fake.on_control(self.fake, rest[1])
            self._json(200, {"verdict": "applied", "job": view["job"], "sequence": 9})
        elif rest[1:] == []:
            self._json(200, view)
        elif rest[1:] == ["why"]:
            self._json(200, WHY)
        elif rest[1:] == ["metrics"]:
            names = set(filter(None, query.get("names", "").split(",")))
            self._json(200, {"series": [s for s in self.fake.series if not names or s["name"] in names]})
        elif rest[1:] == ["log"]:
            self._log(query)
        else:
            self._stream("log" if rest[1] == "log" else "metrics" if rest[1] == "metrics" else "events")

    def _log(self, query: dict[str, str]) -> None:
        rank = query.get("rank", "")
        whole = self.fake.logs[query.get("stream", "stdout") + (f"-{rank}" if rank else "")]
        offset, most = int(query.get("offset", 0)), int(query.get("bytes_max", 262_144))
        begin = max(0, len(whole) + offset) if offset < 0 else offset
        headers = {"hr-attempt": "1", "hr-offset": str(begin), "hr-size": str(len(whole)), "hr-complete": "1"}
        self._send(200, whole[begin : begin + most], "application/octet-stream", headers)

    def _stream(self, stream: str) -> None:
        last = self.headers.get("Last-Event-ID", "")
        index = int(last) if last.isdigit() else 0  # a place in the log: all is sent, the client knows what it has
        cut = self.fake.cut_after.pop(stream, None)
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        sent = 0
        while sent != cut and (event := self.fake.event(stream, index)) is not None:
            index, sent = index + 1, sent + 1
            name, data = event
            self.wfile.write(f"id: {index}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode())
            if name == "end":
                return
        if cut is not None:  # in the middle of an event
            self.wfile.write(b"id: 99\nevent: state\ndata: {")

    def _json(self, status: int, body: Any) -> None:
        self._send(status, json.dumps(body).encode(), "application/json", {})

    def _send(self, status: int, body: bytes, media: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
