"""Everything is killed at once but the supervisors; and runners come back in another version. No attempt notices."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from pathlib import Path
from typing import Any, Final

from events import messages as m
from load_tests.faults.clients import call
from load_tests.faults.processes import send
from load_tests.recovering.world import TREE, Facts, Times, TrialWorld, a_world, summary, until

NODES: Final = 2
RUNNING: Final = 4
PAUSE_S: Final = 0.5
WAIT_S_MAX: Final = 120.0
SUBMIT_AGAIN_S: Final = 0.2
LONG_S: Final = 3600.0


async def measure(folder: Path, *, trials: int, times: Times) -> dict[str, Any]:
    """Times until a new job runs, and until output of all running ones is seen again."""
    async with a_world(folder, nodes=NODES, times=times) as (world, facts):
        running = await _some_running(world)
        pids = {name: world.noted(name)[0].pid for name in running}
        results = [await _all_killed(world, running, f"new-{number}") for number in range(trials)]
        return {
            **times._asdict(),
            **summary(results),
            **_undisturbed(world, facts, pids),
        }


async def _some_running(world: TrialWorld) -> dict[str, str]:
    names = [f"long-{number}" for number in range(RUNNING)]
    running = {name: await world.submit(name, seconds=LONG_S, pause_s=PAUSE_S) for name in names}
    await until(lambda: all(map(world.noted, running)), limit_s=WAIT_S_MAX, what="the start of all")
    return running


async def _all_killed(world: TrialWorld, running: dict[str, str], name: str) -> dict[str, float]:
    hurt_at = time.time()
    for process in world.processes.values():
        process.kill()
    for pid in [pid for node in world.nodes for pid in world.launchers(node)]:
        send(pid, signal.SIGKILL)
    submitting = asyncio.create_task(_submitted(world, name))
    followed = await asyncio.gather(*(_followed_again(world, *each, hurt_at) for each in running.items()))
    accepted_at = await submitting
    await until(lambda: world.noted(name), limit_s=WAIT_S_MAX, what=f"the start of {name}")
    await world.until_ready()
    return {
        "submit_answered_s": accepted_at - hurt_at,
        "new_job_runs_s": world.noted(name)[0].at - hurt_at,
        "all_followed_again_s": max(followed) - hurt_at,
    }


async def _submitted(world: TrialWorld, name: str) -> float:
    """A client that tries again until it is answered."""
    while True:
        try:
            await world.submit(name, seconds=0.1)
        except AssertionError:
            await asyncio.sleep(SUBMIT_AGAIN_S)
        else:
            return time.time()


async def _followed_again(world: TrialWorld, name: str, job: str, hurt_at: float) -> float:
    """When the gateway first shows a line that the job wrote after the kill."""
    first = sum(each.at < hurt_at for each in world.noted(name))

    async def seen() -> bool:
        path = f"/v1/jobs/{job}/log?attempt=1&stream=stdout&offset=0"
        status, output = await asyncio.to_thread(call, world.gateways[0], "GET", path)
        return status == 200 and f"line {first}\n" in output.decode()

    await until(seen, limit_s=WAIT_S_MAX, what=f"output of {name}")
    return time.time()


def _undisturbed(world: TrialWorld, facts: Facts, pids: dict[str, int]) -> dict[str, int]:
    """How many attempts were ended by what was done: 0."""
    ended = facts.of(m.Lost) + facts.of(m.Requeued)
    restarted = [name for name, pid in pids.items() if {each.pid for each in world.noted(name)} != {pid}]
    assert not restarted, f"{restarted} were started again: {[each.fact for each in ended]}"
    return {"attempts_that_ran_on": len(pids), "attempts_ended": len(ended)}


async def upgrades(folder: Path, *, trials: int, times: Times) -> dict[str, Any]:
    """Runner and launcher of a node are replaced by those of another version while attempts run."""
    async with a_world(folder, nodes=NODES, times=times) as (world, facts):
        running = await _some_running(world)
        pids = {name: world.noted(name)[0].pid for name in running}
        results = []
        for number in range(trials):
            tree = await asyncio.to_thread(_another_version, folder / f"release-{number}", number)
            results += [await _upgraded(world, facts, node, tree, f"after-{number}-{node}") for node in world.nodes]
        return {
            **times._asdict(),
            **summary(results),
            **_undisturbed(world, facts, pids),
        }


def _another_version(tree: Path, number: int) -> Path:
    """The same program with another text: launchers are replaced when the text of theirs is another."""
    for name in ("events", "runtime", "sdk"):
        shutil.copytree(TREE / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (tree / "runtime" / "supervisor.py").open("a") as file:
        file.write(f"\n# release {number}\n")
    return tree


async def _upgraded(world: TrialWorld, facts: Facts, node: str, tree: Path, name: str) -> dict[str, float]:
    old, runner = set(world.launchers(node)), world.processes[f"runner-{node}"]
    begun_at, runner.tree = time.time(), tree
    await runner.end()
    ended_at = time.time()
    await until(
        lambda: (new := set(world.launchers(node))) and not new & old, limit_s=WAIT_S_MAX, what=f"a launcher of {node}"
    )
    replaced_at = time.time()
    job = await world.submit(name, seconds=0.1)
    end = await facts.first(
        lambda each: isinstance(each.fact, m.Finished) and each.subject.endswith(job), limit_s=WAIT_S_MAX, what=name
    )
    assert isinstance(end.fact, m.Finished)
    assert end.fact.outcome == "succeeded", end
    return {"runner_ended_s": ended_at - begun_at, "launcher_replaced_s": replaced_at - begun_at}
