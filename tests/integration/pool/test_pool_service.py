"""The pool's service beside an API server, a KubeRay that does as it is told, a real bus, submission and scheduling."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controlplane.pool import machines, raycluster
from controlplane.pool import service as pool
from controlplane.scheduling import service as scheduling
from controlplane.submission.service import serve as submission
from events import messages as m
from events import subjects
from events.bus import Asked, AskRefused, Bus, NoAnswer
from events.ledger import CaughtUp, Ledger
from load_tests.simulated_node import SimulatedNode
from tests.support.apiserver import ApiServer, write_kubeconfig
from tests.support.nats import NatsServer
from tests.support.serving import serving
from tests.support.submitting import CONFIG
from tests.support.worlds import a_capacity

NODES, PODS = "/api/v1/nodes", "/api/v1/namespaces/headrace/pods"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/headrace/leases"
CLUSTERS = "/apis/ray.io/v1/namespaces/headrace/rayclusters"
FAST = msgspec.structs.replace(
    CONFIG,
    heartbeat_s=0.1,
    suspect_s=5.0,
    leader_lease_s=0.6,
    kubernetes_pool="research",
    kubernetes_node_image="node:1",
    kubernetes_ray_version="2.60.0",
)
WAIT_S = 20.0


def a_node(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {machines.POOL_LABEL: "research", machines.HOSTNAME: name}},
        "spec": spec,
        "status": {
            "allocatable": {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "2"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


class KubeRay:
    """Makes the pods that a RayCluster asks for, each on a machine of its list at once, and deletes those it names."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.deleted: list[str] = []
        self._made = 0

    async def run(self) -> None:
        while True:
            for group in self.cluster()["spec"]["workerGroupSpecs"] if self.cluster() else []:
                await self._reconcile(group)
            await asyncio.sleep(0.02)

    def cluster(self) -> dict[str, Any]:
        return self.server.objects.get((CLUSTERS, "headrace"), {})

    def pods(self) -> dict[str, str]:
        """Pod → machine."""
        found = ((name, thing) for (place, name), thing in self.server.objects.items() if place == PODS)
        return {name: thing["spec"]["nodeName"] for name, thing in found}

    async def _reconcile(self, group: dict[str, Any]) -> None:
        pods = {name: node for name, node in self.pods().items() if name.startswith(group["groupName"])}
        for name in [*group["scaleStrategy"]["workersToDelete"], *self._too_many(group, pods)]:
            if name in pods:
                self.deleted.append(name)
                await self.server.drop(PODS, name)
                del pods[name]
        for host in hosts_of(group):
            if len(pods) < group["replicas"] and host not in pods.values():
                self._made += 1
                name = f"{group['groupName']}-{self._made}"
                pods[name] = host
                labels = {
                    machines.CLUSTER_LABEL: "headrace",
                    machines.GROUP_LABEL: group["groupName"],
                    machines.NODE_TYPE_LABEL: "worker",
                }
                notes = group["template"]["metadata"]["annotations"]
                metadata = {"name": name, "namespace": "headrace", "labels": labels, "annotations": notes}
                spec = {"nodeName": host, "containers": group["template"]["spec"]["containers"]}
                status = a_status(works=spec["containers"][0]["image"] != "node:bad")
                await self.server.put(PODS, {"metadata": metadata, "spec": spec, "status": status})

    def _too_many(self, group: dict[str, Any], pods: dict[str, str]) -> list[str]:
        left = [name for name in pods if name not in group["scaleStrategy"]["workersToDelete"]]
        return left[: max(0, len(left) - group["replicas"])]


def a_status(*, works: bool) -> dict[str, Any]:
    """Of a pod, as its kubelet says."""
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    return {
        "phase": "Running" if works else "Pending",
        "conditions": [{"type": "Ready", "status": str(works)}],
        "containerStatuses": [{"state": {} if works else {"waiting": waiting}}],
    }


