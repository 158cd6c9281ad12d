"""No leader at all for an hour: what runs goes on, submits are answered as queued, and are made up for later."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path
from typing import Any, Final

from events import messages as m
from load_tests.recovering.world import SCHEDULERS, Facts, Line, Times, TrialWorld, a_world, until
from load_tests.stack import percentile

RUNNING: Final = 4
NODES: Final = 2
PAUSE_S: Final = 2.0
AFTERWARDS_S: Final = 60.0
"""How much longer than the outage the jobs run at most: they are there to be found by the next leader."""
SUBMITS_MAX: Final = 60


async def measure(folder: Path, *, minutes: float, times: Times) -> dict[str, Any]:
    """Figures of one outage. Raises AssertionError with what did not hold, TimeoutError."""
    away_s = minutes * 60
    run_s = away_s + min(AFTERWARDS_S, max(away_s, 20.0))
    async with a_world(folder, nodes=NODES, times=times) as (world, facts):
        names = [f"long-{number}" for number in range(RUNNING)]
        jobs = {name: await world.submit(name, seconds=run_s, pause_s=PAUSE_S) for name in names}
        await until(lambda: all(len(world.noted(name)) > 1 for name in names), limit_s=60, what="the start of all")
        pids = {name: world.noted(name)[0].pid for name in names}
        before = facts.last
        with world.held_down(*SCHEDULERS):
            begun = time.monotonic()
            queued, answered = await _submit_meanwhile(world, begun, away_s)
            decided = [each for each in facts.seen if each.sequence > before and not isinstance(each.fact, m.Accepted)]
            assert not decided, f"somebody decided without a leader: {decided[0]}"
            back_at = time.time()
        led = await facts.first(lambda each: isinstance(each.fact, m.Led), after=before, limit_s=60, what="a leader")
        await _placed_all(facts, queued)
        placed_at = max(facts.of(m.Placed, job=job)[0].at for job in queued.values())
        long_ends = [await _end(facts, job, limit_s=AFTERWARDS_S + 60) for job in jobs.values()]
        lines = {name: world.noted(name) for name in names}
        for name in names:
            assert {each.pid for each in lines[name]} == {pids[name]}, f"{name} was started again"
        assert all(end.outcome == "succeeded" and end.attempt == 1 for end in long_ends), long_ends
        hurt = facts.of(m.Lost) + facts.of(m.Requeued) + facts.of(m.NodeSuspected)
        return {
            "minutes": minutes,
            **times._asdict(),
            "ran_on": len(names),
            "longest_silence_of_a_job_s": round(max(_longest_gap(each) for each in lines.values()), 2),
            "submits": len(queued),
            "answered_as_queued": len(answered),
            "answer_p50_ms": round(1000 * percentile(answered, 0.5)),
            "answer_max_ms": round(1000 * max(answered)),
            "led_after_s": round(led.at - back_at, 2),
            "all_placed_after_s": round(placed_at - back_at, 2),
            "ended_lost_requeued_or_suspected": len(hurt),
            "points_and_lines_missing": sum([await _missing(world, jobs[name], lines[name]) for name in names]),
        }


async def _submit_meanwhile(world: TrialWorld, begun: float, away_s: float) -> tuple[dict[str, str], list[float]]:
    """Submit now and then for so long, and kill a runner in the middle; gives the jobs, and how long answers took."""
    count = max(4, min(SUBMITS_MAX, int(away_s / 30)))
    queued, answered = {}, []
    for number in range(count):
        await asyncio.sleep(max(0.0, begun + (number + 0.5) * away_s / count - time.monotonic()))
        if number == count // 2:
            world.processes[f"runner-{world.nodes[0]}"].kill()
        asked_at = time.monotonic()
        name = f"meanwhile-{number}"
        queued[name] = await world.submit(name, seconds=1.0)
        answered.append(time.monotonic() - asked_at)
        view = await world.ask("GET", f"/v1/jobs/{queued[name]}")
        assert view["state"] == "queued", view
    await asyncio.sleep(max(0.0, begun + away_s - time.monotonic()))
    return queued, answered


async def _placed_all(facts: Facts, queued: dict[str, str]) -> None:
    for job in queued.values():
        end = await _end(facts, job, limit_s=300)
        assert end.outcome == "succeeded", f"{job}: {end.reason}"


async def _end(facts: Facts, job: str, *, limit_s: float) -> m.Finished:
    found = await facts.first(
        lambda each: isinstance(each.fact, m.Finished) and each.subject.endswith(job), limit_s=limit_s, what=job
    )
    assert isinstance(found.fact, m.Finished)
    return found.fact


def _longest_gap(lines: list[Line]) -> float:
    return max(later.at - earlier.at for earlier, later in itertools.pairwise(lines))


async def _missing(world: TrialWorld, job: str, lines: list[Line]) -> int:
    """How many of its points and lines did not arrive within a minute."""
    missing = len(lines)

    async def all_there() -> bool:
        nonlocal missing
        answer = await world.ask("GET", f"/v1/jobs/{job}/metrics?names=value&buckets=5000")
        points: int = sum(series.get("count", 0) for series in answer["series"])
        output = await world.ask("GET", f"/v1/jobs/{job}/log?attempt=1&stream=stdout&offset=0")
        text: str = output if isinstance(output, str) else output.decode()
        missing = 2 * len(lines) - points - text.count("\n")
        return missing == 0

    try:
        await until(all_there, limit_s=60, what="output and points")
    except TimeoutError:
        return missing
    return 0
