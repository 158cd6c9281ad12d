"""The leading scheduler is killed or stopped: when another one leads and places, and what the old one does then."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any, Final

from events import messages as m
from events.ledger import Entry
from load_tests.faults.processes import send
from load_tests.recovering.world import SCHEDULERS, Facts, Times, TrialWorld, a_world, summary, until

TAKEOVER_S_MAX: Final = 5.0
WAIT_S_MAX: Final = 60.0
STEPS_DOWN_S_MAX: Final = 30.0
NODES: Final = 2


async def measure(folder: Path, *, trials: int, times: Times) -> dict[str, Any]:
    """Figures of `trials` kills and as many stops. Raises AssertionError if an old leader was heard."""
    async with a_world(folder, nodes=NODES, times=times) as (world, facts):
        killed = [await _killed(world, facts, f"kill-{number}") for number in range(trials)]
        stopped = [await _stopped(world, facts, f"stop-{number}") for number in range(trials)]
        stale = _stale(facts.seen)
        assert not stale, f"an old leader was heard: {stale[0]}"
        words = "".join((world.folder / "logs" / f"{name}.log").read_text() for name in SCHEDULERS)
        takeovers = [each["led_s"] for each in killed + stopped]
        return {
            **times._asdict(),
            "killed": summary(killed),
            "stopped": summary(stopped),
            "over_5_s": sum(each > TAKEOVER_S_MAX for each in takeovers),
            "facts_of_an_old_term": len(stale),
            "stepped_down": words.count("stands by"),
            "refused_by_the_store": words.count("is over: ") - words.count("has begun"),
        }


async def _killed(world: TrialWorld, facts: Facts, name: str) -> dict[str, float]:
    leading = world.leader(facts)
    after, hurt_at = facts.last, time.time()
    world.processes[leading].kill()
    return await _followed(world, facts, name, after, hurt_at)


async def _stopped(world: TrialWorld, facts: Facts, name: str) -> dict[str, float]:
    """It wakes when another one leads, and must say by itself that it stands by."""
    leading = world.leader(facts)
    log = world.folder / "logs" / f"{leading}.log"
    told = log.read_text().count("stands by")
    after, hurt_at = facts.last, time.time()
    send(pid := world.processes[leading].pid, signal.SIGSTOP)
    try:
        figures = await _followed(world, facts, name, after, hurt_at)
    finally:
        send(pid, signal.SIGCONT)
    woke_at = time.time()
    await until(
        lambda: log.read_text().count("stands by") > told, limit_s=STEPS_DOWN_S_MAX, what=f"{leading} stepping down"
    )
    return figures | {"steps_down_after_waking_s": time.time() - woke_at}


async def _followed(world: TrialWorld, facts: Facts, name: str, after: int, hurt_at: float) -> dict[str, float]:
    job = await world.submit(name, seconds=0.1)
    led = await facts.first(lambda each: isinstance(each.fact, m.Led), after=after, limit_s=WAIT_S_MAX, what="a leader")
    placed = await facts.first(
        lambda each: isinstance(each.fact, m.Placed) and each.subject.endswith(job), limit_s=WAIT_S_MAX, what="placed"
    )
    await until(lambda: world.noted(name), limit_s=WAIT_S_MAX, what=f"the start of {name}")
    return {
        "led_s": led.at - hurt_at,
        "placed_s": placed.at - hurt_at,
        "runs_s": world.noted(name)[0].at - hurt_at,
    }


def _stale(facts: list[Entry]) -> list[Entry]:
    """Facts of a term that was over when they were stored."""
    term, stale = 0, []
    for each in facts:
        if isinstance(each.fact, m.Led):
            term = each.sequence
        elif getattr(each.fact, "term", term) not in (term, 0):
            stale.append(each)
    return stale
