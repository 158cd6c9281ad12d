"""An embedded stack of a load test's own, and the few things that a load test does with it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

UP_S_MAX: Final = 120.0
LOOK_S: Final = 0.02
TOLD_CHARACTERS_MAX: Final = 3000
ENDS: Final = frozenset({"succeeded", "failed", "cancelled", "rejected"})


class Stack:
    """A running stack: its gateway, its processes, its folder."""

    def __init__(self, state: Path, process: subprocess.Popen[bytes] | None = None) -> None:
        """`process` keeps it up, if there is such a one."""
        self.state = state
        self.process = process
        self.about: dict[str, Any] = json.loads((state / "stack.json").read_text())

    def call(self, method: str, path: str, body: object = None, *, timeout_s: float = 10.0) -> Any:
        """One call of the gateway's REST; raises urllib.error.URLError."""
        request = urllib.request.Request(
            self.about["url"] + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {self.about['token']}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return json.load(answer)

    def patient(self, method: str, path: str, body: object = None, *, limit_s: float = 60.0) -> Any:
        """The same, again and again while the gateway is away: a submit with an id may be repeated."""
        end = time.monotonic() + limit_s
        while True:
            try:
                return self.call(method, path, body)
            except urllib.error.HTTPError as error:
                if error.code < 500 or time.monotonic() > end:
                    raise
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if time.monotonic() > end:
                    raise
            time.sleep(0.2)

    def job(self, job: str) -> dict[str, Any]:
        view: dict[str, Any] = self.patient("GET", f"/v1/jobs/{job}")
        return view

    def wait(self, job: str, *, limit_s: float = 120.0) -> dict[str, Any]:
        """The job's view once it has ended."""
        view: dict[str, Any] = {}

        def ended() -> bool:
            view.update(self.job(job))
            return view["state"] in ENDS

        until(ended, limit_s=limit_s, what=f"the end of {job}")
        return view

    def is_well(self, *, limit_s: float = 60.0) -> bool:
        """The whole road answers: the gateway, through it every service that is a child, and a node that is ready."""
        services = self.patient("GET", "/v1/status", limit_s=limit_s)["services"]
        nodes = self.patient("GET", "/v1/nodes", limit_s=limit_s).get("nodes") or []
        answering = {name for name, each in services.items() if each.get("answers")}
        return self.children().keys() & services.keys() <= answering and any(each["state"] == "ready" for each in nodes)

    def children(self) -> dict[str, int]:
        """Pid of each child of the stack, by name."""
        return {each["name"]: each["pid"] for each in json.loads((self.state / "run" / "children.json").read_text())}


@contextmanager
def running(*options: str, state: Path | None = None, config: str = "") -> Iterator[Stack]:
    """A stack while inside; in a temporary folder unless `state` names one that should be kept. `config`: its TOML."""
    with tempfile.TemporaryDirectory(prefix="headrace-") as temporary:
        folder = state or Path(temporary)
        if config:
            (folder / "headrace.toml").write_text(config)
        stack = start(folder, options)
        try:
            yield stack
        finally:
            if stack.process is not None:
                stop(stack.process)


def start(folder: Path, options: Sequence[str] = ()) -> Stack:
    """Start a stack in a folder and wait until it is up. Raises RuntimeError with its own words if it does not come."""
    words = folder / "embedded.log"
    with words.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "controlplane.embedded", "--state", str(folder), *options],
            stdin=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
    file = folder / "stack.json"
    try:
        until(lambda: file.exists() or process.poll() is not None, limit_s=UP_S_MAX, what="the stack")
        if process.poll() is not None:
            raise RuntimeError(words.read_text())
    except BaseException:
        stop(process)
        raise
    return Stack(folder, process)


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.wait(timeout=120)


def until(reached: Callable[[], bool], *, limit_s: float, what: str) -> None:
    """Wait for something that nothing announces. Raises TimeoutError that says what."""
    end = time.monotonic() + limit_s
    while not reached():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come in {limit_s:.0f} s")
        time.sleep(LOOK_S)


@contextmanager
def telling(*folders: Path) -> Iterator[None]:
    """What fails inside says what each log in these folders ended with, for they will be gone."""
    try:
        yield
    except Exception as error:
        for log in sorted(log for folder in folders for log in folder.glob("*.log")):
            error.add_note(f"--- {log.name}\n{log.read_text(errors='replace')[-TOLD_CHARACTERS_MAX:]}")
        raise


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def ready(health_port: int) -> bool:
    """Whether a process says on its door of health that it is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{health_port}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies (nearest rank)."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, round(share * len(ranked)) - 1))]


def report(name: str, figures: dict[str, Any], peers: dict[str, Any]) -> None:
    """The last line of every load test."""
    print(json.dumps({"name": name, "figures": figures, "peers": peers}, ensure_ascii=False))