def hosts_of(group: dict[str, Any]) -> list[str]:
    affinity = group["template"]["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return [host for host in terms[0]["matchExpressions"][0]["values"] if host != raycluster.NO_MACHINE]


class Setting:
    """What a test has in its hands."""

    def __init__(self, server: ApiServer, kuberay: KubeRay, bus: Bus) -> None:
        self.server, self.kuberay, self.bus = server, kuberay, bus

    def groups(self) -> list[tuple[int, list[str]]]:
        """(replicas, hosts) of each group."""
        cluster = self.kuberay.cluster()
        return (
            [(group["replicas"], hosts_of(group)) for group in cluster["spec"]["workerGroupSpecs"]] if cluster else []
        )

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not holds():  # noqa: ASYNC110  asked of several processes
                await asyncio.sleep(0.05)

    async def becomes(self, look: Callable[[], Awaitable[Any]], wanted: Any) -> None:
        async with asyncio.timeout(WAIT_S):
            while await look() != wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await self.bus.ask(subjects.ask("pool", "status")))
        return answer

    async def state(self, node: str) -> tuple[str, str]:
        """(state, by) of a node of the scheduler's; empty: it has none, or nobody leads."""
        try:
            said = await self.bus.ask(subjects.ask("scheduling", "nodes"))
        except (NoAnswer, AskRefused):
            return ("", "")
        view = msgspec.json.decode(said, type=m.NodesView)
        return next(((one.state, one.by) for one in view.nodes if one.node == node), ("", ""))


@pytest.fixture
def config(server: ApiServer, tmp_path: Path) -> Any:
    file = write_kubeconfig(tmp_path / "kubeconfig", server.url)
    return msgspec.structs.replace(FAST, kubeconfig=str(file))


@pytest.fixture
async def here(server: ApiServer, config: Any, nats: NatsServer, bus: Bus, tmp_path: Path) -> AsyncIterator[Setting]:
    kuberay = KubeRay(server)
    running = asyncio.create_task(kuberay.run())
    try:
        async with serving(pool.serve, nats, config, blobs=tmp_path / "blobs"):
            yield Setting(server, kuberay, bus)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def scheduler(nats: NatsServer, bus: Bus, tmp_path: Path, *names: str, duration_s: float = 60.0) -> Any:
    """Submission, a leader, and nodes of these names."""
    blobs = tmp_path / "blobs"
    async with serving(submission, nats, FAST, blobs=blobs), serving(scheduling.serve, nats, FAST, blobs=blobs):
        nodes = [
            SimulatedNode(bus, name, capacity=a_capacity(), duration_s=lambda _: duration_s, heartbeat_s=0.1)
            for name in names
        ]
        running = [asyncio.create_task(node.run()) for node in nodes]
        yield nodes
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def submit(bus: Bus, **fields: Any) -> m.Answer:
    subject = subjects.ask("submission", "submit", "vision", "ada")
    body = json.dumps({"entrypoint": ["true"], "tier": "cpu", **fields}).encode()
    return msgspec.json.decode(await bus.ask(subject, body), type=m.Answer)


async def test_machines_of_the_pool_get_one_raycluster_and_a_pod_each(here: Setting) -> None:
    for number in range(3):
        await here.server.put(NODES, a_node(f"n{number}"))
    await here.until(lambda: here.groups() == [(3, ["n0", "n1", "n2"])])
    await here.until(lambda: sorted(here.kuberay.pods().values()) == ["n0", "n1", "n2"])
    await here.becomes(lambda: problems(here), {})


async def problems(here: Setting) -> dict[str, str]:
    """Without those of a scheduler that is not there."""
    found: dict[str, str] = (await here.status())["problems"]
    return {name: why for name, why in found.items() if name != "scheduling"}


