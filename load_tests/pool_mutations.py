"""Breaks the pool's core in one place at a time, for its tests to find: `python -m load_tests.pool_mutations`."""

from __future__ import annotations

import sys
from typing import Final

from load_tests.core_mutations import Mutation, command

FOLDER: Final = "controlplane/pool"
FIRST: Final = ("test_core", "test_upgrade", "test_raycluster", "test_against_kuberay")
"""Seconds, and then a minute of random walks."""
TESTS: Final = (*(f"tests/unit/pool/{name}.py" for name in FIRST), "tests/unit/pool")
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
        "(leaves(machine) and not self._is_busy(machine.name))",
        "leaves(machine)",
    ),
    Mutation(
        "let go before the scheduler was heard",
        "core.py",
        "        if self._standing is None:\n            return True\n",
        "        if self._standing is None:\n            return False\n",
    ),
    Mutation(
        "let go by what the scheduler said to a leader of before",
        "core.py",
        'all counts as busy."""\n        self._standing = None\n',
        'all counts as busy."""\n',
    ),
    Mutation("joins where a pod of ours still ends", "core.py", " or machine.host in taken", ""),
    Mutation("a group without machines is removed", "core.py", "sorted({*known, *joining})", "sorted(joining)"),
    Mutation("upgrade: a pod is named while jobs run there", "upgrade.py", " and not standing.busy)\n", ")\n"),
    Mutation("upgrade: a pod is named on an open node", "upgrade.py", "if chosen.is_closed:", "if True:"),
    Mutation(
        "upgrade: a second one begins while a new pod does not work",
        "upgrade.py",
        'if not (one.is_outdated or one.is_new)), "")',
        'if one.pod is None), "")',
    ),
    Mutation(
        "upgrade: a second one begins while a pod is missing",
        "upgrade.py",
        'if not (one.is_outdated or one.is_new)), "")',
        'if one.pod is not None and not (one.is_outdated or one.is_new)), "")',
    ),
    Mutation(
        "upgrade: one that was begun is forgotten",
        "upgrade.py",
        "begun = next((one for one in outdated if one.is_drained), None)",
        "begun = None",
    ),
    Mutation(
        "upgrade: begun by what a watch said",
        "core.py",
        "return any(isinstance(say.change, m.DrainNode) and say.change.why == UPGRADE for say in self.say)",
        "return False",
    ),
    Mutation(
        "upgrade: opened before the new pod works",
        "core.py",
        "        upgraded = held(members)\n",
        "        upgraded: set[str] = set()\n",
    ),
    Mutation(
        "upgrade: every node that was drained for it stays closed",
        "upgrade.py",
        "    return made or {one.machine.name for one in drained[:1]}\n",
        "    return {one.machine.name for one in drained}\n",
    ),
    Mutation(
        "upgrade: begun before the RayCluster says what is wanted",
        "core.py",
        "        if any(group.template != raycluster.template_of(self._settings, group.shape) for group in groups):\n",
        "        if False:\n",
    ),
    Mutation(
        "upgrade: a runner of before is taken for one of now",
        "core.py",
        "if its.seen_at > self",
        "if its.seen_at >= self",
    ),
    Mutation(
        "upgrade: the replicas are lowered for it",
        "core.py",
        "replicas=len(hosts), deleting",
        "replicas=len(hosts) - bool(step.name), deleting",
    ),
    Mutation(
        "upgrade: where a new pod could not be",
        "upgrade.py",
        "if machine.blocked or machine.problem",
        "if machine.problem",
    ),
    Mutation(
        "a node is opened that somebody else cordoned", "standing.py", ' and standing.cordoned_by in {"", by}', ""
    ),
    Mutation("a drain takes the place of somebody else's", "standing.py", ' or standing.draining_by != ""', ""),
    Mutation("upgrade: without an end", "upgrade.py", "if member.tries >= TRIES_MAX:", "if False:"),
    Mutation("upgrade: over two versions of Ray", "upgrade.py", "if before and before != after:", "if False:"),
    Mutation(
        "what the server drops without a word is taken for written",
        "core.py",
        "        path = raycluster.differs(self.body, answer)\n",
        '        path = ""\n',
    ),
    Mutation(
        "the head's volume is not writable for its user",
        "raycluster.py",
        '        "securityContext": {"fsGroup": USER, "fsGroupChangePolicy": "OnRootMismatch"},\n',
        "",
    ),
    Mutation(
        "nodes do not wait for a head that keeps what it knows",
        "raycluster.py",
        "*([WAITS_FOR_HEAD] if keeps else [])",
        "*([WAITS_FOR_HEAD] if not keeps else [])",
    ),
    Mutation("Ray starts without a token", "raycluster.py", '"env": [DEMANDS_TOKEN],', '"env": [],'),
    Mutation(
        "what a watch says late counts", "core.py", "elif listed or cluster.generation >= known.generation:", "else:"
    ),
)


def main() -> int:
    return command("pool_mutations", MUTATIONS, folder=FOLDER, tests=TESTS)


if __name__ == "__main__":
    sys.exit(main())
