"""A stack that is copied while its jobs run, and made again from the copy in another folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from load_tests.stack import Stack, running, until
from tests.e2e.conftest import Headrace, Said

CONFIG = (Path(__file__).parent / "headrace.toml").read_text()
STEPS = 2_000
PROGRAM = f"""
import headrace, os, sys, time
for step in range({STEPS}):
    headrace.log(step=step, loss=1 / (1 + step))
    print("step", step)
print("waits", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.05)
print("goes on")
"""


def submit(stack: Stack, name: str, go: Path) -> str:
    body = {"id": name, "name": name, "entrypoint": ["python3", "-c", PROGRAM, str(go)]}
    return str(stack.patient("POST", "/v1/jobs", body)["job"])


def good(said: Said) -> Said:
    assert said.status == 0, said.out + said.err
    return said


class Told(NamedTuple):
    """All that a user is told about a job and its first attempt."""

    shown: dict[str, Any]
    curves: list[dict[str, Any]]
    output: str

    @classmethod
    def of(cls, headrace: Headrace, job: str) -> Told:
        shown = json.loads(good(headrace("show", job, "--json")).out)
        curves = [json.loads(line) for line in good(headrace("metrics", job, "--json")).out.splitlines()]
        output = good(headrace("logs", job, "--attempt", "1")).out
        return cls(shown, [curve for curve in curves if curve.get("attempt", 1) == 1], output)

    @property
    def points(self) -> int:
        return sum(curve["count"] for curve in self.curves)


def test_a_copy_of_a_running_stack_has_all_its_jobs_numbers_and_output(tmp_path: Path) -> None:
    backup, go = tmp_path / "backup", tmp_path / "go"
    old, new = tmp_path / "old", tmp_path / "new"
    for state in (old, new):
        state.mkdir()
        (state / "headrace.toml").write_text(CONFIG)

    with running("--gpus", "0", state=old) as stack:
        headrace = Headrace(old)
        runs = submit(stack, "runs", go)

        def has_said_all(job: str) -> bool:
            told = Told.of(headrace, job)
            return told.points == STEPS and "waits" in told.output and bool(told.shown["latest"])

        until(lambda: has_said_all(runs), limit_s=60, what="all that the job says before it waits")
        over = submit(stack, "over", state)  # a path that is there
        stack.wait(over)
        until(lambda: has_said_all(over), limit_s=60, what="all that it said")  # the end overtakes the last points
        of_over, of_runs = Told.of(headrace, over), Told.of(headrace, runs)
        assert good(headrace("admin", "backup", str(backup))).out.startswith("saved ")
        assert stack.job(runs)["state"] == "running"

    good(Headrace(new)("admin", "restore", str(backup)))
    with running("--gpus", "0", state=new) as stack:
        headrace = Headrace(new)
        assert Told.of(headrace, over) == of_over
        again = Told.of(headrace, runs)
        assert (again.curves, again.output) == (of_runs.curves, of_runs.output)
        assert again.shown["history"][: len(of_runs.shown["history"])] == of_runs.shown["history"]
        good(headrace("admin", "check"))

        go.touch()
        view = stack.wait(runs)  # no node of this stack ever had its attempt, so it was lost
        assert (view["state"], view["attempt"]) == ("succeeded", 2)
        assert good(headrace("logs", "-f", runs)).out.endswith("goes on\n")  # until all of it is there
        good(headrace("admin", "check"))