async def test_an_unchanged_state_writes_nothing(here: Setting) -> None:
    await here.server.put(NODES, a_node("n1"))
    await here.until(lambda: len(here.kuberay.pods()) == 1)
    written = here.server.requests["patch rayclusters"]
    node = here.server.objects[NODES, "n1"]
    for number in range(5):
        await here.server.put(NODES, node | {"status": node["status"] | {"heartbeat": str(number)}})
    await asyncio.sleep(1.0)
    assert here.server.requests["patch rayclusters"] == written


async def test_drift_is_put_back_and_what_others_add_is_left_alone(here: Setting) -> None:
    await here.server.put(NODES, a_node("n1"))
    await here.until(lambda: len(here.kuberay.pods()) == 1)
    drifted = json.loads(json.dumps(here.kuberay.cluster()))
    drifted["spec"]["enableInTreeAutoscaling"] = True
    drifted["metadata"]["annotations"]["theirs"] = "x"
    await here.server.put(CLUSTERS, drifted)
    await here.until(lambda: here.kuberay.cluster()["spec"]["enableInTreeAutoscaling"] is False)
    assert here.kuberay.cluster()["metadata"]["annotations"]["theirs"] == "x"


async def test_a_cordoned_machine_takes_no_job_and_is_let_go_when_its_last_one_is_over(
    here: Setting, nats: NatsServer, bus: Bus, tmp_path: Path
) -> None:
    for name in ("n1", "n2"):
        await here.server.put(NODES, a_node(name))
    await here.until(lambda: len(here.kuberay.pods()) == 2)
    async with scheduler(nats, bus, tmp_path, "n1", duration_s=4.0) as (node,):
        await here.becomes(lambda: here.state("n1"), ("ready", ""))
        await submit(bus)
        await here.until(lambda: bool(node.launched))
        await here.server.put(NODES, a_node("n1", unschedulable=True))
        await here.becomes(lambda: here.state("n1"), ("cordoned", "kubernetes"))
        assert here.groups() == [(2, ["n1", "n2"])], "let go while a job ran there"
        await here.until(lambda: here.groups() == [(1, ["n2"])])
        assert not any(attempt.state == "running" for attempt in node.attempts.values())
    await here.until(lambda: [*here.kuberay.pods().values()] == ["n2"])
    assert len(here.kuberay.deleted) == 1


async def test_what_the_scheduler_does_not_do_is_told_until_it_does(here: Setting, bus: Bus) -> None:
    """Nobody is there to take the request; then it is not wanted any more."""
    node = m.NodeView(
        node="n1", state="ready", capacity=a_capacity(), free=m.Allocation(node="n1", cpus=1, memory_bytes=1)
    )

    async def answer(_: Asked) -> bytes:
        return msgspec.json.encode(m.NodesView(term=1, nodes=(node,)))

    door = await bus.answer(subjects.ask("scheduling", "nodes"), answer)
    await here.server.put(NODES, a_node("n1", unschedulable=True))

    async def told() -> bool:
        return "node n1" in (await here.status())["problems"]

    await here.becomes(told, True)
    await here.server.put(NODES, a_node("n1"))
    await here.becomes(told, False)
    await door.close()


async def test_what_runs_on_a_machine_that_is_deleted_waits_again_at_once(
    here: Setting, nats: NatsServer, bus: Bus, tmp_path: Path
) -> None:
    await here.server.put(NODES, a_node("n1"))
    await here.until(lambda: len(here.kuberay.pods()) == 1)
    async with scheduler(nats, bus, tmp_path, "n1") as (node,):
        await here.becomes(lambda: here.state("n1"), ("ready", ""))
        await submit(bus)
        await here.until(lambda: bool(node.launched))
        await here.becomes(lambda: known(here, "n1"), True)
        await here.server.drop(NODES, "n1")
        await here.until(lambda: here.groups() == [(0, [])])
        await here.becomes(lambda: said_gone(bus), True)


async def known(here: Setting, node: str) -> bool:
    return (await here.status())["machines"] == 1 and (await here.state(node))[0] == "ready"


