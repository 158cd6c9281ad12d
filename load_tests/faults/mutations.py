"""Switches one safeguard off at a time and lets the campaign find it: `python -m load_tests.faults.mutations`.

Each mutation is a replacement in a copy of the code; seeds are played until one is failed. A judge that finds none of
them judges nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from load_tests.stack import report

REPOSITORY: Final = Path(__file__).parents[2]
COPIED: Final = ("events", "controlplane", "runtime", "sdk", "load_tests")


class Mutation(NamedTuple):
    """A safeguard, and the text that takes it away."""

    name: str
    file: str
    what: str
    instead: str
    also: tuple[tuple[str, str, str], ...] = ()


MUTATIONS: Final = (
    Mutation(
        "no guard on facts about jobs",
        "events/jetstream.py",
        "    if outgoing.expect is not None:\n",
        '    if outgoing.expect is not None and ".job." not in outgoing.subject:\n',
        (("events/jetstream.py", "    if outgoing.expect_last is not None:\n", "    if False:\n"),),
    ),
    Mutation(
        "a round goes without its term",
        "controlplane/scheduling/leader.py",
        "        writes = [renewed, *map(_write, decisions)]\n",
        "        writes = [*map(_write, decisions)] or [renewed]\n",
        (
            ("controlplane/scheduling/leader.py", "if len(decisions) == 1 and not self.needs_renewal:", "if False:"),
            (
                "controlplane/scheduling/leader.py",
                "        self._last = first\n",
                "        self._last = first if not decisions else self._last\n",
            ),
            (
                "controlplane/scheduling/service.py",
                "                if not core.is_leading:\n",
                "                if False:\n",
            ),
        ),
    ),
    Mutation(
        "supervisors know no lease",
        "runtime/supervisor.py",
        "        if not self._spec.lease_s or self._cause:\n",
        "        if True:\n",
    ),
    Mutation(
        "points that come again count again",
        "controlplane/monitoring/batch.py",
        "        self._repeated += part.records",
        "        fresh = ((part.first, part.first + part.records),)\n        self._repeated += part.records",
    ),
    Mutation(
        "an older attempt may speak",
        "controlplane/scheduling/core.py",
        "        return job.key in node.jobs and ref.attempt == job.attempt\n",
        "        return job.key in node.jobs\n",
        (
            (
                "controlplane/scheduling/core.py",
                "part.reported.ref.attempt != job.life.attempt for",
                "False for",
            ),
        ),
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load_tests.faults.mutations", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--seeds", type=int, default=10, help="so many are played at most")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--servers", type=int, choices=(1, 3), default=1)
    parser.add_argument("--only", default="", help="mutations with this in their name")
    options = parser.parse_args()
    found = {each.name: play(each, options) for each in MUTATIONS if options.only in each.name}
    report("mutations", {"seeds_max": options.seeds, "found": found}, {})
    return 0 if all(each["seed"] for each in found.values()) else 1


def play(mutation: Mutation, options: argparse.Namespace) -> dict[str, Any]:
    """The seed that found it, and the first thing that was wrong; seed 0: none did."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hrm-") as folder:
        tree = Path(folder)
        for name in COPIED:
            shutil.copytree(REPOSITORY / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        for file, what, instead in ((mutation.file, mutation.what, mutation.instead), *mutation.also):
            text = (tree / file).read_text()
            if what not in text:
                raise SystemExit(f"mutation {mutation.name!r}: {file} does not hold {what!r} any more")
            (tree / file).write_text(text.replace(what, instead))
        for seed in range(options.seed, options.seed + options.seeds):
            wrong = _violations(seed, tree, options)
            if wrong:
                print(f"{mutation.name}: seed {seed}: {wrong[0]}", flush=True)
                return {"seed": seed, "wrong": wrong[0][:200], "seconds": round(time.monotonic() - begun)}
    print(f"{mutation.name}: NOT FOUND by {options.seeds} seeds", flush=True)
    return {"seed": 0, "wrong": "", "seconds": round(time.monotonic() - begun)}


def _violations(seed: int, tree: Path, options: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "load_tests.faults", "--quiet", "--tree", str(tree), "--seed", str(seed)]
    command += ["--minutes", str(options.minutes), "--servers", str(options.servers)]
    with tempfile.TemporaryDirectory(prefix="hrm-evidence-") as evidence:
        ran = subprocess.run(
            [*command, "--evidence", evidence], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
    lines = ran.stdout.splitlines()
    if not lines or "figures" not in json.loads(lines[-1]):
        raise SystemExit(f"seed {seed} was not played:\n{ran.stderr}")
    return [line.strip().removeprefix("VIOLATION ") for line in lines if "VIOLATION" in line]


if __name__ == "__main__":
    sys.exit(main())
