"""What becomes of a request: pure, values in, values out. The shell writes what is decided here, and answers.

A submit becomes `accepted` or `rejected`, in any case a fact about the job that its id stands for. A control becomes a
fact where the lifecycle allows it; otherwise it is refused with the reason, or has nothing to do, or waits for the
submit that it overtook. Nothing is kept between two requests: what a control needs to know stands on its job's subject.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from controlplane.config import Configuration
from controlplane.submission import check, conditions
from controlplane.submission.check import JOB_ID, Caller
from controlplane.submission.queue_rules import NAME_CHARACTERS_MAX
from controlplane.submission.queues import Queues
from controlplane.submission.reading import Findings, choice, quoted, shown
from events import arrays, labels, lifecycle
from events import messages as m
from events.identity import environment_digest, job_id
from events.lifecycle import Life, State

CONTROL_WAIT_S_FIRST: Final = 0.05
CONTROL_WAIT_S_LONGEST: Final = 5.0
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_SCRIPT: Final = re.compile(r"([^/]*)\.(py|sh|jl|r|js|ipynb)", re.IGNORECASE)


class Incoming(NamedTuple):
    """A submit as it came in. `place` stands for a client's id where it gave none; it is the same at each delivery."""

    team: str
    user: str
    body: bytes
    at: float
    event_id: str = ""
    place: str = ""
    traceparent: str = ""
    tries: int = 1
    may_wait: bool = False
    """It comes again: what it speaks of may still be on its way."""

    @property
    def caller(self) -> Caller:
        return Caller(self.team, self.user)


class Accept(NamedTuple):
    """Want `environment` (if there is one, and it is not wanted or ready yet), then write `fact` (expecting none)."""

    job: str
    fact: m.Accepted
    environment: m.EnvironmentRequest | None
    traceparent: str

    @property
    def answer(self) -> m.Answer:
        return m.Answer(verdict="accepted", job=self.job, warnings=self.fact.warnings)


class Reject(NamedTuple):
    """Write `fact` (expecting none); no fact where there is no such team, hence no such job."""

    job: str
    fact: m.Rejected | None
    answer: m.Answer
    traceparent: str
    queue: str = ""
    """By whose settings it was judged. Who has seen newer ones should decide again."""


class Apply(NamedTuple):
    """Write this fact about the job, expecting its newest fact; conflicts: read and decide again."""

    fact: m.JobFact
    traceparent: str


class Wait(NamedTuple):
    """A job that the request speaks of is not there yet: ask again after a while."""

    after_s: float


class Told(NamedTuple):
    """One fact on a job's subject, with its place, its trace and its time."""

    sequence: int
    fact: m.JobFact | m.Archived
    traceparent: str = ""
    at: float = 0.0


# -- submits -----------------------------------------------------------------------------------------------------------


def decide_submit(request: Incoming, config: Configuration, queues: Queues) -> Accept | Reject:
    """Total: any bytes have an answer."""
    found = Findings()
    if request.team not in config.teams:
        found.problem("$", f"no team {quoted(request.team)}", choice(request.team, tuple(config.teams)))
        return Reject("", None, m.Answer(verdict="rejected", problems=found.problems), request.traceparent)
    submit, body_id = check.read_submit(request.body, request.caller, config, queues, found)
    client_id = _id_of(body_id) or request.event_id or request.place
    job = job_id(team=request.team, user=request.user, client_id=_encodable(client_id))
    traceparent = trace(request.traceparent, request.team, job)
    conditions.check(submit, job, request.at, found)
    _check_on(submit, config, found)
    tier = config.tier(submit.tier)
    if tier is not None:
        check.check_gang(submit, tier, found)
    if found.problems:
        return _reject(request, submit.name, job, found, traceparent, submit.queue)
    return Accept(job, _accepted(request, submit, job, found, config), submit.environment, traceparent)


def _reject(request: Incoming, name: str, job: str, found: Findings, traceparent: str, queue: str = "") -> Reject:
    fact = m.Rejected(user=request.user, name=shown(name), problems=found.problems)
    answer = m.Answer(verdict="rejected", job=job, problems=found.problems, warnings=found.warnings)
    return Reject(job, fact, answer, traceparent, queue)