async def said_gone(bus: Bus) -> bool:
    """Whether a fact says so; it may have joined again since, for the simulated one lives on."""
    found = [entry.fact async for entry in facts_of(bus, subjects.node("n1"))]
    return any(isinstance(fact, m.NodeGone) and fact.by == "kubernetes" for fact in found)


async def facts_of(bus: Bus, subject: str) -> AsyncIterator[Any]:
    async for item in Ledger(bus, source="test").tail(after=0, subjects=(subject,)):
        if isinstance(item, CaughtUp):
            return
        yield item


async def test_a_machine_that_loses_its_label_is_cordoned_and_not_given_up(
    here: Setting, nats: NatsServer, bus: Bus, tmp_path: Path
) -> None:
    await here.server.put(NODES, a_node("n1"))
    await here.until(lambda: len(here.kuberay.pods()) == 1)
    async with scheduler(nats, bus, tmp_path, "n1") as (node,):
        await here.becomes(lambda: here.state("n1"), ("ready", ""))
        await submit(bus)
        await here.until(lambda: bool(node.launched))
        other = a_node("n1")
        other["metadata"]["labels"][machines.POOL_LABEL] = "serving"
        await here.server.put(NODES, other)
        await here.becomes(lambda: here.state("n1"), ("cordoned", "kubernetes"))
        assert not await said_gone(bus)
        assert here.groups() == [(1, ["n1"])], "let go while a job ran there"


async def test_a_server_that_was_away_is_gone_on_from_where_it_was(here: Setting) -> None:
    await here.server.put(NODES, a_node("n1"))
    await here.until(lambda: here.groups() == [(1, ["n1"])])
    lists = {verb: count for verb, count in here.server.requests.items() if verb.startswith("list")}
    await here.server.stop()
    await here.server.put(NODES, a_node("n2"))
    await here.server.start()
    await here.until(lambda: here.groups() == [(2, ["n1", "n2"])])
    after = {verb: count for verb, count in here.server.requests.items() if verb.startswith("list")}
    assert after["list nodes"] == lists["list nodes"], "listed anew without need"
    assert after["list rayclusters"] == lists["list rayclusters"]


async def test_what_is_not_kept_any_more_is_listed_anew(here: Setting) -> None:
    for name in ("n1", "n2"):
        await here.server.put(NODES, a_node(name))
    await here.until(lambda: here.groups() == [(2, ["n1", "n2"])])
    await here.until(lambda: len(here.kuberay.pods()) == 2)
    await here.server.stop()
    await here.server.drop(NODES, "n2")
    here.server.forget()
    await here.server.start()
    await here.until(lambda: here.groups() == [(1, ["n1"])])
    assert here.server.requests["list nodes"] >= 2


@pytest.mark.parametrize(
    ("verb", "status", "message", "told"),
    [
        ("patch rayclusters", 403, 'rayclusters.ray.io "headrace" is forbidden', "write"),
        (
            "patch rayclusters",
            500,
            "failed to create typed patch object: .spec.authOptions: field not declared",
            "write",
        ),
        ("list nodes", 403, "nodes is forbidden: User cannot list resource", "nodes"),
        ("list rayclusters", 404, "the server could not find the requested resource", "cluster"),
        ("get leases", 403, "leases.coordination.k8s.io is forbidden", "lease"),
    ],
)
async def test_a_refusal_is_told_with_its_reason_and_ends_by_itself(
    server: ApiServer,
    config: Any,
    nats: NatsServer,
    bus: Bus,
    tmp_path: Path,
    verb: str,
    status: int,
    message: str,
    told: str,
) -> None:
    server.refuse[verb] = (status, message)
    await server.put(NODES, a_node("n1"))
    async with serving(pool.serve, nats, config, blobs=tmp_path / "blobs"):
        here = Setting(server, KubeRay(server), bus)

        async def why() -> bool:
            return message in (await here.status())["problems"].get(told, "")

        await here.becomes(why, True)
        assert server.requests[verb] <= 6, "asked again and again"
        assert here.groups() == []
        server.refuse.clear()
        if status != 500:
            await here.until(lambda: here.groups() == [(1, ["n1"])])


