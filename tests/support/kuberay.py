"""A dumb Kubernetes with KubeRay in it, for tests of `controlplane.pool.core`: random events, in any order.

KubeRay's part follows `reconcilePods` and `expectations/scale_expectations.go` (ray-project/kuberay, commit feeaf72):
it deletes what is over, then what is named, and makes or deletes as many as are missing or too many, any of them; a
group in which it waits for a pod of its own making or deleting to appear or to be gone is left alone; that is forgotten
when it restarts. Everybody sees each kind of object in order, but late.

In two things KubeRay is not late here. It knows of a pod that somebody else has removed: one that it is told to
delete, and that is not there any more, it takes for one that runs as long as its cache has it, and deletes another in
its place. And it has heard of our writes before a pod dies that lived when they were made. What it is told reaches it
in milliseconds; the garbage collector waits 40 s before it removes the pods of a machine that is gone.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from typing import Any

import msgspec

from controlplane.pool import machines, raycluster
from controlplane.pool.core import Reserved, Write
from controlplane.pool.machines import GIB, Amounts
from controlplane.pool.raycluster import Settings
from controlplane.pool.standing import UPGRADE, Say, Standing
from events import messages as m

SETTINGS = Settings(
    name="pool", namespace="headrace", pool="research", node_image="node:1", ray_version="2.60.0", token_secret="token"
)
IMAGES = ("node:1", "node:2", "node:bad")
"""The last one never works."""
SHAPES = ((96_000, 768 * GIB, 8), (32_000, 128 * GIB, 0))


class Pod:
    def __init__(self, name: str, group: str, hosts: tuple[str, ...], template: str = "", image: str = "") -> None:
        self.name, self.group, self.hosts, self.template, self.image = name, group, hosts, template, image
        self.node = ""
        self.terminating = self.is_over = self.ready = False
        self.pending_steps = 0

    def raw(self) -> dict[str, Any]:
        metadata: dict[str, Any] = {
            "name": self.name,
            "labels": {machines.GROUP_LABEL: self.group, machines.NODE_TYPE_LABEL: "worker"},
            "annotations": {machines.TEMPLATE: self.template},
        }
        if self.terminating:
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        named = {"key": machines.HOSTNAME, "operator": "In", "values": list(self.hosts)}
        terms = {"nodeSelectorTerms": [{"matchExpressions": [named]}]}
        affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
        status = {
            "phase": "Failed" if self.is_over else "Running" if self.node else "Pending",
            "conditions": [{"type": "Ready", "status": str(self.ready and not self.is_over)}],
        }
        return {
            "metadata": metadata,
            "spec": {"nodeName": self.node, "containers": [], "affinity": affinity},
            "status": status,
        }


class View:
    """What somebody has seen: a queue of what happened a kind, and the newest that has arrived of each."""

    def __init__(self) -> None:
        self.coming: dict[str, deque[tuple[str, Any]]] = {"node": deque(), "pod": deque(), "cluster": deque()}

    def deliver(self, dice: random.Random) -> tuple[str, str, Any] | None:
        kinds = [kind for kind, queue in self.coming.items() if queue]
        if not kinds:
            return None
        kind = dice.choice(kinds)
        return (kind, *self.coming[kind].popleft())


class Leader:
    """One of ours, that has just listed all there is."""

    def __init__(self, world: World) -> None:
        self.view = View()
        self.core = Reserved(world.settings)
        self.core.on_cluster(raycluster.read(world.cluster, SETTINGS) if world.cluster else None)
        self.core.on_workers(filter(None, (machines.worker(pod.raw()) for pod in world.pods.values())))
        self.core.on_machines(machines.machine(world.raw_node(name), SETTINGS.pool) for name in world.nodes)

    def hear(self, dice: random.Random) -> bool:
        event = self.view.deliver(dice)
        if event is None:
            return False
        kind, name, thing = event
        if kind == "pod":
            self.see_pod(name, thing)
        elif kind == "cluster":
            self.core.on_cluster(raycluster.read(thing, SETTINGS))
        elif thing is None:
            self.core.on_machine_gone(name)
        else:
            self.core.on_machine(machines.machine(thing, SETTINGS.pool))
        return True

    def see_pod(self, name: str, thing: Pod | None) -> None:
        worker = machines.worker(thing.raw()) if thing is not None else None
        if worker is None:
            self.core.on_worker_gone(name)
        else:
            self.core.on_worker(worker)

    def list_pods(self) -> None:
        """All of them, as of now."""
        while self.view.coming["pod"]:
            self.see_pod(*self.view.coming["pod"].popleft())

    def read_cluster(self) -> None:
        """As it is now."""
        while self.view.coming["cluster"]:
            self.core.on_cluster(raycluster.read(self.view.coming["cluster"].popleft()[1], SETTINGS))


class World:
    """`counted`: whether KubeRay counts a pod that is being deleted by somebody else as one that is there."""

    def __init__(self, dice: random.Random, *, counted: bool, wants: float = 0.3) -> None:
        """`wants`: how often another image is wanted, in a hundred steps or so."""
        self.dice, self.counted, self.wants = dice, counted, wants
        self.now = 1000.0
        self.nodes: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, Pod] = {}
        self.cluster: dict[str, Any] | None = None
        self.made = 0
        self.its = View()
        self.settings = SETTINGS
        """What is wanted of the RayCluster today."""
        self.leaders = (Leader(self), Leader(self))
        """One too many: each sees what it sees, and both write."""
        self.upgraded: set[str] = set()
        """Nodes that worked, and were drained or whose pod was named for a new template, and do not work again yet."""
        self.at_once = 0
        """The most of them that there were at one time."""
        self.upgrades = 0
        self.standing: dict[str, Standing] = {}
        self.seen_pods: dict[str, Pod] = {}
        self.seen_cluster: dict[str, Any] | None = None
        self.expected: dict[str, tuple[str, str]] = {}
        """KubeRay's: pod → (group, "create" or "delete")."""
        self.wrong: list[str] = []
        """Pods that were deleted although nobody had named them."""
        self.busy_deleted: list[str] = []
        self.writes = self.conflicts = 0
        self.pending_steps = 0

    # -- what happens ------------------------------------------------------------------------------------------------

    def tell(self, kind: str, name: str, thing: Any) -> None:
        for view in (self.its, *(leader.view for leader in self.leaders)):
            view.coming[kind].append((name, copy.deepcopy(thing)))

    def put_node(self, name: str, **changes: Any) -> None:
        node = self.nodes.get(name)
        if node is None:
            self.made += 1
            cpus, memory, gpus = SHAPES[self.dice.randrange(len(SHAPES))]
            allocatable = {"cpu": f"{cpus}m", "memory": str(memory), machines.GPU: str(gpus)}
            node = {"uid": f"u{self.made}", "allocatable": allocatable, "ready": True, "cordoned": False, "notice": ""}
        self.nodes[name] = node | changes
        self.tell("node", name, self.raw_node(name))

    def raw_node(self, name: str) -> dict[str, Any]:
        node = self.nodes[name]
        taints = [{"key": machines.NOTICES[0], "effect": "NoSchedule"}] if node["notice"] else []
        return {
            "metadata": {"name": name, "uid": node["uid"], "labels": {machines.POOL_LABEL: SETTINGS.pool}},
            "spec": {"unschedulable": node["cordoned"], "taints": taints},
            "status": {
                "allocatable": node["allocatable"],
                "conditions": [{"type": "Ready", "status": str(node["ready"])}],
            },
        }

    def drop_node(self, name: str) -> None:
        del self.nodes[name]
        self.tell("node", name, None)

    def put_pod(self, pod: Pod) -> None:
        self.pods[pod.name] = pod
        self.tell("pod", pod.name, pod)

    def step(self) -> None:
        """Anything that may happen, happens."""
        dice = self.dice
        self.now += dice.random() * 5
        name = f"node-{dice.randrange(8)}"
        does = dice.choices(
            [
                *("node", "gone", "change", "busy", "dies", "restart", "want", "kubelet"),
                *("hear", "it_hears", "decide", "reconcile"),
            ],
            [3, 1, 3, 4, 1, 3, self.wants, 8, 48, 24, 16, 12],
        )[0]
        if does == "node" and name not in self.nodes:
            self.put_node(name)
        elif does == "gone" and name in self.nodes:
            self.drop_node(name)
        elif does == "change" and name in self.nodes:
            self.put_node(name, **{dice.choice(["cordoned", "notice", "ready"]): dice.random() < 0.5})
        elif does == "busy":
            self.schedule(name)
        elif does == "dies" and self.pods:
            pod = self.pods[dice.choice(sorted(self.pods))]
            self.it_hears_of_writes()
            if dice.random() < 0.5:
                pod.is_over = True
            else:
                pod.terminating = True
            self.put_pod(pod)
        elif does == "restart":
            self.expected.clear()
            while self.it_hears():
                pass
        elif does == "want":
            self.want(dice.choice(IMAGES))
        elif does == "kubelet":
            self.kubernetes()
        elif does == "hear":
            dice.choice(self.leaders).hear(dice)
        elif does == "it_hears":
            self.it_hears()
        elif does == "decide":
            self.decide(dice.choice(self.leaders))
        elif does == "reconcile":
            self.reconcile()
        self.look_at_upgrades()

    def want(self, image: str) -> None:
        """An operator wants another image: our processes end, and others begin."""
        self.settings = msgspec.structs.replace(SETTINGS, node_image=image)
        self.leaders = (Leader(self), Leader(self))

    def begin_upgrade(self, node: str) -> None:
        """One that does not work is no loss."""
        self.look_at_upgrades()
        if any(pod.node == node and pod.ready and self.runs(pod) and not pod.terminating for pod in self.pods.values()):
            self.upgraded.add(node)
        self.at_once = max(self.at_once, len(self.upgraded))

    def look_at_upgrades(self) -> None:
        self.upgraded = {name for name in self.upgraded if not self.is_over_with(name)}

    def is_over_with(self, name: str) -> bool:
        """Whether it works again, or something else is wrong with it."""
        node = self.nodes.get(name)
        if node is None or node["cordoned"] or node["notice"] or not node["ready"]:
            return True
        standing = self.standing.get(name)
        return any(
            pod.node == name and pod.ready and not pod.terminating and self.runs(pod) for pod in self.pods.values()
        ) and not (standing is not None and standing.is_upgraded)

    def is_current(self, pod: Pod) -> bool:
        return pod.image == self.settings.node_image

    def schedule(self, name: str) -> None:
        """The scheduler places something on a node with a runner, or what was there is over."""
        standing = self.standing.get(name)
        if standing is None or standing.state == "gone":
            self.join(name)
        elif standing.busy:
            self.standing[name] = standing._replace(busy=False)
        elif standing.state == "ready":
            self.standing[name] = standing._replace(busy=True)

    def join(self, name: str) -> None:
        """If there is a runner, and the scheduler does not know it."""
        has_pod = any(pod.node == name and pod.ready and not pod.terminating for pod in self.pods.values())
        if has_pod and name in self.nodes and self.standing.get(name, Standing("gone")).state == "gone":
            self.standing[name] = Standing("ready", seen_at=self.now)

    def kubernetes(self) -> None:
        """Its scheduler, its garbage collector and its kubelets."""
        for pod in list(self.pods.values()):
            if pod.terminating and self.dice.random() < 0.2:
                del self.pods[pod.name]
                self.tell("pod", pod.name, None)
                if pod.name not in self.expected:
                    self.it_hears_of_pods()
            elif pod.node and pod.node not in self.nodes and not pod.terminating:
                self.it_hears_of_writes()
                pod.terminating = True
                self.put_pod(pod)
            elif not pod.node and not pod.terminating:
                taken = {other.node for other in self.pods.values()}
                free = [name for name in pod.hosts if self.takes(name) and name not in taken]
                if free:
                    pod.node = self.dice.choice(free)
                    self.put_pod(pod)
                else:
                    pod.pending_steps += 1
                    self.pending_steps += 1
            elif pod.ready != self.runs(pod) and not pod.terminating and self.dice.random() < 0.5:
                pod.ready = self.runs(pod)
                self.put_pod(pod)

    def is_at_rest(self, pod: Pod) -> bool:
        """Whether nothing is about to become of it by itself."""
        return not pod.terminating and self.is_current(pod) and pod.ready == self.runs(pod)

    def runs(self, pod: Pod) -> bool:
        node = self.nodes.get(pod.node)
        return node is not None and node["ready"] and not pod.is_over and pod.image != "node:bad"

    def hear_runners(self) -> None:
        """Those that run have spoken to the scheduler."""
        for pod in self.pods.values():
            standing = self.standing.get(pod.node)
            if pod.ready and not pod.terminating and not pod.is_over and standing is not None:
                self.standing[pod.node] = standing._replace(seen_at=self.now)

    def takes(self, name: str) -> bool:
        node = self.nodes.get(name)
        return node is not None and not node["notice"]

    # -- we -----------------------------------------------------------------------------------------------------------

    def decide(self, leader: Leader) -> bool:
        """Gives whether there was anything to do."""
        core = leader.core
        self.hear_runners()
        core.on_standing(dict(self.standing))
        decisions = core.decide(self.now)
        core.check()
        if decisions.drains_for_upgrade:
            leader.read_cluster()
            leader.list_pods()
            decisions = core.decide(self.now)
        for say in decisions.say:
            self.say(leader, say)
        if decisions.look_at_pods:
            core.on_pods(dict.fromkeys(self.nodes, Amounts(500, GIB)), self.now)
        if decisions.write is not None and decisions.write.afresh:
            leader.list_pods()
            decisions = core.decide(self.now)
        if decisions.write is not None:
            self.write(leader, decisions.write)
        return decisions != (None, (), False)

    def write(self, leader: Leader, write: Write) -> None:
        version = self.cluster["metadata"]["resourceVersion"] if self.cluster else ""
        if write.version != version:
            self.conflicts += 1
            if self.cluster is not None:
                leader.core.on_cluster(raycluster.read(self.cluster, SETTINGS))
            return
        named = set(self.named())
        generation = self.cluster["metadata"]["generation"] if self.cluster else 0
        more = {"uid": "c", "resourceVersion": str(int(version or 0) + 1), "generation": generation + 1}
        self.cluster = write.body | {"metadata": write.body["metadata"] | more}
        self.writes += 1
        for name in set(self.named()) - named:
            standing = self.standing.get(self.pods[name].node) if name in self.pods else None
            if standing is not None and standing.busy and self.pods[name].node in self.nodes:
                self.busy_deleted.append(name)
            if name in self.pods and self.pods[name].node in self.hosts(self.pods[name].group):
                self.begin_upgrade(self.pods[name].node)
                self.upgrades += 1
        for view in (self.its, *(other.view for other in self.leaders)):
            view.coming["cluster"].append(("pool", copy.deepcopy(self.cluster)))
        leader.core.on_cluster(raycluster.read(self.cluster, SETTINGS))  # the answer to our write

    def named(self) -> list[str]:
        groups = (self.cluster or {}).get("spec", {}).get("workerGroupSpecs", [])
        return [name for group in groups for name in group["scaleStrategy"]["workersToDelete"]]

    def hosts(self, group: str) -> list[str]:
        """Of a group of the RayCluster, as it is."""
        (found,) = [one for one in (self.cluster or {})["spec"]["workerGroupSpecs"] if one["groupName"] == group]
        template = found["template"]["spec"]["affinity"]["nodeAffinity"]
        terms = template["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        return list(terms[0]["matchExpressions"][0]["values"])

    def say(self, leader: Leader, say: Say) -> None:
        standing = self.standing[say.node]
        if isinstance(say.change, m.CordonNode):
            self.standing[say.node] = standing._replace(state="cordoned", by="kubernetes", why=say.change.why)
        elif isinstance(say.change, m.DrainNode):
            self.standing[say.node] = standing._replace(state="draining", by="kubernetes", why=say.change.why)
            if say.change.why == UPGRADE:
                self.begin_upgrade(say.node)
        elif isinstance(say.change, m.UncordonNode):
            self.standing[say.node] = standing._replace(state="ready", by="", why="")
        else:
            assert say.node not in self.nodes or leader.view.coming["node"], "given up, and it is there"
            self.standing[say.node] = Standing("gone")

    # -- KubeRay ------------------------------------------------------------------------------------------------------

    def it_hears(self) -> bool:
        event = self.its.deliver(self.dice)
        if event is None:
            return False
        kind, name, thing = event
        if kind == "pod":
            self.it_sees_pod(name, thing)
        elif kind == "cluster":
            self.seen_cluster = thing
        return True

    def it_hears_of_writes(self) -> None:
        while self.its.coming["cluster"]:
            self.seen_cluster = self.its.coming["cluster"].popleft()[1]

    def it_hears_of_pods(self) -> None:
        while self.its.coming["pod"]:
            name, thing = self.its.coming["pod"].popleft()
            self.it_sees_pod(name, thing)

    def it_sees_pod(self, name: str, thing: Pod | None) -> None:
        if thing is None:
            self.seen_pods.pop(name, None)
        else:
            self.seen_pods[name] = thing

    def is_settled(self, group: str) -> bool:
        for name, (its, what) in list(self.expected.items()):
            if its == group:
                has_come = name in self.seen_pods or name not in self.pods  # the latter after a time
                if not has_come if what == "create" else name in self.seen_pods:
                    return False
                del self.expected[name]
        return True

    def reconcile(self) -> None:
        for group in (self.seen_cluster or {}).get("spec", {}).get("workerGroupSpecs", []):
            if self.is_settled(group["groupName"]):
                self.reconcile_group(group)

    def reconcile_group(self, group: dict[str, Any]) -> None:
        name = group["groupName"]
        pods = [pod for pod in self.seen_pods.values() if pod.group == name]
        over = [pod for pod in pods if pod.is_over]
        for pod in over:
            self.delete(pod.name, name)
        if over:
            return
        named = group["scaleStrategy"]["workersToDelete"]
        deleted = {each for each in named if self.delete(each, name)}
        running = [pod for pod in pods if pod.name not in deleted and (self.counted or not pod.terminating)]
        missing = group["replicas"] - len(running)
        for _ in range(missing):
            self.made += 1
            template = group["template"]["spec"]["affinity"]["nodeAffinity"]
            terms = template["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
            pod = Pod(
                f"{name}-{self.made}",
                name,
                tuple(terms[0]["matchExpressions"][0]["values"]),
                group["template"]["metadata"]["annotations"].get(machines.TEMPLATE, ""),
                group["template"]["spec"]["containers"][0]["image"],
            )
            self.expected[pod.name] = (name, "create")
            self.put_pod(pod)
        for pod in running[: max(0, -missing)]:
            real = self.pods.get(pod.name)
            if real is not None and not real.terminating and not real.is_over and self.is_healthy(real):
                self.wrong.append(pod.name)
            self.delete(pod.name, name)

    def is_healthy(self, pod: Pod) -> bool:
        """Whether it stands where one should stand."""
        return bool(pod.node) and self.takes(pod.node) and not self.nodes[pod.node]["cordoned"]

    def delete(self, name: str, group: str) -> bool:
        """False: there is none."""
        pod = self.pods.get(name)
        if pod is None:
            return False
        self.expected[name] = (group, "delete")
        if not pod.terminating:
            pod.terminating = True
            self.put_pod(pod)
        return True

    # -- in the end --------------------------------------------------------------------------------------------------

    def calm_down(self) -> None:
        """Nothing more happens to machines, they all work, and so does the image; all that was to be done is done."""
        calm = 0
        for name, node in self.nodes.items():
            if not node["ready"]:
                self.put_node(name, ready=True)
        if self.settings.node_image == "node:bad":
            self.want("node:1")
        for _ in range(800):
            self.now += 31.0
            for name, standing in self.standing.items():
                self.standing[name] = standing._replace(busy=False)
                if standing.state == "draining":
                    self.standing[name] = standing._replace(state="drained", busy=False)
            for name in self.nodes:
                self.join(name)
            heard = [self.it_hears(), *(leader.hear(self.dice) for leader in self.leaders)]
            acted = [self.decide(leader) for leader in self.leaders]
            self.reconcile()
            self.kubernetes()
            moves = self.expected or not all(map(self.is_at_rest, self.pods.values()))
            self.look_at_upgrades()
            calm = 0 if any(heard) or any(acted) or moves or self.waits() or self.upgraded else calm + 1
            if calm == 3:
                return
        raise AssertionError("it never comes to rest")

    def waits(self) -> bool:
        return any(leader.core.wake_at() is not None for leader in self.leaders)
