"""An array of many small tasks and a chain of dependencies, on a stack of their own: `python -m load_tests.arrays`.

Beside the array the same number of single jobs, submitted over the same HTTP, eight at a time: an array saves the
submits and their facts; placing and running a task costs what it costs for a job.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Final

from load_tests.stack import Stack, percentile, report, running, until

CONFIG: Final = """
default_tier = "tiny"
[[tiers]]
name = "tiny"
resources = {cpus = 0.1, memory_bytes = 50_000_000}
"""
FIRST_S: Final = 5.0
"""How long the first job of the chain runs: meanwhile the others are submitted."""
LIMIT_S: Final = 600.0
AT_ONCE: Final = 8
"""Submits of single jobs."""


def facts(stack: Stack) -> int:
    """How many messages the ledger has taken in."""
    status = stack.patient("GET", "/v1/status")["services"]["gateway"]
    return int(status["counters"]["followed_to"] if "counters" in status else status["followed_to"])


def array(stack: Stack, tasks: int) -> dict[str, Any]:
    before, begun = facts(stack), time.time()
    body = {"id": "sweep", "name": "sweep", "entrypoint": ["true"], "array": f"0-{tasks - 1}"}
    job = stack.patient("POST", "/v1/jobs", body)["job"]
    submitted = time.time()
    view = stack.wait(job, limit_s=LIMIT_S)
    assert view["tasks"] == {"succeeded": tasks}, view
    return {
        "submit_ms": round(1000 * (submitted - begun), 1),
        "seconds": round(view["finished_at"] - begun, 1),
        "facts": facts(stack) - before,
    }


def singles(stack: Stack, jobs: int) -> dict[str, Any]:
    before, begun = facts(stack), time.time()
    bodies = [{"id": f"single-{number}", "name": "single", "entrypoint": ["true"]} for number in range(jobs)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda body: stack.patient("POST", "/v1/jobs", body), bodies))
    submitted = time.time()

    def all_ended() -> bool:
        return not stack.patient("GET", "/v1/jobs?state=active&limit=1")["jobs"]

    until(all_ended, limit_s=LIMIT_S, what="the end of the single jobs")
    return {
        "submit_ms": round(1000 * (submitted - begun), 1),
        "seconds": round(time.time() - begun, 1),
        "facts": facts(stack) - before,
    }


def chain(stack: Stack, jobs: int) -> dict[str, Any]:
    """Milliseconds from an end to the placement of the job that waited for it, both by the ledger's clock."""
    ids: list[str] = []
    for number in range(jobs):
        body: dict[str, Any] = {"id": f"link-{number}", "name": "link", "entrypoint": ["true"]}
        if ids:
            body["after"] = [{"job": ids[-1]}]
        else:
            body["entrypoint"] = ["sleep", str(FIRST_S)]
        ids.append(stack.patient("POST", "/v1/jobs", body)["job"])
    stack.wait(ids[-1], limit_s=LIMIT_S)
    at = [{each["type"]: each["at"] for each in stack.job(job)["history"]} for job in ids]
    gaps = [1000 * (after["placed"] - before["finished"]) for before, after in pairwise(at)]
    whole_ms = 1000 * (at[-1]["finished"] - at[0]["finished"])
    return {
        "jobs": jobs,
        "end_to_placed_p50_ms": round(percentile(gaps, 0.5), 1),
        "end_to_placed_p99_ms": round(percentile(gaps, 0.99), 1),
        "a_link_ms": round(whole_ms / (jobs - 1), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--chain", type=int, default=50, help="jobs, each after the one before")
    options = parser.parse_args()
    with running(config=CONFIG) as stack:
        figures = {"tasks": options.tasks, "array": array(stack, options.tasks), "chain": chain(stack, options.chain)}
        peers = {"single jobs": singles(stack, options.tasks)}
    print(json.dumps(figures, indent=1))
    report("arrays", figures, peers)


if __name__ == "__main__":
    main()
