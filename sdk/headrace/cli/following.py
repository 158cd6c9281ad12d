"""Follows a job on several streams of events at once, into one queue that one loop reads.

A thread a stream, because the standard library's HTTP blocks. They are daemons: when the command is over, so are they.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

from headrace import errors, output
from headrace.client import Client
from headrace.transport import OnRetry
from headrace.views import JobView, SeriesView, WhyView

BUCKETS = 40
"""Points of a series that are asked for: enough for a sparkline."""
NAMES_MAX = 6
"""Series that are watched; more would not fit below the output."""


class Viewed(NamedTuple):
    """The job is like this now."""

    view: JobView


class Hindered(NamedTuple):
    """The job waits because of this."""

    why: WhyView


class Printed(NamedTuple):
    """The job has printed this."""

    output: output.Output


class Measured(NamedTuple):
    """The job's metrics are like this now."""

    series: list[SeriesView]
    complete: bool = False


class Retried(NamedTuple):
    """A stream broke off (with this error), or is back (None)."""

    stream: str
    error: errors.HeadraceError | None


class Over(NamedTuple):
    """A stream has come to its end, or cannot be had any more."""

    stream: str
    error: errors.HeadraceError | None


class Interrupted(NamedTuple):
    """Ctrl-C."""


Message = Viewed | Hindered | Printed | Measured | Retried | Over | Interrupted
PENDING_MAX = 1_000
"""Messages that wait for the terminal: a terminal that is slower than the job slows the stream down, not the memory."""


class Following:
    """All that happens to one job, as messages in one queue."""

    def __init__(self, client: Client, job: str) -> None:
        self._client = client
        self._job = job
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(PENDING_MAX)
        self._interrupts = 0

    def start(self) -> None:
        """Begins to follow."""
        self._run("events", self._road)
        self._run("output", self._output)
        self._run("metrics", self._metrics)

    def interrupt(self) -> None:
        """Ctrl-C: comes before all that waits. Made for a signal handler: a SimpleQueue may be put to from one."""
        self._interrupts += 1
        self._messages.put(None)

    def next(self, wait_s: float) -> Message | None:
        """The next message; None if nothing comes for so long."""
        if not self._interrupts:
            try:
                message = self._messages.get(timeout=wait_s)
            except queue.Empty:
                message = None
            if message is not None:
                self._room.release()
                return message
        if self._interrupts:
            self._interrupts -= 1
            return Interrupted()
        return None

    def _put(self, message: Message) -> None:
        self._room.acquire()
        self._messages.put(message)

    def _run(self, stream: str, messages: Callable[[OnRetry], Iterator[Message]]) -> None:
        def on_retry(error: errors.HeadraceError | None) -> None:
            self._put(Retried(stream, error))

        def work() -> None:
            try:
                for message in messages(on_retry):
                    self._put(message)
            except errors.HeadraceError as error:
                self._put(Over(stream, error))
            else:
                self._put(Over(stream, None))

        threading.Thread(target=work, name=f"follow-{stream}", daemon=True).start()

    def _road(self, on_retry: OnRetry) -> Iterator[Message]:
        for event in self._client.follow(self._job, on_retry=on_retry):
            if event.name == "state":
                yield Viewed(cast(JobView, json.loads(event.data)))
            elif event.name == "why":
                yield Hindered(cast(WhyView, json.loads(event.data)))

    def _output(self, on_retry: OnRetry) -> Iterator[Message]:
        return map(Printed, output.follow(self._client, self._job, on_retry=on_retry))

    def _metrics(self, on_retry: OnRetry) -> Iterator[Message]:
        """After each change the run of the watched series: so a sparkline shows the whole, and not what was seen."""
        for event in self._client.follow_metrics(self._job, on_retry=on_retry):
            if event.name == "latest":
                yield Measured(*series(self._client, self._job, _names(json.loads(event.data))))


def series(client: Client, job: str, names: list[str]) -> tuple[list[SeriesView], bool]:
    """The series of these names (none: all), short, and whether nothing will be added to them."""
    query: dict[str, Any] = {"names": ",".join(names[:NAMES_MAX]), "buckets": BUCKETS}
    answer = client.series(job, query)
    return [cast(SeriesView, each) for each in answer.get("series") or ()], bool(answer.get("complete"))


def _names(latest: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(each.get("name", "")) for each in latest))