async def test_a_refused_write_that_is_wanted_no_more_is_told_no_more(here: Setting) -> None:
    await here.server.put(NODES, a_node("n1"))
    await here.until(lambda: here.groups() == [(1, ["n1"])])
    await here.becomes(lambda: problems(here), {})
    here.server.refuse["patch rayclusters"] = (403, "forbidden for now")
    await here.server.put(NODES, a_node("n2"))

    async def told() -> bool:
        return "forbidden for now" in (await problems(here)).get("write", "")

    await here.becomes(told, True)
    await here.server.drop(NODES, "n2")
    await here.becomes(lambda: problems(here), {})
    assert here.groups() == [(1, ["n1"])]


async def test_a_look_that_was_refused_once_is_told_no_more_when_nothing_is_left_to_write(here: Setting) -> None:
    await here.server.put(NODES, a_node("n1"))
    await here.until(lambda: here.groups() == [(1, ["n1"])])
    await here.becomes(lambda: problems(here), {})
    here.server.refuse["list pods"] = (403, "pods is forbidden")
    await here.server.put(NODES, a_node("n2"))

    async def told() -> bool:
        return "pods is forbidden" in (await problems(here)).get("write", "")

    await here.becomes(told, True)
    await here.server.drop(NODES, "n2")
    here.server.refuse.clear()
    await here.becomes(lambda: problems(here), {})


async def test_who_leads_again_lets_no_machine_go_by_what_the_scheduler_said_before(here: Setting, bus: Bus) -> None:
    """Nothing ran there when it was asked last; by now nobody answers."""
    free = m.Allocation(node="n1", cpus=1, memory_bytes=1)
    node = m.NodeView(node="n1", state="cordoned", by="ada", capacity=a_capacity(), free=free)

    async def answer(_: Asked) -> bytes:
        return msgspec.json.encode(m.NodesView(term=1, nodes=(node,)))

    door = await bus.answer(subjects.ask("scheduling", "nodes"), answer)
    await here.server.put(NODES, a_node("n1"))
    await here.until(lambda: here.groups() == [(1, ["n1"])])
    await here.until(lambda: len(here.kuberay.pods()) == 1)

    async def leads() -> tuple[bool, bool]:
        """Whether it does, and has heard the scheduler."""
        status = await here.status()
        return status["leads"], "scheduling" not in status["problems"]

    await here.becomes(leads, (True, True))
    lease = here.server.objects[LEASES, "headrace-pool"]
    await here.server.put(LEASES, lease | {"spec": lease["spec"] | {"holderIdentity": "another"}})
    await here.becomes(leads, (False, True))
    await door.close()
    await here.server.put(NODES, a_node("n1", unschedulable=True))
    await here.server.put(NODES, a_node("n2"))
    lease = here.server.objects[LEASES, "headrace-pool"]
    await here.server.put(LEASES, lease | {"spec": lease["spec"] | {"holderIdentity": ""}})
    await here.until(lambda: any("n2" in hosts for _, hosts in here.groups()))
    assert here.groups() == [(2, ["n1", "n2"])], "let go of, though a job may run there by now"
    assert here.kuberay.deleted == []


async def test_a_raycluster_of_others_is_not_touched(
    server: ApiServer, config: Any, nats: NatsServer, bus: Bus, tmp_path: Path
) -> None:
    theirs = {"metadata": {"name": "headrace", "labels": {"team": "theirs"}}, "spec": {"workerGroupSpecs": []}}
    await server.put(CLUSTERS, theirs)
    await server.put(NODES, a_node("n1"))
    async with serving(pool.serve, nats, config, blobs=tmp_path / "blobs"):
        here = Setting(server, KubeRay(server), bus)

        async def why() -> bool:
            return "is not ours" in (await here.status())["problems"].get("headrace", "")

        await here.becomes(why, True)
        assert server.requests["patch rayclusters"] == 0


