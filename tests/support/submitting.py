"""Small builders for tests of the door: a configuration, and requests as they come in."""

from __future__ import annotations

import json
from typing import Any

from controlplane.config import Configuration, Team
from controlplane.submission import core
from controlplane.submission.queues import Queues
from events import messages as m

CONFIG = Configuration(
    teams={
        "vision": Team(queues=("default", "night"), tiers=("cpu", "gpu1", "gpu2")),
        "speech": Team(queues=("secret",)),
    }
)
QUEUES = Queues.configured(CONFIG)


def incoming(body: bytes | None = None, /, *, team: str = "vision", user: str = "ada", **fields: Any) -> core.Incoming:
    """A submit of these fields, or of these very bytes."""
    content = body if body is not None else json.dumps({"entrypoint": ["python", "train.py"]} | fields).encode()
    return core.Incoming(team=team, user=user, body=content, at=1000.0, place="7@1000.0")


def accepted(request: core.Incoming, queues: Queues = QUEUES) -> core.Accept:
    decision = core.decide_submit(request, CONFIG, queues)
    assert isinstance(decision, core.Accept), decision
    return decision


def rejected(request: core.Incoming, queues: Queues = QUEUES) -> core.Reject:
    decision = core.decide_submit(request, CONFIG, queues)
    assert isinstance(decision, core.Reject), decision
    return decision


def told(*facts: m.JobFact) -> list[core.Told]:
    """The history of a job: its facts at sequences 10, 20, …, written just after requests of the time 1000 came in."""
    return [core.Told(10 * number, fact, at=1000.5) for number, fact in enumerate(facts, start=1)]
