"""Jobs that have ended, for tests of the archive: written as the services would have written them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from controlplane.config import Configuration, Identity
from events import messages as m
from events import subjects
from events.bus import Bus
from events.identity import job_id
from events.ledger import Ledger, Write
from tests.support.monitoring import SECRET
from tests.support.submitting import CONFIG

TEAM = "vision"


def a_config(state: Path, **settings: object) -> Configuration:
    """An installation that archives at once, with the tokens `ada` and, of an operator, `ops`."""
    config = msgspec.structs.replace(
        CONFIG,
        state=str(state),
        gateway_port=0,
        otlp_port=0,
        otlp_secret=SECRET,
        archive_after_s=0.2,
        tokens={
            hashlib.sha256(b"ada").hexdigest(): Identity(team=TEAM, user="ada"),
            hashlib.sha256(b"ops").hexdigest(): Identity(team=TEAM, user="ops", operator=True),
        },
    )
    return msgspec.structs.replace(config, **settings)


def an_id(number: int, *, team: str = TEAM, user: str = "ada") -> str:
    return job_id(team=team, user=user, client_id=f"run-{number}")


def a_specification(number: int, **fields: object) -> m.Specification:
    specification = m.Specification(
        job=an_id(number),
        team=TEAM,
        user="ada",
        name=f"train-{number}",
        queue="default",
        tier="cpu",
        resources=m.Resources(cpus=1.0, memory_bytes=1024),
        entrypoint=("python", "train.py", "--seed", str(number)),
        submitted_at=1000.0 + number,
    )
    return msgspec.structs.replace(specification, **fields)


def a_life(number: int, *, outcome: m.Outcome = "succeeded", **fields: object) -> list[m.JobFact]:
    """The facts of a job that ran once and ended."""
    node = m.Allocation(node="n1", cpus=1.0, memory_bytes=1024)
    end = m.AttemptEnd(
        cause="exited",
        ended_at=1002.0 + number,
        started_at=1001.0 + number,
        exit_code=0 if outcome == "succeeded" else 1,
        usage=m.Usage(cpu_s=0.5, memory_bytes_max=2048),
    )
    return [
        m.Accepted(specification=a_specification(number, **fields)),
        m.Placed(term=1, attempt=1, allocations=(node,)),
        m.Started(term=1, attempt=1, started_at=1001.0 + number),
        m.Finished(term=1, attempt=1, outcome=outcome, reason=f"exit code {end.exit_code}", end=end),
    ]


async def write_lives(bus: Bus, lives: dict[str, list[m.JobFact]], *, team: str = TEAM) -> dict[str, int]:
    """Write facts of many jobs, each job's in order, in rounds; gives the last sequence of each job."""
    ledger = Ledger(bus, source="test")
    last: dict[str, int] = dict.fromkeys(lives, 0)
    for place in range(max(map(len, lives.values()))):
        writes = [
            Write(subjects.job(team, job), facts[place], last[job])
            for job, facts in lives.items()
            if place < len(facts)
        ]
        for start in range(0, len(writes), 500):
            some = writes[start : start + 500]
            first = await ledger.commit(some)
            for number, write in enumerate(some):
                last[subjects.tokens(write.subject)[2]] = first + number
    return last
