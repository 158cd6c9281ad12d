"""`headrace logs`: a job's output, byte for byte: what it wrote to stdout on stdout, to stderr on stderr."""

from __future__ import annotations

import click

from headrace import errors, output
from headrace.cli.app import App, Command, job_argument, pass_app
from headrace.cli.printer import Printer
from headrace.client import Client

TAIL_BYTES = 65_536
"""Read from the end for --tail, and doubled until it holds enough lines."""
STREAMS = ("stdout", "stderr")


@click.command(cls=Command, short_help="Print a job's output.")
@job_argument
@click.option("-f", "--follow", is_flag=True, help="Go on as it comes, until the job ends.")
@click.option("--stdout", "only", flag_value="stdout", help="Only what it wrote to stdout.")
@click.option("--stderr", "only", flag_value="stderr", help="Only what it wrote to stderr.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines of each stream.")
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="Of this attempt. Default: the newest.")
@click.option("--rank", type=click.IntRange(min=0), default=0, metavar="N", help="Of a gang: of this node of it.")
@pass_app
def logs(app: App, job: str, follow: bool, only: str | None, tail: int | None, attempt: int | None, rank: int) -> None:
    """Print a job's output: what it wrote to stdout on stdout, what it wrote to stderr on stderr."""
    client, printer = app.client(), app.printer
    view = client.job(job)
    wanted = (only,) if only else STREAMS
    number = attempt or int(view.get("attempt") or 0)
    reader = Reader(client, str(view["job"]), printer, rank)
    cursor = output.Cursor()
    if tail is not None or not follow:
        for stream in wanted:
            reader.stored(stream, number, tail, cursor)
    if follow:
        reader.follow(wanted, attempt, cursor, cursor.place(number) if tail is not None and number else "")


class Reader:
    """Reads one job's output, of a gang that of one rank, and writes it where it belongs."""

    def __init__(self, client: Client, job: str, printer: Printer, rank: int = 0) -> None:
        self._client = client
        self._job = job
        self._printer = printer
        self._rank = rank

    def stored(self, stream: str, attempt: int, tail: int | None, cursor: output.Cursor) -> None:
        """What there is of one stream; only its last lines, if so many are asked for."""
        offset = 0 if tail is None else self._tail_offset(stream, attempt, tail)
        cursor.start(attempt, stream, offset)
        stored = output.whole(self._client, self._job, stream=stream, attempt=attempt, offset=offset, rank=self._rank)
        for data in stored:
            cursor.take(attempt, stream, offset, data)
            offset += len(data)
            self._write(output.Output(attempt, stream, data))

    def follow(self, wanted: tuple[str, ...], attempt: int | None, cursor: output.Cursor, place: str) -> None:
        """What comes, from the cursor on."""

        def on_retry(error: errors.HeadraceError | None) -> None:
            self._printer.note("connection lost, trying again …" if error else "connection is back")

        query = {"attempt": attempt}
        printing = output.follow(
            self._client, self._job, query, cursor=cursor, place=place, rank=self._rank, on_retry=on_retry
        )
        for printed in printing:
            if printed.stream in wanted:
                self._write(printed)

    def _tail_offset(self, stream: str, attempt: int, lines: int) -> int:
        """Where the last so many lines of a stream begin."""
        reach = TAIL_BYTES
        while True:
            query = {"stream": stream, "attempt": attempt or None, "offset": -reach, "bytes_max": reach}
            query |= {"rank": self._rank or None}
            part = self._client.log(self._job, query)
            if lines == 0:
                return part.offset + len(part.data)
            ends = [i for i, byte in enumerate(part.data[:-1]) if byte == 0x0A]
            if len(ends) >= lines:
                return part.offset + ends[-lines] + 1
            if part.offset == 0 or not part.data:
                return part.offset
            reach *= 2

    def _write(self, printed: output.Output) -> None:
        if self._printer.json:
            content = printed.data.decode("utf-8", "backslashreplace")
            self._printer.object({"attempt": printed.attempt, "stream": printed.stream, "text": content})
            return
        target = self._printer.out if printed.stream == "stdout" else self._printer.err
        target.bytes(printed.data)
