"""Throw what no client should send at everything that listens: `python -m load_tests.fuzz --minutes 10`.

Parsers of bytes are run in processes of their own (by atheris, if it is installed). `--target` names one or several of
them; without it, all take turns. Each finding is printed with the bytes that made it; the last line counts.
"""

from __future__ import annotations

import argparse
from typing import Any

from load_tests.fuzzing import engine, parsers
from load_tests.stack import report


def main() -> None:
    names = list(parsers.parsers())
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each target")
    parser.add_argument("--target", action="append", choices=names, help="may be repeated; all, if none is named")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in options.target or names:
        done = engine.fuzz(name, options.minutes * 60)
        for finding in done.findings:
            print(f"FINDING in {name}: {finding}", flush=True)
        figures[name] = {
            "engine": done.engine,
            "executions": done.executions,
            "seconds": round(done.seconds, 1),
            "paths": done.paths,
            "findings": len(done.findings),
            "growth_mib": done.growth_mib,
        }
        print(name, figures[name], flush=True)
    report("fuzz", figures, {})
    raise SystemExit(1 if any(each["findings"] for each in figures.values()) else 0)


if __name__ == "__main__":
    main()
