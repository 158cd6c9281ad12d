"""The judge: it knows what jobs wrote down themselves and what clients were told, and holds the ledger against both.

It shares no code with the product: the ledger is read with nats-py alone, facts by the names in the contract
(docs/concepts/contract.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import nats
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

CLOCK_S: Final = 0.05
"""Two readings of the machine's one clock by different processes may differ by so much."""
ENDS: Final = frozenset({"succeeded", "failed", "cancelled", "rejected"})
MISSING: Final = "[headrace: "
"""Begins the line that stands for output which was lost with a server's disk."""
DROPS: Final = "headrace.log drops metrics"
"""Said on stderr by a job whose node's disk is full."""
RECORD_S: Final = 1.0
READ_S: Final = 4.0
AFTERWARDS: Final = frozenset({"cancel_requested", "archived"})
"""What may follow on a job's end: a cancel that was on its way, and the mark of the archive."""
CODES: Final = frozenset({0, 3})
"""Exit codes of a job's program that came to its end."""
LIVE_ENDS: Final = frozenset({"finished", "lost", "requeued"})
"""Facts by which an attempt is over."""


class Fact(NamedTuple):
    """A message of the ledger. `at` is the server's time."""

    sequence: int
    subject: str
    body: dict[str, Any]
    at: float

    @property
    def type(self) -> str:
        return str(self.body.get("type", ""))


class Note(NamedTuple):
    """A line that a job's process wrote about itself."""

    word: str
    attempt: int
    rest: tuple[str, ...]
    wall: float