async def test_a_page_in_the_place_of_an_answer_is_told_and_nothing_is_deleted(here: Setting) -> None:
    await here.server.put(NODES, a_node("n1"))
    await here.until(lambda: len(here.kuberay.pods()) == 1)
    await here.server.stop()
    here.server.page = 200
    await here.server.start()

    async def why() -> bool:
        return "Bad gateway" in str((await here.status())["problems"])

    await here.becomes(why, True)
    here.server.page = 0
    await here.server.put(NODES, a_node("n2"))
    await here.until(lambda: here.groups() == [(2, ["n1", "n2"])])
    assert here.kuberay.deleted == []


async def test_another_image_is_taken_node_by_node_and_one_that_does_not_work_ends_at_the_first(
    server: ApiServer, config: Any, nats: NatsServer, bus: Bus, tmp_path: Path
) -> None:
    here = Setting(server, KubeRay(server), bus)
    for name in ("n1", "n2"):
        await server.put(NODES, a_node(name))
    running = asyncio.create_task(here.kuberay.run())

    def images() -> dict[str, str]:
        pods = (thing["spec"] for (place, _), thing in server.objects.items() if place == PODS)
        return {pod["nodeName"]: pod["containers"][0]["image"] for pod in pods}

    async def becomes(image: str, wanted: dict[str, str], states: list[str]) -> None:
        """The pool with this image; on the way there are two replicas all the time, and never two nodes closed."""
        wants = msgspec.structs.replace(config, kubernetes_node_image=image)
        async with serving(pool.serve, nats, wants, blobs=tmp_path / "blobs", instance=image), asyncio.timeout(60.0):
            while images() != wanted or [(await here.state(name))[0] for name in ("n1", "n2")] != states:
                assert [replicas for replicas, _ in here.groups()] in ([], [2])
                assert len([name for name in ("n1", "n2") if (await here.state(name))[1] == "kubernetes"]) <= 1
                await asyncio.sleep(0.02)
            if states != ["ready", "ready"]:
                await here.becomes(lambda: problems_name(here, "ImagePullBackOff"), True)
                await asyncio.sleep(3.0)
                assert images() == wanted

    async with scheduler(nats, bus, tmp_path, "n1", "n2") as nodes:
        await here.becomes(lambda: here.state("n2"), ("ready", ""))
        await becomes("node:1", {"n1": "node:1", "n2": "node:1"}, ["ready", "ready"])
        await submit(bus)
        await here.until(lambda: any(node.launched for node in nodes))
        await becomes("node:2", {"n1": "node:2", "n2": "node:2"}, ["ready", "ready"])
        (busy,) = [node for node in nodes if any(one.state == "running" for one in node.attempts.values())]
        idle = "n2" if busy is nodes[0] else "n1"
        mixed = {"n1": "node:2", "n2": "node:2", idle: "node:bad"}
        closed = ["drained" if name == idle else "ready" for name in ("n1", "n2")]
        await becomes("node:bad", mixed, closed)
        await becomes("node:2", {"n1": "node:2", "n2": "node:2"}, ["ready", "ready"])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def problems_name(here: Setting, what: str) -> bool:
    return what in (await here.status())["problems"].get("upgrade", "")


async def test_one_that_stops_lets_the_other_lead_at_once(
    server: ApiServer, config: Any, nats: NatsServer, bus: Bus, tmp_path: Path
) -> None:
    async with serving(pool.serve, nats, config, blobs=tmp_path / "blobs", instance="first"):
        await Setting(server, KubeRay(server), bus).until(lambda: (CLUSTERS, "headrace") in server.objects)
    async with serving(pool.serve, nats, config, blobs=tmp_path / "blobs", instance="second"):
        await server.put(NODES, a_node("n1"))
        here = Setting(server, KubeRay(server), bus)
        async with asyncio.timeout(8.0):  # much less than the Lease lasts
            await here.until(lambda: here.groups() == [(1, ["n1"])])
