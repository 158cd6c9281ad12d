"""Scenario files: commands for a scheduler's world, and below each the trace that it left.

    submit j1 tier=gpu2
    ----
    accepted j1

A command stands alone on its line; `----` and the recorded lines follow; a blank line ends them. `#` begins a comment.
`pytest --rewrite` writes the recorded lines anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from controlplane.scheduling.core import Core
from events import messages as m
from events import subjects
from tests.support.worlds import TEAM, Entry, World, a_job, an_end, named

RULE: Final = "----"


def replay(text: str) -> str:
    """The same file with what the commands do now as the recorded lines."""
    script = _Script()
    out: list[str] = []
    recorded = False
    for line in text.splitlines():
        if recorded:
            recorded = line != ""
            if not recorded:
                out.append("")
        elif line == RULE:
            out.append(RULE)
            out += script.run(out[-2])
            recorded = True
        else:
            out.append(line)
    return "\n".join(out).rstrip("\n") + "\n"


class _Script:
    def __init__(self) -> None:
        self.world = World()
        self._hidden: list[Entry] = []
        """What was told in another way."""
        self.names: dict[str, str] = {}
        """Of tasks, by their subjects."""
        self.commands: dict[str, Callable[..., list[str] | None]] = {
            name.removeprefix("on_"): getattr(self, name) for name in dir(self) if name.startswith("on_")
        }

    def run(self, line: str) -> list[str]:
        """Do what a command says; gives what came of it: the facts since, or the answer to a question."""
        command, *words = line.split()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        names = [word for word in words if "=" not in word]
        before = len(self.world.ledger)
        said = self.commands[command](*names, **options)
        news = [entry for entry in self.world.ledger[before:] if entry not in self._hidden]
        self.names |= {
            entry.subject: f"{fact.task.array}[{fact.task.index}]"
            for entry in news
            if isinstance(fact := entry.fact, m.Placed | m.CancelRequested) and fact.task is not None
        }
        facts = [told(self.names.get(entry.subject, entry.subject), entry.fact) for entry in news]
        return [*facts, *(said or [])] or ["nothing"]

    # -- the ledger ------------------------------------------------------------------------------------------------

    def on_lead(self) -> None:
        self.world.core.end_term()
        self.world.lead()

    def on_submit(self, *jobs: str, **options: Any) -> None:
        held = options.pop("held", "") == "yes"
        for job in jobs:
            fields: dict[str, Any] = {n: v if n == "array" else _value(v) for n, v in options.items()}
            words = [word.partition(":") for word in fields.pop("after", "").split(",") if word]
            fields["after"] = tuple(m.Dependency(job=job, on=on or "ok") for job, _, on in words)
            for moment in fields.keys() & {"begin_at", "deadline_at"}:
                fields[moment] = self.world.now + fields[moment]
            fields["on"] = _alternatives(str(options.get("on", "")))
            self.world.submit(a_job(job, **fields), held=held)

    def on_flood(self, prefix: str, count: str, **options: str) -> list[str]:
        """So many jobs at once, told in one line."""
        before = len(self.world.ledger)
        self.on_submit(*(f"{prefix}{number}" for number in range(int(count))), **options)
        del self._hidden[:]
        self._hidden += self.world.ledger[before:]
        return [f"accepted {prefix}0 … {prefix}{int(count) - 1}"]

    def on_team(self, **options: str) -> None:
        self.world.team(**{key: msgspec.json.decode(value) for key, value in options.items()})

    def on_remove(self, queue: str) -> None:
        self.world.remove_queue(queue)

    def on_restart(self) -> None:
        """Another scheduler, from a snapshot, leads from here on."""
        content = self.world.core.snapshot()
        self.world.core = Core(self.world.settings)
        self.world.core.restore(content)
        assert self.world.core.snapshot() == content
        self.world.lead()

    def on_queue(self, name: str, **options: str) -> None:
        self.world.queue(name, **{key: msgspec.json.decode(value) for key, value in options.items()})

    def on_environment(self, digest: str, state: str) -> None:
        fact: m.Fact = m.EnvironmentBuilding(builder="e1")
        if state == "ready":
            fact = m.EnvironmentReady(lock="sha256:lock", python="3.11.7", platform="linux", packages=1)
        elif state == "failed":
            fact = m.EnvironmentFailed(reason="no such package")
        self.world.write(subjects.environment(digest), fact)

    def on_cancel(self, job: str) -> None:
        self.world.about(job, m.CancelRequested(by="ada"))

    def on_cancel_task(self, array: str, index: str) -> None:
        """One that is not placed: as submission writes it."""
        task = m.Task(array=array, index=int(index))
        self.world.about(f"{array}[{index}]", m.CancelRequested(by="ada", task=task))

    def on_hold(self, job: str) -> None:
        self.world.about(job, m.Held(by="ada"))

    def on_release(self, job: str) -> None:
        self.world.about(job, m.Released(by="ada"))

    def on_prioritise(self, job: str, priority: str) -> None:
        self.world.about(job, m.Reprioritised(by="ada", priority=int(priority)))

    def on_move(self, job: str, **where: str) -> None:
        self.world.about(job, m.Moved(by="ada", **where))

    def on_cordon(self, node: str) -> None:
        self.world.write(subjects.node(node), m.NodeCordoned(by="ops"))

    def on_uncordon(self, node: str) -> None:
        self.world.write(subjects.node(node), m.NodeUncordoned(by="ops"))

    def on_drain(self, node: str, stop: str = "", why: str = "") -> None:
        self.world.write(subjects.node(node), m.NodeDraining(by="ops", stop=stop == "yes", why=why))

    def on_maintenance(self, *nodes: str, begins: str, lasts: str) -> None:
        """`begins` in so many seconds."""
        for node in nodes:
            begins_at = self.world.now + float(begins)
            span = m.NodeMaintenance(by="ops", begins_at=begins_at, ends_at=begins_at + float(lasts))
            self.world.write(subjects.node(node), span)

    def on_gone(self, node: str) -> None:
        """The machine burns down, and an operator says so."""
        del self.world.attempts[node]
        self.world.write(subjects.node(node), m.NodeGone(by="ops", why="burnt down"))

    # -- nodes and time --------------------------------------------------------------------------------------------

    def on_node(self, *names: str, gpus: str = "8", cpus: str = "64", model: str = "", labels: str = "") -> None:
        pairs = dict(pair.split(":") for pair in labels.split(",") if pair)
        for name in names:
            self.world.node(name, gpus=int(gpus), cpus=float(cpus), gpu_model=model, labels=pairs)

    def on_silence(self, node: str) -> None:
        """The node says nothing any more, and forgets what it had."""
        del self.world.attempts[node]

    def on_reboot(self, node: str) -> None:
        self.world.boots[node] += "'"
        self.world.attempts[node] = {}

    def on_run(self) -> None:
        """Nodes do what they are told, and the scheduler decides, until nothing changes."""
        self.world.settle()

    def on_decide(self) -> None:
        self.world.decide()

    def on_exchange(self, node: str) -> None:
        self.world.obey(node)

    def on_end(self, job: str, cause: str = "exited", node: str = "", **options: str) -> None:
        """On every node that it has, or on one of them only."""
        if not node:
            for each in [name for name, mine in self.world.attempts.items() if (TEAM, named(job)) in mine]:
                self.on_end(job, cause, each, **options)
            return
        fields = {name: int(value) if value.isdigit() else value for name, value in options.items()}
        self.world.end(job, an_end(cause, **fields), node=node)  # type: ignore[arg-type]
        self.world.settle()

    def on_clock(self, seconds: str) -> None:
        """The clock is set forward or back."""
        self.world.now += float(seconds)
        self.world.settle()

    def on_wait(self, seconds: str) -> None:
        """Time goes by, in steps of ten seconds; nodes that are not silent go on exchanging."""
        left = float(seconds)
        while left > 0:
            step = min(10.0, left)
            self.world.now += step
            left -= step
            self.world.settle()

    # -- questions -------------------------------------------------------------------------------------------------

    def on_why(self, *jobs: str) -> list[str]:
        lines = []
        for job in jobs:
            why = self.world.core.why(TEAM, named(job), self.world.now)
            assert why is not None
            place = f" {why.position} of {why.of}" if why.of else ""
            lines.append(f"{job} {why.state}{place}: {why.summary}")
        return lines

    def on_nodes(self) -> list[str]:
        return [
            f"{view.node} {view.state}: free {view.free.cpus:g} CPUs, GPUs {','.join(map(str, view.free.gpus)) or '-'}"
            f"{''.join(f' and {left}/1000 of {gpu}' for gpu, left in view.shared.items())};"
            f" runs {' '.join(ref.job for ref in view.attempts) or '-'}"
            for view in self.world.core.nodes_view().nodes
        ]

    def on_queues(self) -> list[str]:
        return [
            f"{view.queue}: {view.waiting} wait, {view.running} run, {view.gpus:g} GPUs"
            for view in self.world.core.queues_view().queues
        ]


def told(subject: str, fact: m.Fact) -> str:
    """A fact in one line."""
    name = subjects.tokens(subject)[-1] if subject.startswith(subjects.ROOT) else subject
    kind = str(type(fact).__struct_config__.tag)
    attempt = getattr(fact, "attempt", None)
    line = f"{kind} {name}" + (f" #{attempt}" if attempt is not None else "")
    if isinstance(fact, m.Placed):
        where = (f"{one.node}{_part(one)} GPUs {','.join(map(str, one.gpus)) or '-'}" for one in fact.allocations)
        return f"{line} on {'; '.join(where)}: {fact.why}"
    if isinstance(fact, m.Finished):
        return f"{line} {fact.outcome}: {fact.reason}"
    if isinstance(fact, m.Lost | m.Requeued | m.NodeGone | m.StopRequested):
        return f"{line}: {fact.why}"
    return line


def _part(allocation: m.Allocation) -> str:
    return f" {allocation.gpu_milli}/1000 of" if allocation.gpu_milli < 1000 else ""


def _alternatives(text: str) -> tuple[m.Constraint, ...]:
    """`gpu:A100,H100+zone:a/gpu:V100`: alternatives in order."""
    pairs = [[pair.split(":") for pair in each.split("+")] for each in text.split("/") if each]
    return tuple({label: tuple(values.split(",")) for label, values in each} for each in pairs)


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.lstrip("-").isdigit() else text
