"""Seeds of faults against a whole installation: `python -m load_tests.faults --seed 1`.

Each seed draws a world, its work and its faults (`schedule.py`), and ends with the judge's verdict (`judge.py`). A seed
that fails prints how to see it again, and leaves its logs in `--evidence`.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from load_tests.faults import campaign, schedule
from load_tests.stack import report

REPOSITORY = Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load_tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--seeds", type=int, default=1, help="how many, one after the other")
    parser.add_argument("--minutes", type=float, default=2.0, help="of faults, a seed")
    parser.add_argument("--servers", type=int, choices=(1, 3), default=1, help="NATS servers")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--ray", action="store_true", help="runners live in a Ray cluster of as many raylets")
    parser.add_argument("--kinds", default="", help="only these faults, separated by commas")
    parser.add_argument("--tree", type=Path, default=REPOSITORY, help="the code under test: another checkout")
    parser.add_argument("--previous", type=Path, help="a checkout of another release, for upgrades in the middle")
    parser.add_argument("--evidence", type=Path, default=Path(tempfile.gettempdir()) / "headrace-faults")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a world that is given up leaves no process behind
    verdicts, failed = [], []
    for seed in range(options.seed, options.seed + options.seeds):
        verdict = one(seed, options)
        verdicts.append(verdict)
        if verdict.violations:
            failed.append(seed)
    injected: Counter[str] = sum((verdict.injected for verdict in verdicts), Counter())
    figures = {
        "seeds": len(verdicts),
        "servers": options.servers,
        "minutes": options.minutes,
        "nodes": options.nodes,
        "ray": options.ray,
        "faults": sum(injected.values()),
        "by_kind": dict(sorted(injected.items())),
        "jobs": sum(verdict.jobs for verdict in verdicts),
        "attempts": sum(verdict.attempts for verdict in verdicts),
        "lost": sum(verdict.lost for verdict in verdicts),
        "calls": sum(verdict.calls for verdict in verdicts),
        "unanswered": sum(verdict.unanswered for verdict in verdicts),
        "liveness_s_max": round(max(verdict.liveness_s for verdict in verdicts), 1),
        "violations": sum(len(verdict.violations) for verdict in verdicts),
        "failed": failed,
    }
    report("faults", figures, {})
    return 1 if failed else 0


def one(seed: int, options: argparse.Namespace) -> campaign.Verdict:
    kinds = tuple(filter(None, options.kinds.split(",")))
    draw = schedule.draw(
        seed,
        seconds=options.minutes * 60,
        servers=options.servers,
        nodes=options.nodes,
        kinds=kinds,
        ray=options.ray,
    )
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hrf-", ignore_cleanup_errors=True) as folder:
        world = Path(folder) / "w"
        verdict = campaign.Verdict(draw)
        try:
            played = campaign.run(
                verdict,
                world,
                tree=options.tree.absolute(),
                previous=options.previous and options.previous.absolute(),
                quiet=options.quiet,
            )
            asyncio.run(played)
        except BaseExceptionGroup as error:
            verdict.violations.append(f"the campaign itself failed: {error!r} {error.exceptions!r}")
        except TimeoutError:
            verdict.violations.append("the world was not ready in its time")
        if verdict.violations:
            campaign.keep_evidence(world, options.evidence / f"seed-{seed}")
    print(
        f"seed {seed}: {len(draw.faults)} faults, {verdict.jobs} jobs, {verdict.attempts} attempts, "
        f"{verdict.lost} lost, all ended after {verdict.liveness_s:.0f} s, {len(verdict.violations)} violations, "
        f"{time.monotonic() - begun:.0f} s",
        flush=True,
    )
    for violation in verdict.violations[:20]:
        print(f"  VIOLATION {violation}")
    if verdict.violations:
        again = " ".join(word for word in sys.argv[1:] if not word.startswith("--seed"))
        print(f"  again: python -m load_tests.faults --seed {seed} {again}\n  logs: {options.evidence}/seed-{seed}")
    return verdict


if __name__ == "__main__":
    sys.exit(main())