def decide_dependent(
    request: Incoming, accept: Accept, states: Mapping[str, State | None], now: float, config: Configuration
) -> Accept | Reject | Wait:
    """The same for a job that waits for others, now that these were looked up. None: there is no such job."""
    specification, found = accept.fact.specification, Findings()
    if None in states.values() and request.may_wait and now - request.at < config.control_wait_s:
        return Wait(_pause_s(request.tries))
    after = conditions.resolve(specification.after, states, request.team, found)
    if found.problems:
        return _reject(request, specification.name, accept.job, found, accept.traceparent)
    resolved = msgspec.structs.replace(specification, after=after)
    return accept._replace(fact=msgspec.structs.replace(accept.fact, specification=resolved))


def _accepted(request: Incoming, submit: m.Submit, job: str, found: Findings, config: Configuration) -> m.Accepted:
    tier = config.tier(submit.tier)
    assert tier is not None, "checked above"
    indices, at_once = arrays.parse(submit.array) if submit.array else ("", 0)
    specification = m.Specification(
        job=job,
        team=request.team,
        user=request.user,
        name=submit.name or name_of(submit.entrypoint),
        queue=submit.queue,
        tier=submit.tier,
        resources=msgspec.structs.replace(tier.resources, nodes=submit.nodes or tier.resources.nodes),
        entrypoint=submit.entrypoint,
        env=submit.env,
        source=submit.source,
        folder=submit.folder,
        environment=environment_digest(submit.environment) if submit.environment else "",
        time_limit_s=submit.time_limit_s,
        grace_s=submit.grace_s if submit.grace_s is not None else config.grace_s_default,
        priority=submit.priority,
        attempts_max=submit.attempts_max if submit.attempts_max is not None else config.attempts_max_default,
        labels=submit.labels,
        submitted_at=request.at,
        preemptible=bool(submit.preemptible),
        after=submit.after,
        begin_at=submit.begin_at,
        deadline_at=submit.deadline_at,
        retries=submit.retries,
        array=str(indices),
        array_at_once=at_once,
        on=labels.alternatives(tier.on, submit.on) or (),
        kind=submit.kind,
    )
    return m.Accepted(specification=specification, held=submit.hold, warnings=found.warnings)


def _check_on(submit: m.Submit, config: Configuration, found: Findings) -> None:
    """Whether the job's own constraint leaves any of the nodes that its tier may be on."""
    tier = config.tier(submit.tier)
    if tier is not None and labels.alternatives(tier.on, submit.on) is None:
        asked = quoted(labels.text([submit.on]))
        if tier.on and labels.alternatives((), submit.on) is not None:
            hint = f"it is on {labels.text(tier.on)}; choose another tier, or leave `on` out"
            found.problem("$.on", f"tier {quoted(tier.name)} is never on {asked}", hint)
        else:
            found.problem("$.on", f"no node can be {asked}", "leave out the values, or their `!`")


def repeated(job: str, first: m.JobFact, sequence: int) -> m.Answer:
    """The answer to a submit whose job is there already, by the job's first fact."""
    if isinstance(first, m.Rejected):
        warning = m.Problem(
            path="$.id", message="rejected before under this id", hint="send it corrected under another id"
        )
        return m.Answer(verdict="rejected", job=job, sequence=sequence, problems=first.problems, warnings=(warning,))
    return m.Answer(verdict="repeated", job=job, sequence=sequence)


def name_of(entrypoint: Sequence[str]) -> str:
    """What to call a job that got no name: its script, its module, or its program."""
    base = [posixpath.basename(word) for word in entrypoint]
    for word in base:
        if script := _SCRIPT.fullmatch(word):
            return _clean_name(script[1])
    if "-m" in entrypoint[1:-1]:
        return _clean_name(entrypoint[entrypoint.index("-m", 1) + 1])
    return _clean_name(base[0] if base else "")


def _clean_name(name: str) -> str:
    clean = shown(name, NAME_CHARACTERS_MAX).replace("/", "_").strip()
    return clean if clean and not JOB_ID.fullmatch(clean) else "job"


