"""How what happens to a job is shown: to a person, with a footer below the output, or to a program, as JSON."""

from __future__ import annotations

import time
from typing import Any, Protocol

from headrace import errors
from headrace.cli import road, text
from headrace.cli.live import Live
from headrace.cli.printer import Printer, columns
from headrace.output import Output
from headrace.views import JobView, SeriesView, WhyView


class Show(Protocol):
    """How what happens is shown: to a person or to a program."""

    def on_view(self, view: JobView) -> None: ...
    def on_why(self, why: WhyView) -> None: ...
    def on_output(self, printed: Output) -> None: ...
    def on_metrics(self, series: list[SeriesView]) -> None: ...
    def on_tick(self) -> None: ...
    def on_connection(self, error: errors.HeadraceError | None) -> None: ...
    def on_end(self, view: JobView) -> None: ...
    def close(self) -> None: ...


class ForPeople:
    """Lines of the road, the output as it is, and a footer with the metrics."""

    def __init__(self, printer: Printer, packages: str) -> None:
        self._printer = printer
        self._live = Live(printer.out, printer.err)
        self._road = road.Road(packages)
        self._series: list[SeriesView] = []
        self._view: JobView = {}
        self._connection = ""
        self._parted = False

    def on_view(self, view: JobView) -> None:
        self._view = view
        self._say(self._road.on_view(view))

    def on_why(self, why: WhyView) -> None:
        self._say(self._road.on_why(why))

    def on_output(self, printed: Output) -> None:
        if not self._parted:
            self._parted = True
            self._live.note("")
        self._live.output(printed.stream, printed.data)

    def on_metrics(self, series: list[SeriesView]) -> None:
        self._series = series or self._series

    def on_tick(self) -> None:
        self._live.show(self._footer())

    def on_connection(self, error: errors.HeadraceError | None) -> None:
        self._connection = "connection lost, trying again" if error else ""
        self._live.note(self._painted(road.Line("connection", "lost, trying again …" if error else "back")))

    def on_end(self, view: JobView) -> None:
        metrics = road.metrics_lines(self._series, columns() - 1)
        self._live.show([])
        if self._parted:
            self._live.note("")
        for line in metrics:
            self._live.note(line)
        self._live.note(self._painted(road.summary(view)))

    def close(self) -> None:
        self._live.close()

    def _footer(self) -> list[str]:
        if not self._printer.err.tty or not self._view:
            return []
        tail = self._connection or self._waiting() or self._clock()
        if not self._series:
            return [self._printer.err.paint(f"  {tail}", "dim")]
        return road.metrics_lines(self._series, columns() - 1, tail=tail)

    def _waiting(self) -> str:
        since = self._view.get("placed_at") if self._view.get("state") == "placed" else self._view.get("queued_at")
        waits = self._road.waiting
        return f"{waits}   {text.duration(time.time() - since)}" if waits and since else waits

    def _clock(self) -> str:
        started = self._view.get("started_at")
        if not started:
            return self._view.get("state", "")
        ran = time.time() - started
        limit = self._view.get("time_limit_s")
        return f"{text.duration(ran)} of {text.duration(limit)}" if limit else text.duration(ran)

    def _say(self, lines: list[road.Line]) -> None:
        for line in lines:
            self._live.note(self._painted(line))

    def _painted(self, line: road.Line) -> str:
        style = {"succeeded": "green", "failed": "red", "cancelled": "yellow"}.get(line.word, "bold")
        whole = str(line)
        word = f"  {line.word}"
        return f"  {self._printer.err.paint(line.word, style)}{whole[len(word) :]}" if line.word else whole


class ForPrograms:
    """One JSON object a line: `event` says what it is about."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer

    def on_view(self, view: JobView) -> None:
        self._tell("state", view)

    def on_why(self, why: WhyView) -> None:
        self._tell("why", why)

    def on_output(self, printed: Output) -> None:
        content = printed.data.decode("utf-8", "backslashreplace")
        self._tell("output", {"attempt": printed.attempt, "stream": printed.stream, "text": content})

    def on_metrics(self, series: list[SeriesView]) -> None:
        latest = {
            each["name"]: {"step": each["steps"][-1], "value": each["values"][-1]}
            for each in road.newest(series)
            if each.get("steps") and each.get("values")
        }
        self._tell("metrics", {"latest": latest})

    def on_tick(self) -> None:
        pass

    def on_connection(self, error: errors.HeadraceError | None) -> None:
        self._tell("connection", {"state": "lost" if error else "back"})

    def on_end(self, view: JobView) -> None:
        self._tell("end", {"job": view.get("job"), "state": view.get("state"), "exit_status": road.exit_status(view)})

    def close(self) -> None:
        pass

    def _tell(self, event: str, said: Any) -> None:
        self._printer.object({"event": event, **said})
