"""`headrace run`: the whole road of a job, from this folder to its exit code."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace import errors, local, state, submission
from headrace.cli import text
from headrace.cli.app import App, Command, pass_app
from headrace.cli.live import Live
from headrace.cli.options import moment, seconds
from headrace.cli.road import Line
from headrace.client import Client

if TYPE_CHECKING:
    from headrace.capture import Captured, Source

EPILOG = """Ctrl-C asks whether to detach from the job, to cancel it or to go on; a second one detaches. Where nobody
can be asked (no terminal), the first one cancels the job and the exit status is 130, and a second one detaches. A run
that is killed leaves its job running. Exit status: the job's own; 128 + n if signal n ended it; 130 if it was
cancelled; 0 if you detach."""


def pairs(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """`K=V`, again and again, as a mapping."""
    said = {}
    for value in values:
        name, separator, content = value.partition("=")
        if not name or not separator:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE")
        said[name] = content
    return said


def complete_tier(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The tiers' names for the shell."""
    try:
        tiers = context.ensure_object(App).client(timeout_s=1.0).get("/v1/tiers").get("tiers") or ()
    except errors.HeadraceError:
        return []
    return [str(tier["name"]) for tier in tiers if str(tier["name"]).startswith(incomplete)]


@click.command(
    cls=Command,
    epilog=EPILOG,
    short_help="Run a command on the team's machines, and follow it.",
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
)
@click.option("--tier", metavar="NAME", default="", shell_complete=complete_tier, help="What it needs: gpu1, cpu, ….")
@click.option("--nodes", type=click.IntRange(min=1), metavar="N", help="On N machines at once, the tier on each.")
@click.option("--kind", type=click.Choice(["plain", "ray"]), help="ray: in a private Ray cluster.")
@click.option(
    "--on", multiple=True, metavar="K=V[,V]", callback=pairs, help="Only on nodes with this label: gpu=A100, node=!n7."
)
@click.option("--queue", metavar="NAME", default="", help="Default: the team's first.")
@click.option("--name", metavar="NAME", default="", help="Default: from the command.")
@click.option("--time-limit", metavar="TIME", callback=seconds, help="End it after 90s, 45m, 2h, 1h30m.")
@click.option("--priority", type=int, metavar="N", help="Higher goes first within the queue.")
@click.option("--preemptible/--no-preemptible", default=None, help="May be stopped for others, and queued again.")
@click.option("--env", multiple=True, metavar="K=V", callback=pairs, help="An environment variable; again for more.")
@click.option("--label", multiple=True, metavar="K=V", callback=pairs, help="A label to find it by; again for more.")
@click.option("--max-attempts", type=click.IntRange(min=1), metavar="N", help="Tries where a lost node ends them.")
@click.option("--retries", type=click.IntRange(min=0), default=0, metavar="N", help="Tries after the program failed.")
@click.option("--after", multiple=True, metavar="JOB[:ok|notok|any]", help="Wait until JOB ended so; again for more.")
@click.option("--array", metavar="0-999[%50]", default="", help="Run it once for each index; %50: 50 at once.")
@click.option("--begin", metavar="TIME", callback=moment, help="Not before 18:00, 2h from now, 2026-11-30T18:00.")
@click.option("--deadline", metavar="TIME", callback=moment, help="It must have ended by then.")
@click.option("--grace", metavar="TIME", callback=seconds, help="Between SIGTERM and SIGKILL when it must stop.")
@click.option("--hold", is_flag=True, help="Submit it held: headrace release lets it go.")
@click.option("--detach", "-d", is_flag=True, help="Do not follow it: print its id and return.")
@click.option("--python", metavar="VERSION", help="Another Python than the one here, such as 3.12.")
@click.option("--requirements", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The packages.")
@click.option("--no-source", is_flag=True, help="Take no files along.")
@click.option("--no-environment", is_flag=True, help="The machine's own Python, without packages.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@pass_app
def run(app: App, /, command: tuple[str, ...], **options: Any) -> int:
    """Run COMMAND on the team's machines, with this folder and the packages it uses, and follow it to its end.

    With no server configured, the embedded stack is started first (headrace up).
    """
    draft = submission.Draft(
        entrypoint=command,
        name=options["name"],
        queue=options["queue"],
        tier=options["tier"],
        env=options["env"],
        labels=options["label"],
        time_limit_s=options["time_limit"],
        grace_s=options["grace"],
        priority=options["priority"],
        attempts_max=options["max_attempts"],
        hold=options["hold"],
        retries=options["retries"],
        array=options["array"],
        on=submission.constraint(options["on"]),
        nodes=options["nodes"],
        kind=options["kind"] or "",
        begin_at=options["begin"],
        deadline_at=options["deadline"],
        preemptible=options["preemptible"],
    )
    wanted = submission.Wanted(options["python"], options["requirements"])
    live = Live(app.printer.out, app.printer.err)
    try:
        client = reach(app, live)
        draft = dataclasses.replace(draft, after=submission.dependencies(client, options["after"]))
        preparation = Preparation(app, live, client)
        source = None if options["no_source"] else preparation.source(Path())
        captured = None if options["no_environment"] else preparation.environment(command, wanted)
        parts = submission.Parts(
            source=source.digest if source else "",
            folder=source.folder if source else "",
            environment=captured.request if captured else None,
        )
        answer = client.submit(draft.request(parts))
    finally:
        live.close()
    for raw in answer.get("warnings") or ():
        app.printer.warning(f"{raw.get('path', '').removeprefix('$.')}: {raw.get('message', '')}", raw.get("hint", ""))
    job = str(answer["job"])
    if options["detach"]:
        _detached(app, job)
        return 0
    from headrace.cli.attached import attach

    return attach(app, client, job, packages=named(captured))


def reach(app: App, live: Live) -> Client:
    """A client of the server, which is started if there is none; says what it is doing meanwhile."""
    folder = app.folder
    begun = time.monotonic()

    def say(said: str) -> None:
        live.note(str(Line("stack", text.clean(said), "", text.took(time.monotonic() - begun))))

    endpoint, _ = local.ensure(folder, say)
    return Client(endpoint, refresh=lambda: state.endpoint(folder))


class Preparation:
    """What happens on this machine before the submit, told a line each."""

    def __init__(self, app: App, live: Live, client: Client) -> None:
        self._app = app
        self._live = live
        self._client = client
        self._cache = state.prepare(app.folder) / "cache"

    def source(self, folder: Path) -> Source:
        """Captures and uploads the folder."""
        begun = time.monotonic()
        self._live.show(["  source       reading the folder …"])

        def on_sent(sent: submission.Sent, total: int) -> None:
            self._live.show([f"  source       {text.size(sent.size_bytes)} of {text.size(total)} sent …"])

        source, sent = submission.take_along(self._client, folder, cache=self._cache, on_sent=on_sent)
        self._warn(source.warnings)
        what = described(source)
        aside = f"{text.size(sent.size_bytes)} sent" if sent.blobs else "known"
        self._tell("source", what, aside, begun, {"digest": source.digest, "sent_bytes": sent.size_bytes})
        return source

    def environment(self, command: tuple[str, ...], wanted: submission.Wanted) -> Captured:
        """Finds the packages that the command uses."""
        begun = time.monotonic()
        self._live.show(["  packages     looking at what the command imports …"])
        captured = submission.capture_environment(command, Path(), wanted, cache=self._cache)
        self._warn(captured.warnings)
        self._live.show([])
        if self._app.json:
            roots = list(captured.packages)
            self._tell("packages", "", "", begun, {"how": captured.how, "roots": roots})
        return captured  # a person hears of it when the server says whether it has them

    def _tell(self, word: str, body: str, aside: str, begun: float, said: dict[str, Any]) -> None:
        self._live.show([])
        took_s = time.monotonic() - begun
        if self._app.json:
            self._app.printer.object({"event": word, "took_s": round(took_s, 6), **said})
        else:
            self._live.note(str(Line(word, body, aside, text.took(took_s))))

    def _warn(self, warnings: Any) -> None:
        self._live.show([])
        for warning in warnings:
            self._app.printer.warning(warning.message, warning.hint)


def described(source: Source) -> str:
    """`9c1e4d2 + 14 lines, 3 files new`, or without git `12 files, 41 KiB`."""
    about = source.summary
    if not about.commit:
        return f"{text.count(about.files)} files, {text.size(about.size_bytes)}"
    changed = f" + {text.count(about.changed_lines)} lines" if about.changed_lines else ""
    new = f", {text.count(about.new_files)} files new" if about.new_files else ""
    return f"{about.commit[:7]}{changed}{new}"


def named(captured: Captured | None) -> str:
    """`torch 2.13 and 85 more`."""
    if captured is None or not captured.packages:
        return "no packages"
    first = text.clean(captured.packages[0]).replace("==", " ")
    return f"{first} and {len(captured.packages) - 1} more" if len(captured.packages) > 1 else first


def _detached(app: App, job: str) -> None:
    if app.json:
        app.printer.object({"event": "submitted", "job": job})
        return
    app.printer.data(job)
    app.printer.note(str(Line("detached", f"headrace logs -f {text.short(job)}")))
