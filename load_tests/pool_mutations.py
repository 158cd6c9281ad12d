"""Breaks the pool's core in one place at a time, for its tests to find: `python -m load_tests.pool_mutations`."""

from __future__ import annotations

import sys
from typing import Final

from load_tests.core_mutations import Mutation, command

FOLDER: Final = "controlplane/pool"
TESTS: Final = ("tests/unit/pool/test_against_kuberay.py", "tests/unit/pool")
MUTATIONS: Final = (
    Mutation(
        "workersToDelete: cleared while its pod ends",
        "core.py",
        "deleting=tuple(sorted(deleting))",
        "deleting=tuple(sorted(one for one in deleting if one in self.workers and _lives(self.workers[one])))",
    ),
    Mutation("workersToDelete: cleared at once", "core.py", "now) + NAMED_S\n", "now)\n"),
    Mutation(
        "replicas: lowered one write late",
        "core.py",
        "replicas=len(hosts), deleting",
        "replicas=max(len(hosts), group.replicas) if deleting - {*group.deleting} else len(hosts), deleting",
    ),
    Mutation(
        "replicas: lowered while a pod is being made",
        "core.py",
        "if sum(map(_lives, pods)) >= group.replicas:",
        "if True:",
    ),
    Mutation(
        "replicas: lowered while a pod is being replaced",
        "core.py",
        "if sum(map(_lives, pods)) >= group.replicas:",
        "if len(pods) >= group.replicas:",
    ),
    Mutation(
        "replicas: lowered by what a watch said",
        "core.py",
        "        afresh = any(\n",
        "        afresh = False and any(\n",
    ),
    Mutation("names given and dropped by what a watch said", "core.py", " or known.deleting != group.deleting", ""),
    Mutation(
        "guard: off",
        "core.py",
        "return Write(body, self.cluster.version, why, afresh) if why else None",
        'return Write(body, "", why, afresh) if why else None',
    ),
    Mutation(
        "a pod that stands nowhere may be any",
        "core.py",
        "        if hosts - leaving <= lives_on:\n",
        "        if True:\n",
    ),
    Mutation(
        "a pod of an older list without a machine pends for ever",
        "core.py",
        "        deleting |= self._stuck(hosts, pods)\n",
        "",
    ),
    Mutation(
        "a pod of an older list is not adopted",
        "core.py",
        "return {host for host in live if host in self._by_host and host not in members}",
        "return set()",
    ),
    Mutation(
        "let go while jobs run there",
        "core.py",
        "(_leaves(machine) and not self._is_busy(machine.name))",
        "_leaves(machine)",
    ),
    Mutation(
        "let go before the scheduler was heard",
        "core.py",
        "        if self._standing is None:\n            return True\n",
        "        if self._standing is None:\n            return False\n",
    ),
    Mutation("joins where a pod of ours still ends", "core.py", " or machine.host in taken", ""),
    Mutation("a group without machines is removed", "core.py", "sorted({*known, *joining})", "sorted(joining)"),
    Mutation(
        "what a watch says late counts", "core.py", "elif listed or cluster.generation >= known.generation:", "else:"
    ),
)


def main() -> int:
    return command("pool_mutations", MUTATIONS, folder=FOLDER, tests=TESTS)


if __name__ == "__main__":
    sys.exit(main())
