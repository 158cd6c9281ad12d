"""The gateway's own OpenAPI, by schemathesis, against a stack of its own: every service a process, jobs really run.

Each operation is called with what its description allows and with what it forbids, pass after pass with another seed.
A finding is an answer of 5xx (503 with a time to come back is a refusal, and only counted, and so is what Ray's API
says no to with 500), no answer at all, a service
that was started again, or one whose memory grows by more than its jobs explain. Streams of events are left out: they
end when their reader goes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import hypothesis
import requests
import schemathesis
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode

from controlplane.http import REFUSED
from load_tests.stack import Stack, rss_mib, running

GROWTH_MIB_MAX: Final = 64.0
"""Of one service, from the end of the first pass on: some ten thousand jobs are 25 MiB."""
EXAMPLES: Final = 25
"""Of an operation in a pass, of each mode."""
ANSWER_S: Final = 30.0
STREAMS: Final = "events|follow"
SERVICES: Final = ("submission", "environments", "scheduling", "monitoring", "gateway", "nats")
FINDINGS_MAX: Final = 50


class Walked(NamedTuple):
    """What came of it. `memory_mib`: of each service after the start, after the first pass, and at the end."""

    seconds: float
    operations: int
    passes: int
    statuses: dict[str, int]
    restarts: list[str]
    memory_mib: dict[str, list[int]]
    findings: list[str]


class Walk:
    """Calls, and what was seen of them."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._session = requests.Session()
        self._session.headers["authorization"] = f"Bearer {stack.about['token']}"
        self._born = stack.children()
        self.statuses: Counter[str] = Counter()
        self.findings: dict[str, str] = {}
        self.memory: dict[str, list[int]] = {name: [] for name in SERVICES if name in self._born}

    def call(self, case: Any) -> None:
        """One call, and what is wrong with its answer."""
        what = case.operation.label
        try:
            answer = case.call(session=self._session, timeout=ANSWER_S)
        except requests.RequestException as error:
            self.statuses["none"] += 1
            self._found(f"{what}: no answer", f"{error}\n{case.as_curl_command()}")
            return
        status = answer.status_code
        self.statuses[str(status)] += 1
        is_refused = REFUSED.decode() in answer.headers or (status == 503 and "retry-after" in answer.headers)
        if status >= 500 and not is_refused:
            self._found(f"{what}: {status}", f"{answer.text[:500]}\n{case.as_curl_command()}")

    def look(self) -> None:
        """Note the memory of every service."""
        pids = self._stack.children()
        for name, seen in self.memory.items():
            seen.append(round(rss_mib(pids[name])))

    def judge(self) -> tuple[list[str], list[str]]:
        """The services that were started again, and all findings."""
        pids = self._stack.children()
        restarts = [name for name, pid in self._born.items() if pids.get(name) != pid]
        for name in restarts:
            self._found(f"{name} was started again", "")
        for name, (_, settled, *_, last) in self.memory.items():
            if last - settled > GROWTH_MIB_MAX:
                self._found(f"{name} grew by {last - settled} MiB", "")
        return restarts, [f"{what}\n{story}".strip() for what, story in self.findings.items()]

    def _found(self, what: str, story: str) -> None:
        if what not in self.findings and len(self.findings) < FINDINGS_MAX:
            print("FINDING", what, story[:1500], flush=True)
            self.findings[what] = story


def fuzz(seconds: float) -> Walked:
    """Call every operation for so long, and at least once."""
    with running("--split") as stack:
        walk = Walk(stack)
        operations = _operations(stack)
        walk.look()
        began, passes = time.monotonic(), 0
        while not passes or time.monotonic() - began < seconds:
            for operation in operations:
                if not passes or time.monotonic() - began < seconds:
                    _examples(operation, walk.call, seed=passes)
            passes += 1
            if passes == 1:
                walk.look()
        walk.look()
        restarts, findings = walk.judge()
        spent = time.monotonic() - began
        return Walked(spent, len(operations), passes, dict(walk.statuses), restarts, walk.memory, findings)


def _operations(stack: Stack) -> list[Any]:
    schema = schemathesis.openapi.from_url(stack.about["url"] + "/openapi.json").exclude(path_regex=STREAMS)
    return [result.ok() for result in schema.get_all_operations()]


def _examples(operation: Any, call: Callable[[Any], None], *, seed: int) -> None:
    """So many calls of one operation: as it is described, then as it is not."""
    settings = hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        cases: SearchStrategy[Any] = operation.as_strategy(generation_mode=mode)
        try:
            hypothesis.seed(seed)(settings(hypothesis.given(cases)(call)))()
        except hypothesis.errors.Unsatisfiable:  # nothing can be wrong with an operation that takes nothing
            continue
