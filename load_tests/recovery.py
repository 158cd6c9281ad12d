"""How long everything takes to be well again: `python -m load_tests.recovery`.

    python -m load_tests.recovery --only leaderless --leaderless-minutes 60   # no scheduling process for so long

A world of real processes (`load_tests/faults/world.py`: NATS, two of each service, runners outside of Ray) with the
product's own times is hurt again and again; moments are those of the ledger's store and of what jobs write themselves.
With `--lease-s` the parts that wait for a lease to be over, `nodes` and `leaderless`, take less time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any, Final

from load_tests.recovering import everything, leader, leaderless, nodes
from load_tests.recovering.world import Times
from load_tests.stack import report

PARTS: Final = ("leader", "nodes", "reboot", "everything", "upgrade", "leaderless")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10, help="of each kind")
    parser.add_argument("--only", choices=PARTS, action="append", help="these parts; all but `leaderless` otherwise")
    parser.add_argument("--leaderless-minutes", type=float, default=0.0, help="0: without this part")
    for name, value in Times()._asdict().items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=value)
    options = parser.parse_args()
    times = Times(*(getattr(options, name) for name in Times._fields))
    figures = asyncio.run(measure(options, times))
    report("recovery", figures, {})


async def measure(options: argparse.Namespace, times: Times) -> dict[str, Any]:
    """The figures of each part, one after the other. Raises AssertionError with what did not hold, TimeoutError."""
    only = options.only or [part for part in PARTS if part != "leaderless" or options.leaderless_minutes]
    figures = {}
    patient = times._replace(lease_s=Times().lease_s)
    for part in only:
        with tempfile.TemporaryDirectory(prefix="headrace-recovery-") as temporary:
            folder = Path(temporary) / "w"
            match part:
                case "leader":
                    figures[part] = await leader.measure(folder, trials=options.trials, times=patient)
                case "nodes":
                    figures[part] = await nodes.measure(folder, trials=options.trials, times=times)
                case "reboot":
                    figures[part] = await nodes.reboots(folder, trials=options.trials, times=patient)
                case "everything":
                    figures[part] = await everything.measure(folder, trials=options.trials, times=patient)
                case "upgrade":
                    figures[part] = await everything.upgrades(folder, trials=options.trials, times=patient)
                case _:
                    minutes = options.leaderless_minutes
                    figures[part] = await leaderless.measure(folder, minutes=minutes, times=times)
        print(json.dumps({part: figures[part]}), flush=True)
    return figures


if __name__ == "__main__":
    main()