def _id_of(value: object) -> str:
    """Even an id that will be refused tells repeats apart, so that a repeated mistake is one rejected job."""
    return value if isinstance(value, str) else ""


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def trace(traceparent: str, team: str, job: str) -> str:
    """The trace of a job: the client's, or one that follows from the job itself, so that a repeat has the same."""
    if _TRACEPARENT.fullmatch(traceparent):
        return traceparent
    seed = hashlib.sha256(f"{team}\x1f{job}".encode("utf-8", "backslashreplace")).hexdigest()
    return f"00-{seed[:32]}-{seed[32:48]}-01"


# -- controls ----------------------------------------------------------------------------------------------------------


class Ordered(NamedTuple):
    """A control as it came in, and how often before."""

    team: str
    user: str
    job: str
    body: bytes
    at: float
    traceparent: str = ""
    tries: int = 1
    may_wait: bool = True


def read_control(order: Ordered, config: Configuration) -> tuple[m.Control | None, Findings]:
    """What a control says; None if it will be refused whatever its job is."""
    found = Findings()
    if order.team not in config.teams:
        found.problem("$", f"no team {quoted(order.team)}", choice(order.team, tuple(config.teams)))
        return None, found
    if not JOB_ID.fullmatch(order.job):
        found.problem("$", f"{quoted(order.job)} is not the id of a job", "such as `j-abcdefghij23`")
    control = check.read_control(order.body, found)
    return (None if found.problems else control), found


def beside(control: m.Control) -> str:
    """The other job that a control speaks of, if any: its facts are needed to decide."""
    return (control.before or control.after) if isinstance(control, m.Move) else ""


def decide_control(
    order: Ordered,
    control: m.Control,
    history: Sequence[Told],
    other: Sequence[Told],
    now: float,
    config: Configuration,
    queues: Queues,
    found: Findings,
) -> Apply | Wait | m.Answer:
    """By the facts about its job (`history`), and about the one that it is to stand beside (`other`)."""
    life = life_of(history)
    if life is None:
        return _not_there(order, now, config, found)
    sequence = history[-1].sequence
    fact = _fact(control, order.user)
    if _changes_nothing(fact, history, life, order.at):
        return m.Answer(verdict="repeated", job=order.job, sequence=sequence, warnings=found.warnings)
    outcome, _ = lifecycle.advance(life, fact)
    if outcome is lifecycle.Outcome.REPEATED:
        return m.Answer(verdict="repeated", job=order.job, sequence=sequence, warnings=found.warnings)
    if outcome is not lifecycle.Outcome.APPLIED:
        found.problem("$", *_why_not(control, life))
    elif isinstance(control, m.Move) and isinstance(history[0].fact, m.Placed):
        found.problem("$", "a task keeps the place of its array", "move the array: that moves what waits of it")
    elif isinstance(control, m.Move) and beside(control):
        _check_beside(control, order.job, history, other, found)
    elif isinstance(control, m.Reprioritise):
        _check_priority(control, order.team, _queue(history), queues, found)
    if found.problems:
        return refused(order.job, found)
    given = order.traceparent if _TRACEPARENT.fullmatch(order.traceparent) else history[0].traceparent
    return Apply(fact, trace(given, order.team, order.job))


def decide_task(
    order: Ordered, control: m.Cancel, task: m.Task, array: Sequence[Told], history: Sequence[Told]
) -> Apply | None:
    """A cancel of a task that has no fact; None: it has one, and is cancelled like any other job."""
    if history:
        return None
    given = order.traceparent if _TRACEPARENT.fullmatch(order.traceparent) else array[0].traceparent
    fact = m.CancelRequested(by=order.user, why=control.why, task=task)
    return Apply(fact, trace(given, order.team, order.job))


def refused(job: str, found: Findings) -> m.Answer:
    return m.Answer(
        verdict="refused", job=job if JOB_ID.fullmatch(job) else "", problems=found.problems, warnings=found.warnings
    )


def life_of(history: Sequence[Told]) -> Life | None:
    """Where a job stands after these facts."""
    life: Life | None = None
    for told in history:
        if isinstance(told.fact, m.Archived):
            life = Life(State(told.fact.state), told.fact.attempt)
        else:
            _, life = lifecycle.advance(life, told.fact)
    return life


