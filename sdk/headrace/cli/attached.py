"""Attached to a job: its road, its output and its metrics in this terminal, until it ends or the person leaves."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from headrace import errors
from headrace.cli import following, road, text
from headrace.cli.app import App, interactive
from headrace.cli.printer import Printer
from headrace.cli.shows import ForPeople, ForPrograms, Show
from headrace.client import Client
from headrace.output import Output
from headrace.views import ENDS, JobView, SeriesView

TICK_S = 0.5
"""How often the footer's clock moves."""
LAST_OUTPUT_S = 15.0
"""How long after its end a job's last output may come: the node ships about each second, and catches up."""
LAST_METRICS_S = 2.0
"""How long after its last output a job's last metrics may come, if it has any; for none nobody waits."""
EARLY_MAX = 20
"""Chunks of output that may be kept until it is known that the job runs."""
INTERRUPTED = 130


def attach(app: App, client: Client, job: str, *, packages: str = "") -> int:
    """Follows a job to its end; gives the exit status."""
    printer = app.printer
    show: Show = ForPrograms(printer) if app.json else ForPeople(printer, packages)
    follow = following.Following(client, job)
    attached = Attached(client, job, show, follow, printer)
    with _on_interrupt(follow.interrupt):
        follow.start()
        try:
            return attached.run()
        finally:
            show.close()


class Attached:
    """The loop: takes messages, shows them, knows when it is over."""

    def __init__(self, client: Client, job: str, show: Show, follow: following.Following, printer: Printer) -> None:
        self._client = client
        self._job = job
        self._show = show
        self._follow = follow
        self._printer = printer
        self._view: JobView = {}
        self._over: set[str] = set()
        self._broken: set[str] = set()
        self._ended_at: float | None = None
        self._interrupts = 0
        self._early: list[Output] = []
        self._looked = False
        self._metrics_are_in = False

    def run(self) -> int:
        """Until the job's end, or until the person leaves; gives the exit status."""
        while not self._is_over():
            message = self._follow.next(TICK_S)
            if isinstance(message, following.Interrupted):
                status = self._on_interrupt()
                if status is not None:
                    return status
            elif message is not None:
                self._on_message(message)
            self._show.on_tick()
            self._look_at_metrics()
        for printed in self._early:
            self._show.on_output(printed)
        if "output" not in self._over and self._view.get("started_at"):
            self._printer.warning("the last of the output may be missing", f"headrace logs {text.short(self._job)}")
        self._show.on_end(self._view)
        return road.exit_status(self._view)

    def _on_message(self, message: following.Message) -> None:
        match message:
            case following.Viewed(view):
                self._view = view
                self._show.on_view(view)
                self._let_out()
                if view.get("state") in ENDS and self._ended_at is None:
                    self._ended_at = time.monotonic()
            case following.Hindered(why):
                self._show.on_why(why)
            case following.Printed(printed):
                self._early.append(printed)
                self._let_out()
            case following.Measured(series, complete):
                self._on_metrics(series, complete)
            case following.Retried(stream, error):
                self._on_retry(stream, error)
            case following.Over(stream, error):
                self._over.add(stream)
                self._metrics_are_in = self._metrics_are_in or stream == "metrics"
                if stream == "events" and error is not None:
                    raise error
                if stream == "output" and error is not None and self._ended_at is None:
                    self._printer.warning(f"the output cannot be followed: {error.message}", error.hint)

    def _let_out(self) -> None:
        """Shows the output, but not before the road has come to where it was printed: streams overtake each other."""
        running = self._view.get("state") not in {None, "queued", "placed"}
        if running or len(self._early) > EARLY_MAX or "events" in self._broken:
            for printed in self._early:
                self._show.on_output(printed)
            self._early.clear()

    def _on_retry(self, stream: str, error: errors.HeadraceError | None) -> None:
        """Three streams break and come back together: said once."""
        before = bool(self._broken)
        (self._broken.add if error else self._broken.discard)(stream)
        if bool(self._broken) != before:
            self._show.on_connection(error)

    def _is_over(self) -> bool:
        if self._ended_at is None:
            return False
        waited_s = time.monotonic() - self._ended_at
        if not self._view.get("started_at"):
            return "output" in self._over or waited_s > 1.0
        if "output" not in self._over:
            return waited_s > LAST_OUTPUT_S
        return self._metrics_are_in or waited_s > LAST_METRICS_S

    def _look_at_metrics(self) -> None:
        """Once, when the job has ended and said its last: then its metrics are mostly stored as well."""
        if self._ended_at is None or "output" not in self._over or self._looked:
            return
        self._looked = True
        try:
            series, complete = following.series(self._client, self._job, [])
        except errors.HeadraceError:  # the last line goes without them
            self._metrics_are_in = True
            return
        self._on_metrics(series, complete)
        self._metrics_are_in = self._metrics_are_in or not series

    def _on_metrics(self, series: list[SeriesView], complete: bool) -> None:
        if series:
            self._show.on_metrics(series)
        self._metrics_are_in = complete

    def _on_interrupt(self) -> int | None:
        """What Ctrl-C does; an exit status if the command is over with it."""
        self._interrupts += 1
        if not interactive():
            if self._interrupts > 1:
                return self._detach()
            return self._cancel()
        self._show.close()
        choice = ask(self._printer)
        if choice is None or choice == "d":
            return self._detach()
        return self._cancel() if choice == "c" else None

    def _cancel(self) -> int | None:
        """Asks for the job's end and goes on following: it may have something to say before it goes."""
        try:
            self._client.control(self._job, "cancel", {"why": "Ctrl-C at headrace run"})
        except errors.HeadraceError as error:
            self._printer.error(error)
        return None

    def _detach(self) -> int:
        self._printer.note(f"detached   headrace logs -f {text.short(self._job)}")
        return INTERRUPTED if self._interrupts > 1 and not interactive() else 0


def ask(printer: Printer) -> str | None:
    """What the person wants now: `d`, `c` or nothing; None if he presses Ctrl-C again, or his terminal is gone.

    A thread reads, and the loop looks up now and then: a signal that comes right before a call that blocks would
    otherwise wait for the next key. `os.read`, because a thread in `sys.stdin` may not be left behind at exit.
    """
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        line = os.read(sys.stdin.fileno(), 1024)
        answers.put(line.decode("utf-8", "replace").strip().lower()[:1] if line else None)

    with _on_interrupt(lambda: answers.put(None)):
        threading.Thread(target=read, name="answer", daemon=True).start()
        printer.err.write("Detach (d), cancel (c) or go on (enter)? ")
        while True:
            try:
                choice = answers.get(timeout=TICK_S)
            except queue.Empty:
                continue
            if choice is None:
                printer.note()
            return choice


@contextmanager
def _on_interrupt(act: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C does this, and nothing else: it never tears a line that is being written."""
    before = signal.signal(signal.SIGINT, lambda number, frame: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