class Recorder:
    """Takes down every fact while it is there: finished jobs are archived, and their facts purged."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url, self._user, self._password = url, user, password
        self._facts: dict[int, Fact] = {}
        self.violations: list[str] = []

    @property
    def facts(self) -> list[Fact]:
        return [self._facts[sequence] for sequence in sorted(self._facts)]

    async def record(self) -> None:
        """Until cancelled, whatever becomes of the servers."""
        while True:
            with contextlib.suppress(nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError):
                await self.read(max(self._facts, default=0))
            await asyncio.sleep(RECORD_S)

    async def read(self, after: int = 0) -> None:
        """Every fact behind a sequence. Raises whatever nats-py raises."""
        options: Any = {"user": self._user, "password": self._password, "allow_reconnect": False, "error_cb": _quiet}
        connection = await nats.connect(self._url.split(","), connect_timeout=2, **options)
        try:
            config = ConsumerConfig(
                ack_policy=AckPolicy.NONE,
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=after + 1,
                inactive_threshold=30,
            )
            stream = connection.jetstream()
            reader = await stream.pull_subscribe("hr.v1.>", stream="LEDGER", config=config)
            pending = (await reader.consumer_info()).num_pending
            while pending:
                for message in await reader.fetch(min(500, pending), timeout=READ_S):
                    self._take(message)
                    pending = message.metadata.num_pending
        finally:
            await connection.close()

    def _take(self, message: Msg) -> None:
        about = message.metadata
        sequence = about.sequence.stream
        fact = Fact(sequence, message.subject, json.loads(message.data), about.timestamp.timestamp())
        before = self._facts.setdefault(sequence, fact)
        if before != fact:
            self.violations.append(f"the ledger was changed at {sequence}: {before.type}, now {fact.type}")


async def _quiet(error: Exception) -> None:
    """nats-py would print it: servers die here."""


def read_records(folder: Path) -> dict[str, list[Note]]:
    """What each job wrote, by job."""
    records = {}
    for file in folder.glob("record-*"):
        notes = []
        for line in file.read_text().splitlines():
            word, attempt, *rest = line.split()
            notes.append(Note(word, int(attempt), tuple(rest[:-2]), int(rest[-2]) / 1e9))
        records[file.name.removeprefix("record-")] = notes
    return records


def judge(
    facts: list[Fact], records: dict[str, list[Note]], submitted: Iterable[str], cancelled: Iterable[tuple[str, float]]
) -> list[str]:
    """Every violation, as a sentence."""
    jobs: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        if fact.subject.startswith("hr.v1.job."):
            jobs[fact.subject.split(".")[-1]].append(fact)
    return [
        *_acknowledged(jobs, submitted),
        *(problem for job, history in jobs.items() for problem in _life(job, history)),
        *(problem for job, notes in records.items() for problem in _witnessed(job, jobs.get(job, []), notes)),
        *(problem for job, history in jobs.items() for problem in _ends(job, history, records.get(job, []))),
        *_gpus(facts),
        *_terms(facts),
        *_cancels(jobs, cancelled),
    ]


def _acknowledged(jobs: dict[str, list[Fact]], submitted: Iterable[str]) -> list[str]:
    """No acknowledged submit is lost, and each id (clients use it as the name) is one job."""
    count = Counter(str(history[0].body.get("specification", {}).get("name")) for history in jobs.values())
    problems = [f"{name} was acknowledged and is no job" for name in sorted(set(submitted)) if not count[name]]
    return problems + [f"{name} became {number} jobs" for name, number in count.items() if number > 1]


def _life(job: str, history: list[Fact]) -> list[str]:
    """One beginning, attempts in a row and never two at once, one end and nothing after it."""
    problems = []
    if history[0].type not in ("accepted", "rejected"):
        problems.append(f"{job} begins with {history[0].type}")
    attempt, live, ended = 0, False, False
    for fact in history:
        if ended and fact.type not in AFTERWARDS:
            problems.append(f"{job}: {fact.type} after its end")
        match fact.type:
            case "placed":
                if live or fact.body["attempt"] != attempt + 1:
                    problems.append(f"{job}: placed as attempt {fact.body['attempt']} after {attempt}, live: {live}")
                attempt, live = fact.body["attempt"], True
            case "lost" | "requeued":
                live = False
            case "finished":
                ended, live = True, False
            case "cancel_requested" if not live:
                ended = True
            case "rejected":
                ended = True
    return problems if ended else [*problems, f"{job} has not ended: {[fact.type for fact in history]}"]


def _witnessed(job: str, history: list[Fact], notes: list[Note]) -> list[str]:
    """What its processes saw: alone all the time, each attempt once, and gone before the ledger says so."""
    problems = [f"{job}: attempt {n.attempt} met another process: {n.rest[0]}" for n in notes if n.word == "overlap"]
    starts = Counter(note.attempt for note in notes if note.word == "start")
    problems += [f"{job}: attempt {attempt} ran {count} times" for attempt, count in starts.items() if count > 1]
    over: dict[int, Fact] = {}
    placed: dict[int, Fact] = {}
    for fact in history:
        number = int(fact.body.get("attempt", 0))
        if fact.type in LIVE_ENDS:
            over.setdefault(number, fact)
        elif fact.type == "placed":
            placed[number] = fact
    for attempt in starts:
        lived = [note for note in notes if note.attempt == attempt]
        if attempt not in placed:
            problems.append(f"{job}: attempt {attempt} ran and was never placed")
        elif lived[0].wall < placed[attempt].at - CLOCK_S:
            problems.append(f"{job}: attempt {attempt} ran before it was placed")
        if attempt in over and lived[-1].wall > over[attempt].at + CLOCK_S:
            late = lived[-1].wall - over[attempt].at
            problems.append(f"{job}: attempt {attempt} lived {late:.2f} s after `{over[attempt].type}`")
    return problems


def _ends(job: str, history: list[Fact], notes: list[Note]) -> list[str]:
    """An end is that of its own attempt: no report stands for two, and what ended with its own code said so before."""
    problems = []
    said = {note.attempt for note in notes if note.word == "end"}
    attempts: dict[tuple[float, float | None], int] = {}
    for fact in history:
        end = fact.body.get("end")
        if fact.type not in LIVE_ENDS or end is None:
            continue
        attempt = fact.body["attempt"]
        first = attempts.setdefault((end["ended_at"], end.get("started_at")), attempt)
        if first != attempt:
            problems.append(f"{job}: attempt {attempt} ended as attempt {first} did: {end}")
        if end["cause"] == "exited" and end.get("exit_code") in CODES and attempt not in said:
            problems.append(f"{job}: attempt {attempt} is said to have exited, and never came to its end: {end}")
    return problems


def _gpus(facts: list[Fact]) -> list[str]:
    """No GPU in two live allocations."""
    problems = []
    holders: dict[tuple[str, int], str] = {}
    held: dict[str, list[tuple[str, int]]] = {}
    for fact in facts:
        if not fact.subject.startswith("hr.v1.job."):
            continue
        job = fact.subject.split(".")[-1]
        if fact.type == "placed":
            for allocation in fact.body["allocations"]:
                for index in allocation.get("gpus", ()):
                    key = (allocation["node"], index)
                    if key in holders:
                        problems.append(f"GPU {key} was given to {job} while {holders[key]} had it")
                    holders[key] = job
                    held.setdefault(job, []).append(key)
        elif fact.type in LIVE_ENDS:
            for key in held.pop(job, ()):
                holders.pop(key, None)
    return problems


def _terms(facts: list[Fact]) -> list[str]:
    """Whoever decides has the newest term at the moment when his fact is stored."""
    problems, current = [], 0
    for fact in facts:
        if fact.type == "led":
            current = fact.sequence
        elif "term" in fact.body and fact.body["term"] != current:
            problems.append(f"{fact.subject}: {fact.type} of term {fact.body['term']} in term {current}")
    return problems


def _cancels(jobs: dict[str, list[Fact]], cancelled: Iterable[tuple[str, float]]) -> list[str]:
    """A cancel that was confirmed is in the ledger, and the job is not placed again after it."""
    problems = []
    for job, _ in cancelled:
        types = [fact.type for fact in jobs.get(job, [])]
        if "cancel_requested" not in types:
            problems.append(f"{job}: a cancel was confirmed and is not in the ledger: {types}")
        elif "placed" in types[types.index("cancel_requested") :]:
            problems.append(f"{job}: placed after its cancel")
    return problems


class Shown(NamedTuple):
    """What the product shows of an attempt, and whether it says that this is all."""

    output: str
    all_output: bool
    points: int
    all_points: bool


def judge_output(
    job: str, attempt: int, notes: list[Note], shown: Shown, *, output_may_miss: bool, points_may_miss: bool
) -> list[str]:
    """A whole run: every line once and in order, every point. What may be missing must be said to be."""
    wrote = sum(note.word == "line" and note.attempt == attempt for note in notes)
    expected = "".join(f"line {attempt} {number}\n" for number in range(wrote))
    problems = []
    if shown.output != expected and not (output_may_miss and _is_rest(shown, expected)):
        problems.append(
            f"{job}: output of attempt {attempt}: {len(shown.output)} bytes, {len(expected)} were written: "
            f"{shown.output[:200]!r}"
        )
    is_told = points_may_miss and not shown.all_points and shown.points < wrote
    if shown.points != wrote and not is_told:
        problems.append(f"{job}: {shown.points} points of attempt {attempt}, {wrote} were logged")
    return problems


def _is_rest(shown: Shown, expected: str) -> bool:
    """Whether it is a beginning that is not said to be all, or one with a mark in the place of what is missing: a line,
    or, where so little is missing that no line has room, question marks.
    """
    if "?" in shown.output and len(shown.output) == len(expected):
        return all(mine in (its, "?") for mine, its in zip(shown.output, expected, strict=True))
    beginning, mark, rest = shown.output.partition(MISSING)
    if not mark:
        return not shown.all_output and expected.startswith(beginning)
    return expected.startswith(beginning.rstrip("\n")) and expected.endswith(rest.partition("]\n")[2])
