"""Breaks the scheduler's core in one place at a time, for its tests to find: `python -m load_tests.core_mutations`.

Each mutation is a replacement in a copy of `controlplane/scheduling`; the property tests against the dumb second
implementation and the random facts come first, then the other unit tests, until one fails. What no test finds is not
tested.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from load_tests.stack import report

REPOSITORY: Final = Path(__file__).parents[1]
COPIED: Final = ("events", "controlplane", "tests", "docs", "scripts", "pyproject.toml")
FOLDER: Final = "controlplane/scheduling"
TESTS: Final = ("tests/unit/scheduling",)


class Mutation(NamedTuple):
    """A policy, and the text that breaks it."""

    name: str
    file: str
    what: str
    instead: str


MUTATIONS: Final = (
    Mutation(
        "passing over: a queue whose jobs are short enough",
        "queues.py",
        "            self._shortest_of(shape) <= longest_s + SPARE_S\n            for shape",
        "            self._shortest_of(shape) < longest_s / 2\n            for shape",
    ),
    Mutation(
        "passing over: those behind a head that may have a reservation",
        "placing.py",
        "            return math.inf\n        return self._window_s(shape) if",
        "            pass\n        return self._window_s(shape) if",
    ),
    Mutation(
        "passing over: a line whose shortest job left is not looked at anew",
        "queues.py",
        "            self.shortest.pop(key.shape, None)\n",
        "            pass\n",
    ),
    Mutation(
        "passing over: jobs that are shorter than one that found no place",
        "placing.py",
        "        if takes_s >= self._refused.get(shape, math.inf):\n",
        "        if shape in self._refused:\n",
    ),
    Mutation(
        "passing over: the window of a node of which all is kept from now on",
        "backfill.py",
        "return min(closed_in_s, self._short_at(node, shape, self._now) - self._now)",
        "return min(closed_in_s, self._short_at(node, shape, math.nextafter(self._now, math.inf)) - self._now)",
    ),
    Mutation(
        "passing over: what this very round keeps counts as kept by the ledger",
        "preemption.py",
        "        if self._settled[:2] != (pins, changes):\n",
        "        if self._settled[0] < 0:\n",
    ),
    Mutation(
        "guarantees: what a team holds beyond them is not added up anew",
        "limits.py",
        "        if at == holder.counted:\n",
        "        if at >= 0:\n",
    ),
    Mutation(
        "passing over: a quiet queue that somebody has entered",
        "placing.py",
        "if known is None or known.moves != queue.moves or",
        "if known is None or",
    ),
    Mutation(
        "passing over: a quiet queue in which somebody has run for long enough",
        "placing.py",
        " or self._moment.now >= known.until:",
        ":",
    ),
    Mutation(
        "passing over: a quiet queue, though somebody has ended",
        "placing.py",
        "        if not self._truth.holds(known.basis, queue):\n            return False\n",
        "",
    ),
    Mutation(
        "passing over: a quiet queue that a limit held back, though others of it have ended",
        "placing.py",
        "is_own = self._search.is_own and not contender.is_limited",
        "is_own = self._search.is_own",
    ),
    Mutation(
        "passing over: a quiet queue, though there is room for a gang elsewhere",
        "preemption.py",
        "is_own = job.shape.nodes == 1 and not within_guarantee and",
        "is_own = not within_guarantee and",
    ),
    Mutation(
        "passing over: a search within a guarantee, though somebody of another queue has ended",
        "preemption.py",
        "is_own = job.shape.nodes == 1 and not within_guarantee and",
        "is_own = job.shape.nodes == 1 and",
    ),
    Mutation(
        "passing over: a node is not kept for another any more, and nobody is told",
        "waiting.py",
        "                self.fleet.touch(self.fleet.nodes[name])  # and whom",
        "                pass  # and whom",
    ),
    Mutation(
        "passing over: a quiet queue of which one has got what was kept for it",
        "waiting.py",
        "            self.queue_of(self.by_key[key]).moves += 1",
        "            pass",
    ),
    Mutation(
        "passing over: what a round keeps that is never written",
        "preemption.py",
        "not within_guarantee and self._is_settled()",
        "not within_guarantee",
    ),
    Mutation(
        "passing over: a clock that is ahead",
        "preemption.py",
        "        self._later += rights.later()\n",
        "",
    ),
    Mutation(
        "passing over: something has changed on a node of the queue",
        "holdings.py",
        "                        self.queue_of(job).disturbed = fleet.changes",
        "                        pass",
    ),
    Mutation(
        "attained: who has had much comes first as well",
        "attained.py",
        "and job.attained_s < LITTLE_S",
        "and True",
    ),
    Mutation(
        "attained: without a checkpoint",
        "attained.py",
        "    if saved_at is None or abs(now - saved_at) > FRESH_S:\n        return False\n",
        "    saved_at = now\n",
    ),
    Mutation(
        "attained: earlier attempts do not count",
        "attained.py",
        "job.attained_s += of(",
        "job.attained_s = 0 * of(",
    ),
    Mutation(
        "shared GPUs: one more than there is room for",
        "nodes.py",
        "for index, left in self.parts_left.items() if left >= shape.gpu_milli]",
        "for index, left in self.parts_left.items() if left]",
    ),
    Mutation(
        "shared GPUs: an idle one before the one that is shared",
        "nodes.py",
        "        first = self._with_part(shape) if shape.shares_gpu else []\n",
        "        first: list[Node] = []\n",
    ),
    Mutation(
        "shared GPUs: who joins others delays a reservation",
        "backfill.py",
        "return lambda at: beside if at < end.at and not end.overdue else need",
        "return lambda at: beside",
    ),
    Mutation(
        "shared GPUs: whole with the first who leaves",
        "ahead.py",
        "until[index] = max(end, until.get(index, end), key=lambda one: (one.at, not one.overdue))",
        "until[index] = min(end, until.get(index, end), key=lambda one: (one.at, not one.overdue))",
    ),
    Mutation(
        "shared GPUs: victims of whom each gives a whole one back",
        "preemption.py",
        "self._gpus[index] += sign * each.gpu_milli",
        "self._gpus[index] += sign * MILLI",
    ),
    Mutation(
        "shared GPUs: a part counts as a whole under limits",
        "jobs.py",
        "        return self.gpus * self.gpu_milli\n",
        "        return self.gpus * 1000\n",
    ),
    Mutation(
        "constraints: of several labels one is enough",
        "../../events/labels.py",
        "            return False\n    return True\n",
        "            continue\n        return True\n    return not constraint\n",
    ),
    Mutation(
        "alternatives: in no order",
        "nodes.py",
        "    if len(shape.on) < 2:\n",
        "    if True:\n",
    ),
    Mutation(
        "constraints: reservations are kept anywhere",
        "nodes.py",
        "        return self.suits(shape) and self.is_large_enough(shape)\n",
        "        return self.is_large_enough(shape)\n",
    ),
    Mutation(
        "predictions: the mean of one run",
        "predictions.py",
        "RUNS: Final = 2",
        "RUNS: Final = 1",
    ),
    Mutation(
        "predictions: longer than the limit",
        "predictions.py",
        "min(runs_s, max(ESTIMATE_S_MIN, time_limit_s))",
        "runs_s",
    ),
    Mutation(
        "predictions: reservations go by them",
        "ahead.py",
        "        at = job.begun_at + limit_s\n",
        "        at = job.begun_at + (job.predicted_s or limit_s)\n",
    ),
    Mutation(
        "why: advice is not tried",
        "waits.py",
        "return self._pass()[1].get(other)",
        "return self._placing.room_for(other.shape)",
    ),
    Mutation("why: a question is not taken back", "waits.py", "            truth.forget(job)\n", "            pass\n"),
    Mutation(
        "forecast: what runs begins anew", "forecast.py", "max(now, job.held_from + runs_s)", "max(now, now + runs_s)"
    ),
    Mutation(
        "slowdown: waits do not count",
        "order.py",
        "return -(wait_s + FLOOR_S) / estimate",
        "return -FLOOR_S / estimate",
    ),
    Mutation(
        "fcfs: the youngest first", "queues.py", "order.within_line(self.settings.policy, job.order_s)", "-job.order_at"
    ),
    Mutation("sjf: the longest first", "order.py", "            return estimate\n", "            return -estimate\n"),
    Mutation("saf: the size does not count", "order.py", "return estimate * size", "return estimate"),
    Mutation("wfp3: not to the third power", "order.py", "((wait_s / estimate) ** 3)", "(wait_s / estimate)"),
    Mutation(
        "guard: nobody is guarded",
        "order.py",
        'policy == "slowdown" and guard is not None',
        'policy == "" and guard is not None',
    ),
    Mutation("priority: the lowest first", "queues.py", "LineKey(-job.priority,", "LineKey(job.priority,"),
    Mutation(
        "fair share: weights do not count", "shares.py", "return largest / max(weight, WEIGHT_MIN)", "return largest"
    ),
    Mutation("fair share: use of the past does not decay", "shares.py", "kept = 2.0 **", "kept = 1.0 **"),
    Mutation(
        "fair share: teams do not count",
        "placing.py",
        "(own and its, its_share, queue.team, own, own_share, queue.name)",
        '(own and its, 0.0, "", own, own_share, queue.name)',
    ),
    Mutation(
        "limits: one GPU too many",
        "limits.py",
        "has + asked > gpus_max * MILLI",
        "has + asked > (gpus_max + 1) * MILLI",
    ),
    Mutation(
        "limits: users do not count", "limits.py", "of_user = queue.users.get(user) or Held()", "of_user = Held()"
    ),
    Mutation(
        "backfill: reservations may be delayed", "placing.py", "if self.plan.restricts else None", "if False else None"
    ),
    Mutation(
        "backfill: one reservation too many",
        "placing.py",
        "len(plan.reservations) < self._settings.backfill_depth",
        "len(plan.reservations) <= self._settings.backfill_depth",
    ),
    Mutation(
        "guarantees: what is firm may take them",
        "limits.py",
        "job.specification.preemptible or self.is_guaranteed(queue, shape)",
        "True",
    ),
    Mutation(
        "preemption: nothing is kept",
        "placing.py",
        "                self.plan.pin(job, claim.nodes)\n",
        "                pass\n",
    ),
    Mutation(
        "preemption: who runs for a moment may end",
        "preemption.py",
        "(at := job.begun_at + self._min_run_s) > self._moment.now",
        "(at := 0.0) > 0.0",
    ),
    Mutation(
        "preemption: the dearest first",
        "preemption.py",
        "key=lambda job: (self._cost(job), job.id)",
        "key=lambda job: (-self._cost(job), job.id)",
    ),
    Mutation(
        "preemption: it costs a try",
        "truth.py",
        "is_excused = (bool(job.stop_why) or _is_of_hardware(fact)) and not has_failed",
        "is_excused = False",
    ),
    Mutation(
        "GPUs: who holds a broken one runs on",
        "gpu_faults.py",
        "if fault.ends and fault.gpu in held",
        "if False",
    ),
    Mutation(
        "GPUs: wear stops who runs",
        "gpu_faults.py",
        "if fault.ends and fault.gpu in held",
        "if fault.gpu in held",
    ),
    Mutation(
        "GPUs: a node's word counts only when it is in the ledger",
        "gpu_faults.py",
        "for fault in (*faults, *standing(faults, claims, repaired)):",
        "for fault in faults:",
    ),
    Mutation(
        "GPUs: a runner that forgets an event heals",
        "gpu_faults.py",
        "in said if fault.stands else fault.boot == claims.boot",
        "in said",
    ),
    Mutation(
        "GPUs: a restart heals nothing",
        "gpu_faults.py",
        "in said if fault.stands else fault.boot == claims.boot",
        "in said if fault.stands else True",
    ),
    Mutation(
        "GPUs: a repair is forgotten with the next exchange",
        "gpu_faults.py",
        "if fault.stands or fault.since_at > repaired.get(fault.gpu, -math.inf)",
        "if True",
    ),
    Mutation(
        "GPUs: a repair heals what is seen still",
        "gpu_faults.py",
        "if fault.stands or fault.since_at > repaired",
        "if fault.since_at > repaired",
    ),
    Mutation(
        "GPUs: a broken one is given away",
        "nodes.py",
        "gpus=indices(node.idle_gpus)[: shape.gpus]",
        "gpus=indices(node.free_gpus)[: shape.gpus]",
    ),
    Mutation(
        "GPUs: parts of a broken one are given away",
        "nodes.py",
        "        if not self.unfit_gpus:\n            return self.shared\n",
        "        if True:\n            return self.shared\n",
    ),
    Mutation(
        "GPUs: who ends gives a broken one back",
        "nodes.py",
        "        if not self.unfit_gpus:\n            return job.shape.gpus\n",
        "        if True:\n            return job.shape.gpus\n",
    ),
    Mutation(
        "GPUs: a node is as large as ever",
        "nodes.py",
        "(0 if repaired else self.unfit_gpus.bit_count())",
        "0",
    ),
    Mutation(
        "GPUs: somebody is preempted for a broken one",
        "preemption.py",
        "if index < gpus and not unfit >> index & 1)",
        "if index < gpus)",
    ),
    Mutation(
        "GPUs: a program that failed of one has failed",
        "ends.py",
        "    is_broken = met_a_broken_gpu(end)\n",
        "    is_broken = False\n",
    ),
    Mutation(
        "GPUs: to fail of one costs a try",
        "truth.py",
        "(bool(job.stop_why) or _is_of_hardware(fact))",
        "bool(job.stop_why)",
    ),
    Mutation(
        "GPUs: of a gang the rank that failed first decides",
        "parts.py",
        "    broke_off += [each for each in by_itself if met_a_broken_gpu(each[1])]\n",
        "",
    ),
    Mutation(
        "gangs: half of one may start",
        "nodes.py",
        "if len(found) == shape.nodes:",
        "if found:",
    ),
    Mutation(
        "gangs: a part that fails leaves the others alone",
        "jobs.py",
        "return not any(part.is_broken for where, part in parts.items() if where != node)",
        "return True",
    ),
    Mutation(
        "gangs: they start when one part is ready",
        "parts.py",
        "            is_ready = False\n",
        "            pass\n",
    ),
    Mutation(
        "gangs: who begins later meets elsewhere",
        "parts.py",
        "if live is not None and live.meeting",
        "if False and live.meeting",
    ),
    Mutation(
        "gangs: nobody is told that all are ready",
        "core.py",
        "            self._truth.changed.update(dict.fromkeys(job.nodes, True))\n",
        "            pass\n",
    ),
    Mutation(
        "gangs: what a runner has lost is ready still", "core.py", "        if part.is_ready:", "        if False:"
    ),
    Mutation(
        "gangs: a node's fault is the program's when peers are heard of sooner",
        "parts.py",
        "min(broke_off or by_itself or failed",
        "min(by_itself or failed",
    ),
    Mutation("gangs: who fails since it is preempted has failed", "parts.py", "if stopping or each", "if each"),
    Mutation("gangs: who lingers has not failed first", "parts.py", "each[1].exited_at or each[1]", "each[1]"),
    Mutation(
        "gangs: over when one part is",
        "core.py",
        "if not all(part.is_over for _, part in parts):",
        "if not any(part.is_over for _, part in parts):",
    ),
    Mutation(
        "dependencies: a failure is as good as a success",
        "dependencies.py",
        '"ok": frozenset({"succeeded"})',
        '"ok": frozenset({"succeeded", "failed"})',
    ),
    Mutation("dependencies: nobody is freed", "dependencies.py", "list(self._waiting.pop(subject, {}).values())", "[]"),
    Mutation(
        "dependencies: waiting for another job counts as waiting in line",
        "dependencies.py",
        "job.order_at = max(job.order_at, at)",
        "pass",
    ),
    Mutation("begin: at once", "truth.py", "early=begin_at > entry.at", "early=False"),
    Mutation("deadline: never over", "waiting.py", "job.is_overdue = True", "job.is_overdue = False"),
    Mutation("deadline: time limits do not count", "jobs.py", "deadline_at - (limit_s or 0.0)", "deadline_at"),
    Mutation("retries: one too many", "ends.py", "job.failures < retries", "job.failures <= retries"),
    Mutation(
        "retries: they cost a try",
        "jobs.py",
        "self.life.attempt - self.failures - self.excused",
        "self.life.attempt - self.excused",
    ),
    Mutation("arrays: all at once", "jobs.py", "and len(self.tasks) < self.at_once", ""),
    Mutation(
        "arrays: what was not written is not placed again",
        "jobs.py",
        "            self.assumed.discard(position)\n",
        "            pass\n",
    ),
    Mutation("arrays: over with the first task", "arrays.py", "    if array.tasks:\n", "    if False:\n"),
    Mutation(
        "arrays: a cancel lets run what runs",
        "arrays.py",
        "if not job.cancelled_by or job.life.state",
        "if job.life.state",
    ),
    Mutation(
        "arrays: the newest index first",
        "jobs.py",
        "self.cursor = max(self.cursor, self.first)",
        "self.cursor = len(self.indices) - 1 - len(self.tasks)",
    ),
)


def main() -> int:
    return command("core_mutations", MUTATIONS, folder=FOLDER, tests=TESTS)


def command(name: str, mutations: Sequence[Mutation], *, folder: str, tests: Sequence[str]) -> int:
    """The command line. Gives the exit status: 1 if one is found by no test."""
    parser = argparse.ArgumentParser(prog=f"python -m load_tests.{name}")
    parser.add_argument("--only", default="", help="mutations with this in their name")
    parser.add_argument("--list", action="store_true", help="only look whether each can still be made")
    options = parser.parse_args()
    chosen = [mutation for mutation in mutations if options.only in mutation.name]
    for mutation in chosen:
        if mutation.what not in (REPOSITORY / folder / mutation.file).read_text():
            raise SystemExit(f"mutation {mutation.name!r}: {mutation.file} does not hold {mutation.what!r} any more")
    found = {}
    for mutation in () if options.list else chosen:
        found[mutation.name] = each = play(mutation, folder=folder, tests=tests)
        print(f"{mutation.name}: {each['by'] or 'NOT FOUND'} ({each['seconds']} s)", flush=True)
    figures = {"mutations": len(chosen), "found": sum(bool(each["by"]) for each in found.values()), "by": found}
    report(name, figures, {})
    return 0 if options.list or all(each["by"] for each in found.values()) else 1


def play(mutation: Mutation, *, folder: str, tests: Sequence[str]) -> dict[str, Any]:
    """The first test that fails; none: empty. `folder` holds the mutation's file."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hr-core-") as copy:
        tree = Path(copy)
        for name in COPIED:
            source = REPOSITORY / name
            if source.is_dir():
                shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, tree / name)
        file = tree / folder / mutation.file
        file.write_text(file.read_text().replace(mutation.what, mutation.instead))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", *tests]
        command += ["--hypothesis-profile=first"]  # what fails first is enough, however long it is
        environ = os.environ | {"PYTHONPATH": str(tree)}
        ran = subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True, check=False)
    if ran.returncode not in (0, 1):  # pytest's for "all passed" and "some failed"
        raise RuntimeError(f"mutation {mutation.name!r}: the tests did not run: {ran.stdout[-1000:]}")
    failed = [line.removeprefix("FAILED ").split(" - ")[0] for line in ran.stdout.splitlines() if "FAILED" in line]
    return {"by": failed[0] if failed else "", "seconds": round(time.monotonic() - begun)}


if __name__ == "__main__":
    sys.exit(main())
