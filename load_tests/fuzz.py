"""Throw what no client should send at everything that listens: `python -m load_tests.fuzz --minutes 10`.

Parsers of bytes are run in processes of their own (by atheris, if it is installed); `http` is a whole stack behind its
gateway (by schemathesis, without which it is left out). `--target` names one or several of them; without it, all take
turns. Each finding is printed with what made it; the last line counts.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from typing import Any, Final

from load_tests.fuzzing import engine, parsers
from load_tests.stack import report

HTTP: Final = "http"


def main() -> None:
    names = [*parsers.parsers(), *([HTTP] if find_spec("schemathesis") else [])]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each target")
    parser.add_argument("--target", action="append", choices=names, help="may be repeated; all, if none is named")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in options.target or names:
        figures[name] = _walked(options.minutes) if name == HTTP else _parsed(name, options.minutes)
        print(name, figures[name], flush=True)
    report("fuzz", figures, {})
    raise SystemExit(1 if any(each["findings"] for each in figures.values()) else 0)


def _parsed(name: str, minutes: float) -> dict[str, Any]:
    """The figures of one parser."""
    done = engine.fuzz(name, minutes * 60)
    for finding in done.findings:
        print(f"FINDING in {name}: {finding}", flush=True)
    return {
        "engine": done.engine,
        "executions": done.executions,
        "seconds": round(done.seconds, 1),
        "paths": done.paths,
        "findings": len(done.findings),
        "growth_mib": done.growth_mib,
    }


def _walked(minutes: float) -> dict[str, Any]:
    """The figures of the gateway; it prints its findings as they come."""
    from load_tests.fuzzing import gateway  # needs packages that are optional

    done = gateway.fuzz(minutes * 60)
    return {
        "calls": sum(done.statuses.values()),
        "operations": done.operations,
        "passes": done.passes,
        "seconds": round(done.seconds, 1),
        "statuses": done.statuses,
        "restarts": done.restarts,
        "memory_mib": done.memory_mib,
        "findings": len(done.findings),
    }


if __name__ == "__main__":
    main()