def over(job: str, found: Findings) -> m.Answer:
    """The answer to a control of a job that has been over for so long that only the archive knows it."""
    found.problem("$", "the job is over, and in the archive", "submit it again under another id")
    return refused(job, found)


def _not_there(order: Ordered, now: float, config: Configuration, found: Findings) -> Wait | m.Answer:
    if order.may_wait and now - order.at < config.control_wait_s:
        return Wait(_pause_s(order.tries))
    found.problem("$", f"no job {quoted(order.job)} in team {quoted(order.team)}", "was its submit accepted?")
    return refused(order.job, found)


def _pause_s(tries: int) -> float:
    return min(CONTROL_WAIT_S_FIRST * 2.0 ** min(tries - 1, 20), CONTROL_WAIT_S_LONGEST)


def _fact(control: m.Control, by: str) -> m.JobFact:
    match control:
        case m.Cancel(why=why):
            return m.CancelRequested(by=by, why=why)
        case m.Hold(why=why):
            return m.Held(by=by, why=why)
        case m.Release():
            return m.Released(by=by)
        case m.Reprioritise(priority=priority):
            return m.Reprioritised(by=by, priority=priority)
        case m.Move(before=before, after=after):
            return m.Moved(by=by, before=before, after=after)


def _changes_nothing(fact: m.JobFact, history: Sequence[Told], life: Life, asked_at: float) -> bool:
    """Whether the job already is as this fact would make it. The table cannot see it where the state stays the same.

    A move is only if it was asked for before its fact was written, that is, if the request came twice: whoever asks
    again later means the place where others have moved since.
    """
    is_queued = life.state in (State.QUEUED, State.UNFOLDING)
    if is_queued and isinstance(fact, m.Held | m.Released):
        return life.held is isinstance(fact, m.Held)
    if isinstance(fact, m.CancelRequested):
        return life.state is State.STOPPING and any(isinstance(told.fact, m.CancelRequested) for told in history)
    if is_queued and isinstance(fact, m.Reprioritised):
        return _priority(history) == fact.priority
    return isinstance(fact, m.Moved) and history[-1].fact == fact and asked_at <= history[-1].at


def _priority(history: Sequence[Told]) -> int | None:
    for told in reversed(history):
        if isinstance(told.fact, m.Reprioritised):
            return told.fact.priority
        if isinstance(told.fact, m.Accepted):
            return told.fact.specification.priority
    return None


def _why_not(control: m.Control, life: Life) -> tuple[str, str]:
    """What stands against a control, and what to do instead."""
    state = life.state.value
    if life.state in lifecycle.ENDS:
        return f"the job is over: {state}", "submit it again under another id"
    verb = str(type(control).__struct_config__.tag)
    hint = "cancel it, or let it run" if life.state is not State.STOPPING else "it will end soon"
    return f"only a queued job takes a {verb}; this one is {state}", hint


def _check_beside(control: m.Move, job: str, history: Sequence[Told], other: Sequence[Told], found: Findings) -> None:
    path = "$.before" if control.before else "$.after"
    name = beside(control)
    life = life_of(other)
    if name == job:
        found.problem(path, "is the job itself", "name another job")
    elif life is None:
        found.problem(path, f"no job {quoted(name)} in this team")
    elif life.state not in (State.QUEUED, State.UNFOLDING):
        found.problem(path, f"{quoted(name)} is not queued; it is {life.state.value}")
    elif _queue(history) != _queue(other):
        found.problem(path, f"{quoted(name)} is in queue {quoted(_queue(other))}", "a job moves within its own queue")
    elif _priority(history) != _priority(other):
        message = f"{quoted(name)} has priority {_priority(other)}, this one {_priority(history)}"
        found.problem(path, message, "priority goes before place: reprioritise one of them first")


def _check_priority(control: m.Reprioritise, team: str, queue: str, queues: Queues, found: Findings) -> None:
    settings = queues.known(team, queue).settings
    highest = settings.priority_max if settings is not None else None
    if highest is not None and control.priority > highest:
        message = f"{control.priority} is more than queue {quoted(queue)} allows"
        found.problem("$.priority", message, f"{highest} at most")


def _queue(history: Sequence[Told]) -> str:
    return next((told.fact.specification.queue for told in history if isinstance(told.fact, m.Accepted)), "")
