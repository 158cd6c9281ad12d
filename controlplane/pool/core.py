"""Which machines a pod of ours should stand on, and what the scheduler should hear of them. Pure, level-triggered.

The whole of what Kubernetes shows goes in, one desired RayCluster comes out. A machine is

    free ──▶ member ──▶ leaving ──▶ free
      joins when it is ready, nothing speaks against it, and most of it is free;
      leaves when it is cordoned, has a notice or is reserved no more: the scheduler places nothing more on it (with a
      notice, it stops what runs there); as soon as nothing runs there, it is let go;
      one that is gone is let go at once.

KubeRay makes as many pods of a group as it has replicas. When there are more it deletes the ones that are named
(`workersToDelete`), and if that is not enough, any (ray-project/kuberay `reconcilePods`, issue 1936). So that never a
healthy one is deleted:

* whoever lowers the replicas names as many pods in the same write;
* replicas are lowered only when as many pods of the group live as it has replicas, in a list of this very moment: one
  that is just being made, also in the place of one that is about to be gone, has no name yet;
* a pod that was made by an older list of machines, and has none of them left, is named for another to be made;
* a name stays until its pod is gone, and `NAMED_S` longer, since what KubeRay knows may be older than what we know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from msgspec import structs

from controlplane.pool import raycluster
from controlplane.pool.machines import GIB, Amounts, Machine, Worker
from controlplane.pool.raycluster import Cluster, Group, Settings, Shape, shape_of
from controlplane.pool.standing import BY, UPGRADE, Say, Standing, change, leaves, wanted_of
from controlplane.pool.upgrade import Member, Step, held, next_step
from events import messages as m

NAMED_S: Final = 30.0
"""How long a pod is still named after it is gone."""
ASKED_S: Final = 60.0
"""How long it is gone by what other pods ask for, while a machine does not join because of it."""
FREE_MIN: Final = 0.5
"""Of its CPUs and of its memory, for a machine to be of use to us."""


class Write(NamedTuple):
    """Apply this, provided that the RayCluster is still at this version (empty: that there is none)."""

    body: dict[str, Any]
    version: str
    why: str
    """The first field that is not as it should be."""
    afresh: bool
    """Whether a group shall have fewer replicas, or other pods are named than before. Decide it anew, by a list of pods
    of this very moment: what watches say may be late, and a pod that nobody here has seen makes one too many, or one
    that seems to stand nowhere has jobs by now."""

    def lost_in(self, answer: Mapping[str, Any]) -> str:
        """Why this must not be written, if the API server makes that of it; empty: nothing.

        A server drops a field that the CRD does not know and says nothing, and the pods of a RayCluster without
        `authOptions` let everybody in. So each write is tried first, and one that would not be kept is not made.
        """
        path = raycluster.differs(self.body, answer)
        return f"the API server does not keep {path} as it should be: {raycluster.TOO_OLD}" if path else ""


class Decisions(NamedTuple):
    write: Write | None
    say: tuple[Say, ...]
    look_at_pods: bool
    """Whether it must be known what other pods ask for: a machine might join."""

    @property
    def drains_for_upgrade(self) -> bool:
        """Whether a node is to be drained for a new pod. Decide it anew, by the RayCluster and the pods of this moment:
        another one may have begun.
        """
        return any(isinstance(say.change, m.DrainNode) and say.change.why == UPGRADE for say in self.say)


class Reserved:
    """What was seen of Kubernetes, and what follows from it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.machines: dict[str, Machine] = {}
        self.workers: dict[str, Worker] = {}
        self.cluster: Cluster | None = None
        self._has_machines = self._has_workers = self._has_cluster = False
        """Whether each has been seen once. The cluster before the pods: who is named in it and not among these is gone.
        """
        self._asked_of: dict[str, Amounts] | None = None
        """What other pods ask for of each machine; None: not known, or not any more."""
        self._asked_at = 0.0
        self._kept_out = False
        """Whether a machine does not join because of what other pods ask for."""
        self._standing: Mapping[str, Standing] | None = None
        """None: the scheduler has not been heard since we lead, and whatever may run somewhere is left alone."""
        self._by_host: dict[str, Machine] = {}
        self._hosts: dict[str, str] = {}
        """Of every node that was ever seen: its host's name."""
        self._gone_at: dict[str, float] = {}
        """When a named pod was first seen to be gone."""
        self._to_give_up: dict[str, None] = {}
        """Nodes that are gone, until the scheduler knows."""
        self._since: dict[str, float] = {}
        """Of each ready pod: when the scheduler had heard its node last, by its first word after we saw that."""
        self._heard: set[str] = set()
        """Pods whose runner was heard since."""
        self._named: dict[str, tuple[str, set[str]]] = {}
        """By host: for which template pods were named, and which."""
        self.problems: dict[str, str] = {}
        """Of machines (by name), groups and the cluster, for a person."""

    # -- what was seen -----------------------------------------------------------------------------------------------

    def on_machines(self, machines: Iterable[Machine]) -> None:
        """A list of all of them, in the place of what was known: who is not in it is gone."""
        listed = {machine.name: machine for machine in machines}
        for machine in listed.values():
            self.on_machine(machine)
        for name in self.machines.keys() - listed.keys():
            self.on_machine_gone(name)
        self._has_machines = True

    def on_workers(self, workers: Iterable[Worker]) -> None:
        """A list of all pods of ours, in the place of what was known."""
        self.workers = {one.name: one for one in workers}
        self._has_workers = True

    def on_machine(self, machine: Machine) -> None:
        """Also one that was made anew under its name: what ran on the old one, the boot id of the new one tells. Who
        would give it up by its name might give up what runs on the new one.
        """
        before = self.machines.get(machine.name)
        self.machines[machine.name] = machine
        self._hosts[machine.name] = machine.host
        self._to_give_up.pop(machine.name, None)
        if before is None or (before.allocatable, before.uid) != (machine.allocatable, machine.uid):
            self._asked_of = None

    def on_machine_gone(self, name: str) -> None:
        if self.machines.pop(name, None) is not None:
            self._to_give_up[name] = None

    def on_worker(self, worker: Worker) -> None:
        self.workers[worker.name] = worker

    def on_worker_gone(self, name: str) -> None:
        self.workers.pop(name, None)

    def on_cluster(self, cluster: Cluster | None, *, listed: bool = False) -> None:
        """What a watch or an answer said: older than what is known, it is passed over. A list is always right.

        If somebody else has written groups that cannot be read, ours are as they were before.
        """
        known = self.cluster
        self._has_cluster = True
        if cluster is None or known is None or cluster.uid != known.uid:
            self.cluster = cluster
        elif listed or cluster.generation >= known.generation:
            is_lost = bool(cluster.malformed) and not known.malformed
            self.cluster = structs.replace(cluster, groups=known.groups, malformed="") if is_lost else cluster

    def on_pods(self, asked_of: Mapping[str, Amounts], now: float) -> None:
        """What all pods but ours ask for, by node."""
        self._asked_of, self._asked_at = dict(asked_of), now

    def on_standing(self, standing: Mapping[str, Standing]) -> bool:
        """Gives whether anything in it is new to us."""
        before, heard = self._standing, len(self._heard)
        self._standing = standing
        for name in [*self._to_give_up]:
            if name not in standing or standing[name].state == "gone":
                del self._to_give_up[name]
        self._listen(standing)
        return before is None or _but_for_time(before) != _but_for_time(standing) or len(self._heard) != heard

    def on_lead(self) -> None:
        """What the scheduler said before we led no more may be long over. Until it was asked, all counts as busy."""
        self._standing = None

    def _listen(self, standing: Mapping[str, Standing]) -> None:
        """Whose runner was heard since its pod is ready. No clocks are compared: what the scheduler says first may be
        from before; what is newer than that is from a runner in that pod.
        """
        ready = {pod.name: pod.node for pod in self.workers.values() if pod.ready and pod.node and _lives(pod)}
        self._heard &= ready.keys()
        self._since = {name: at for name, at in self._since.items() if name in ready}
        for name, node in ready.items():
            its = standing.get(node, Standing("gone"))
            if its.seen_at > self._since.setdefault(name, its.seen_at) and its.state not in {"gone", "suspected"}:
                self._heard.add(name)

    # -- what follows ------------------------------------------------------------------------------------------------

    def decide(self, now: float) -> Decisions:
        """What to do now; nothing that is done already."""
        if not (self._has_cluster and self._has_workers and self._has_machines):
            return Decisions(None, (), look_at_pods=False)
        self.problems = {name: machine.problem for name, machine in self.machines.items() if machine.problem}
        self._by_host = {machine.host: machine for machine in self.machines.values()}
        members = tuple(self._members())
        say = tuple(self._say(members))
        wrong = (self.cluster.problem or self.cluster.malformed) if self.cluster is not None else ""
        if wrong:
            self.problems[self._settings.name] = wrong
            return Decisions(None, say, look_at_pods=False)
        candidates = self._candidates()
        joining = self._joining(candidates) if self._asked_of is not None else {}
        self._kept_out = len(candidates) > sum(map(len, joining.values()))
        step = self._upgrade(members)
        if step.drain:
            say = (*say, Say(step.drain, m.DrainNode(why=UPGRADE, stop=True)))
        write = self._write(tuple(self._groups(joining, step, now)))
        is_known = self._asked_of is not None and now < self._asked_at + ASKED_S
        return Decisions(write, say, look_at_pods=self._kept_out and not is_known)

    def wake_at(self) -> float | None:
        """When to decide again though nothing happens: a name may be dropped, or a machine may be free by now."""
        times = [at + NAMED_S for at in self._gone_at.values()]
        if self._kept_out and self._asked_of is not None:
            times.append(self._asked_at + ASKED_S)
        return min(times, default=None)

    def _write(self, groups: Sequence[Group]) -> Write | None:
        body = raycluster.render(self._settings, groups)
        if self.cluster is None:
            return Write(body, "", "$", afresh=False)
        why = raycluster.differs(body, self.cluster.body)
        before = {group.shape: group for group in self.cluster.groups}
        afresh = any(
            group.replicas < known.replicas or known.deleting != group.deleting
            for group in groups
            if (known := before.get(group.shape)) is not None
        )
        return Write(body, self.cluster.version, why, afresh) if why else None

    def _members(self) -> Iterator[Member]:
        """Machines that a pod of ours stands on, or should, and that stay."""
        for group in self.cluster.groups if self.cluster is not None else ():
            wanted = raycluster.template_of(self._settings, group.shape)
            pods = [pod for pod in self.workers.values() if pod.group == group.shape.group and _lives(pod)]
            on = {self._host(pod.node): pod for pod in pods if pod.node and pod.name not in group.deleting}
            for host in group.hosts:
                machine = self._by_host.get(host)
                if machine is not None and not leaves(machine):
                    template, names = self._named.get(host, ("", set()))
                    pod, tries = on.get(host), len(names) if template == wanted else 0
                    its = (self._standing or {}).get(machine.name)
                    yield Member(machine, pod, wanted, its, pod is not None and pod.name in self._heard, tries)

    def _upgrade(self, members: Sequence[Member]) -> Step:
        """What to do next so that all pods are as they should be. Nothing before the RayCluster says how that is, and
        before the scheduler was heard.
        """
        groups = self.cluster.groups if self.cluster is not None else ()
        if any(group.template != raycluster.template_of(self._settings, group.shape) for group in groups):
            return Step()
        step = next_step(members) if self._standing is not None else Step()
        if step.why:
            self.problems["upgrade"] = step.why
        if step.name:
            host, wanted = next((one.machine.host, one.wanted) for one in members if one.machine.name == step.at)
            template, names = self._named.get(host, ("", set()))
            self._named[host] = (wanted, (names if template == wanted else set()) | {step.name})
        return step

    def _groups(self, joining: Mapping[Shape, list[str]], step: Step, now: float) -> Iterator[Group]:
        """Every group as it should be."""
        known = {group.shape: group for group in (self.cluster.groups if self.cluster else ())}
        named = {name for group in known.values() for name in group.deleting}
        self._gone_at = {name: at for name, at in self._gone_at.items() if name in named}
        members = {host for group in known.values() for host in group.hosts}
        for shape in sorted({*known, *joining}):
            group = known.get(shape, Group(shape=shape))
            yield self._group(group, members, joining.get(shape, []), step, now)

    def _group(self, group: Group, members: set[str], joining: Sequence[str], step: Step, now: float) -> Group:
        deleting = {name for name in group.deleting if not self._is_forgotten(name, now)}
        pods = [pod for pod in self.workers.values() if pod.group == group.shape.group and pod.name not in deleting]
        hosts = {*group.hosts, *self._adopted(pods, members)}
        if sum(map(_lives, pods)) >= group.replicas:
            let_go, names = self._let_go(hosts, pods)
            hosts, deleting = hosts - let_go, deleting | names
        elif any(map(self._is_let_go, hosts)):
            self.problems[group.shape.group] = "lets go of machines as soon as all pods of this group live"
        hosts |= {*joining}
        deleting |= self._stuck(hosts, pods)
        deleting |= {pod.name for pod in pods if pod.name == step.name}
        return Group(
            shape=group.shape, hosts=tuple(sorted(hosts)), replicas=len(hosts), deleting=tuple(sorted(deleting))
        )

    def _let_go(self, hosts: set[str], pods: Sequence[Worker]) -> tuple[set[str], set[str]]:
        """Hosts that are members no more, and the pods that go with them.

        A pod that stands nowhere yet may be about to stand on any host that lacks one. So one of these goes only when
        no host that stays lacks a pod.
        """
        on = {self._host(pod.node): pod for pod in pods if pod.node}
        lives_on = {host for host, pod in on.items() if _lives(pod)}
        leaving = {host for host in hosts if self._is_let_go(host)}
        let_go = leaving & lives_on
        names = {pod.name for pod in pods if pod.node and self._host(pod.node) not in hosts}
        if hosts - leaving <= lives_on:
            let_go = leaving
            names |= {pod.name for pod in pods if not pod.node}
        return let_go, names | {on[host].name for host in let_go & on.keys()}

    def _stuck(self, hosts: set[str], pods: Sequence[Worker]) -> set[str]:
        """Pods that were made by an older list of names, on which no host is left that lacks one: they would pend for
        ever. KubeRay makes others in their place, by the list of today.
        """
        free = hosts - {self._host(pod.node) for pod in pods if pod.node}
        return {pod.name for pod in pods if not pod.node and _lives(pod) and pod.hosts and free.isdisjoint(pod.hosts)}

    def _adopted(self, pods: Sequence[Worker], members: set[str]) -> set[str]:
        """Hosts on which a pod stands by an older list of names, and where jobs may run by now: they are members."""
        live = (self._host(pod.node) for pod in pods if pod.node and _lives(pod))
        return {host for host in live if host in self._by_host and host not in members}

    def _is_forgotten(self, name: str, now: float) -> bool:
        """Whether a named pod has been gone for so long that KubeRay must know."""
        if name in self.workers:
            self._gone_at.pop(name, None)
            return False
        return now >= self._gone_at.setdefault(name, now) + NAMED_S

    def _is_let_go(self, host: str) -> bool:
        """Whether a member's pod is to be deleted now."""
        machine = self._by_host.get(host)
        return machine is None or (leaves(machine) and not self._is_busy(machine.name))

    def _is_busy(self, node: str) -> bool:
        """Whether attempts live there, or may be placed there."""
        if self._standing is None:
            return True
        standing = self._standing.get(node)
        return standing is not None and (standing.busy or standing.state in {"ready", "suspected"})

    def _candidates(self) -> list[Machine]:
        """Machines that might join."""
        members = {host for group in (self.cluster.groups if self.cluster else ()) for host in group.hosts}
        taken = {self._host(pod.node) for pod in self.workers.values() if pod.node}
        found = []
        for machine in self.machines.values():
            if machine.host in members or machine.host in taken or machine.problem:
                continue
            if machine.cordoned or not machine.reserved:
                continue
            if machine.notice or machine.blocked:
                self.problems[machine.name] = machine.notice or machine.blocked
            elif machine.ready:
                found.append(machine)
        return found

    def _joining(self, candidates: Sequence[Machine]) -> dict[Shape, list[str]]:
        joining: dict[Shape, list[str]] = {}
        for machine in candidates:
            asked, has = (self._asked_of or {}).get(machine.name, Amounts()), machine.allocatable
            left = Amounts(
                has.milli_cpus - asked.milli_cpus, has.memory_bytes - asked.memory_bytes, has.gpus - asked.gpus
            )
            shape = shape_of(left, machine.gpu_model)
            if (
                asked.gpus
                or left.milli_cpus < FREE_MIN * has.milli_cpus
                or left.memory_bytes < FREE_MIN * has.memory_bytes
                or not (shape.amounts.milli_cpus and shape.amounts.memory_bytes)
            ):
                self.problems[machine.name] = (
                    f"other pods ask for {asked.milli_cpus / 1000:g} of {has.milli_cpus / 1000:g} CPUs, "
                    f"{asked.memory_bytes / GIB:.1f} of {has.memory_bytes / GIB:.1f} GiB and "
                    f"{asked.gpus} of {has.gpus} GPUs: it joins when at least half of it is free, and all GPUs"
                )
                continue
            joining.setdefault(shape, []).append(machine.host)
        return joining

    def _say(self, members: Sequence[Member]) -> Iterator[Say]:
        """What the scheduler does not know yet of machines that it has a node on."""
        hosts = {host for group in (self.cluster.groups if self.cluster else ()) for host in group.hosts}
        upgraded = held(members)
        for name, standing in (self._standing or {}).items():
            machine = self.machines.get(name)
            if standing.state == "gone":
                continue
            if name in self._to_give_up or (name in hosts and name not in self._by_host):
                yield Say(name, m.GiveUpNode(why="Kubernetes has this machine no more"))
            elif machine is not None and (said := change(wanted_of(machine), standing, by=BY)) is not None:
                is_early = isinstance(said, m.UncordonNode) and name in upgraded
                if not is_early:
                    yield Say(name, said)

    def _host(self, node: str) -> str:
        return self._hosts.get(node, node)

    def check(self) -> None:
        """Raises AssertionError if what is known contradicts itself."""
        assert all(name == machine.name for name, machine in self.machines.items()), "a machine under another's name"
        assert not self.machines.keys() - self._hosts.keys(), "a machine whose host is not known"
        if self.cluster is not None and not self.cluster.problem:
            hosts = [host for group in self.cluster.groups for host in group.hosts]
            assert len(hosts) == len(set(hosts)), "a host in two groups"


def _lives(pod: Worker) -> bool:
    return not pod.terminating and not pod.is_over


def _but_for_time(standing: Mapping[str, Standing]) -> dict[str, Standing]:
    return {name: one._replace(seen_at=0.0) for name, one in standing.items()}
