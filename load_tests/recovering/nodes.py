"""Nodes that die, are cut off, or are rebooted: when it is known, and when their jobs run elsewhere.

All nodes of a world at once, each hurt at another moment of its heartbeat: with a lease of minutes one after the other
would take hours.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from events import messages as m
from load_tests.recovering.world import Facts, Times, TrialWorld, a_world, summary, until

PAUSE_S: Final = 0.5
"""Between two notes of a job: so well is the moment of its death known."""
APART_S: Final = 1.7
"""Between two nodes: no multiple of the heartbeat."""
LATE_S_MAX: Final = 60.0
"""How much later than lease, grace and margin `lost` may come before the trial has failed."""
MARGIN_S: Final = 30.0


class Victim(NamedTuple):
    """A job that fills the node it is on, so that each node has one."""

    name: str
    job: str
    node: str


async def measure(folder: Path, *, trials: int, times: Times) -> dict[str, Any]:
    """Half of the nodes die, half are cut off."""
    async with a_world(folder, nodes=2 * trials + 1, times=times) as (world, facts):
        victims = await _fill(world, facts, 2 * trials, seconds=times.suspect_s + times.lease_s + 600)
        kinds = [_dead, _cut] * trials
        trial = Trial(world, facts, times)
        pairs = enumerate(zip(kinds, victims, strict=True))
        results = await asyncio.gather(*(kind(trial, victim, APART_S * number) for number, (kind, victim) in pairs))
        dead, cut = results[::2], results[1::2]
        late = [each for each in cut if each["death_before_lost_s"] <= 0]
        assert not late, f"an attempt lived when it was lost: {late[0]}"
        return {
            **times._asdict(),
            "dead": summary(dead),
            "cut_off": summary(cut),
        }


class Trial(NamedTuple):
    world: TrialWorld
    facts: Facts
    times: Times

    async def fact(self, kind: Any, subject: str, *, after: int) -> float:
        """When the first such fact about a job or a node was stored."""
        limit_s = self.times.suspect_s + self.times.lease_s + MARGIN_S + LATE_S_MAX
        found = await self.facts.first(
            lambda each: isinstance(each.fact, kind) and each.subject.endswith(f".{subject}"),
            after=after,
            limit_s=limit_s,
            what=f"{kind} of {subject}",
        )
        return found.at

    async def runs_again(self, name: str) -> float:
        """When the second attempt of a job wrote its first note."""
        await until(lambda: self.world.noted(name)[-1].attempt == 2, limit_s=LATE_S_MAX, what=f"{name} elsewhere")
        return next(each.at for each in self.world.noted(name) if each.attempt == 2)


async def _fill(world: TrialWorld, facts: Facts, count: int, *, seconds: float) -> list[Victim]:
    jobs = {}
    for number in range(count):
        name = f"job-{number}"
        jobs[name] = await world.submit(name, seconds=seconds, pause_s=PAUSE_S, tier="gpu2")
        await until(partial(world.noted, name), limit_s=60, what=f"the start of {name}")
    victims = [Victim(name, job, _node_of(facts, job)) for name, job in jobs.items()]
    assert {victim.node for victim in victims} == set(world.nodes) - {world.spare}, victims
    return victims


def _node_of(facts: Facts, job: str) -> str:
    placed = facts.of(m.Placed, job=job)[0].fact
    assert isinstance(placed, m.Placed)
    return placed.allocations[0].node


async def _dead(trial: Trial, victim: Victim, wait_s: float) -> dict[str, float]:
    """The machine is gone, with everything on it."""
    await asyncio.sleep(wait_s)
    after, hurt_at = trial.facts.last, time.time()
    with trial.world.held_down(f"runner-{victim.node}"):
        trial.world.power_off(victim.node)
        suspected_at = await trial.fact(m.NodeSuspected, victim.node, after=after)
        lost_at = await trial.fact(m.Lost, victim.job, after=after)
        runs_at = await trial.runs_again(victim.name)
    return {
        "suspected_s": suspected_at - hurt_at,
        "lost_s": lost_at - hurt_at,
        "runs_elsewhere_s": runs_at - hurt_at,
        "from_lost_to_running_s": runs_at - lost_at,
    }


async def _cut(trial: Trial, victim: Victim, wait_s: float) -> dict[str, float]:
    """Its line is cut, or swallows everything; its runner, and every other process of it, lives."""
    await asyncio.sleep(wait_s)
    after, hurt_at = trial.facts.last, time.time()
    how = "silent" if int(victim.name.rpartition("-")[2]) % 4 == 1 else "cut"
    with trial.world.cut_off(victim.node, how):
        suspected_at = await trial.fact(m.NodeSuspected, victim.node, after=after)
        lost_at = await trial.fact(m.Lost, victim.job, after=after)
        runs_at = await trial.runs_again(victim.name)
        dead_at = max(each.at for each in trial.world.noted(victim.name) if each.attempt == 1) + PAUSE_S
    return {
        "suspected_s": suspected_at - hurt_at,
        "death_s": dead_at - hurt_at,
        "lost_s": lost_at - hurt_at,
        "death_before_lost_s": lost_at - dead_at,
        "runs_elsewhere_s": runs_at - hurt_at,
    }


async def reboots(folder: Path, *, trials: int, times: Times) -> dict[str, Any]:
    """A node is rebooted: its new boot id is evidence enough."""
    async with a_world(folder, nodes=trials + 1, times=times) as (world, facts):
        if not world.can_reboot:
            return {"not_tried": "needs the right to mount"}
        victims = await _fill(world, facts, trials, seconds=600)
        trial = Trial(world, facts, times)
        return {**times._asdict(), **summary([await _rebooted(trial, victim) for victim in victims])}


async def _rebooted(trial: Trial, victim: Victim) -> dict[str, float]:
    after, hurt_at, runner = trial.facts.last, time.time(), trial.world.processes[f"runner-{victim.node}"]
    starts = runner.starts
    trial.world.reboot(victim.node)
    await until(lambda: runner.starts > starts, limit_s=LATE_S_MAX, what=f"another runner of {victim.node}")
    back_at = time.time()
    # What it left on disk says as much as its boot id: `requeued` if the folder of the attempt is still there.
    lost_at = await trial.fact(m.Lost | m.Requeued, victim.job, after=after)
    runs_at = await trial.runs_again(victim.name)
    return {
        "requeued_after_power_off_s": lost_at - hurt_at,
        "requeued_after_the_runner_began_s": lost_at - back_at,
        "runs_again_after_power_off_s": runs_at - hurt_at,
    }
