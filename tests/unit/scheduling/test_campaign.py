"""Whatever happens in whatever order, the scheduler's invariants hold, and once nothing bad happens all jobs end."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.campaign import Campaign

STEPS_MAX = 60
SEEDS = (1, 2, 3)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_invariants_hold_whatever_happens_and_everything_ends(data: st.DataObject) -> None:
    campaign = Campaign()

    def pick(options: object) -> object:
        return data.draw(st.sampled_from(list(options)))  # type: ignore[call-overload]

    for _ in range(data.draw(st.integers(1, STEPS_MAX))):
        campaign.step(pick)
    campaign.heal()


def fingerprint(seed: int) -> str:
    """Digest of all that a campaign wrote, and of what the scheduler knows at its end."""
    dice = random.Random(seed)
    campaign = Campaign()
    for _ in range(150):
        campaign.step(lambda options: options[dice.randrange(len(options))])
    entries = [(entry.subject, entry.fact) for entry in campaign.world.ledger]
    return hashlib.sha256(msgspec.msgpack.encode(entries) + campaign.world.core.snapshot()).hexdigest()


def test_the_same_events_give_the_same_decisions_whatever_the_hash_seed() -> None:
    code = f"from tests.unit.scheduling.test_campaign import fingerprint; print([fingerprint(s) for s in {SEEDS}])"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for hash_seed in ("0", "1", "4711")
    }
    assert len(printed) == 1


def test_long_campaigns_hold_too() -> None:
    for seed in SEEDS:
        dice = random.Random(f"long {seed}")
        campaign = Campaign("fgd" if seed % 2 else "best_fit")
        for _ in range(250):
            campaign.step(lambda options, dice=dice: options[dice.randrange(len(options))])
        campaign.heal()
