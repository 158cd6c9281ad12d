"""The very service beside a real kube-apiserver and etcd, with exactly the roles of our chart.

Each scenario runs beside the tests' own small API server too, so that it is exercised where there is no real one
(`KUBEBUILDER_ASSETS` names the folder of `etcd` and `kube-apiserver`).
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest

from controlplane.pool import machines, raycluster
from controlplane.pool import service as pool
from controlplane.pool.api import Api, Conflict, Object, version_of
from events import subjects
from events.bus import Bus
from tests.support import charts, envtest
from tests.support.apiserver import ApiServer, write_kubeconfig
from tests.support.nats import NatsServer
from tests.support.serving import serving
from tests.support.submitting import CONFIG

NAMESPACE = "headrace"
NODES = "/api/v1/nodes"
CLUSTERS = f"/apis/ray.io/v1/namespaces/{NAMESPACE}/rayclusters"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
WAIT_S = 90.0
"""Longer than the longest pause between two tries of what was forbidden for a while."""
OBJECTS = charts.rendered(charts.values("minimal"), namespace=NAMESPACE)
CONFIGURED = msgspec.structs.replace(
    CONFIG, kubernetes_pool="research", kubernetes_node_image="node:1", kubernetes_ray_version="2.60.0"
)
ROLES = {
    "ClusterRole": f"{envtest.RBAC}/clusterroles",
    "ClusterRoleBinding": f"{envtest.RBAC}/clusterrolebindings",
    "Role": f"{envtest.RBAC}/namespaces/{NAMESPACE}/roles",
    "RoleBinding": f"{envtest.RBAC}/namespaces/{NAMESPACE}/rolebindings",
}
Use = tuple[str, str]
"""A verb and a resource."""
AT_ONCE: dict[Use, str] = {
    ("list", "nodes"): "nodes",
    ("watch", "nodes"): "nodes",
    ("list", "pods"): "pods",
    ("watch", "pods"): "pods",
    ("list", "rayclusters"): "cluster",
    ("watch", "rayclusters"): "cluster",
    ("create", "rayclusters"): "write",
    ("patch", "rayclusters"): "write",
    ("get", "leases"): "lease",
    ("update", "leases"): "lease",
}
"""What is asked for at every start, and under which name a refusal is told."""
LATER: set[Use] = {("get", "nodes"), ("get", "rayclusters"), ("create", "leases")}


class Server(Protocol):
    """What a scenario asks of either."""

    async def begin(self, *, without: str = "") -> None:
        """Ready, with our roles and KubeRay's CRD, that may lack a field of the spec."""

    def kubeconfig(self) -> Path: ...
    async def put(self, collection: str, thing: Object) -> Object: ...
    async def get(self, collection: str, name: str) -> Object | None: ...
    async def drop(self, collection: str, name: str) -> None: ...
    async def forbid(self, *uses: Use) -> None:
        """These, and nothing else."""

    async def allow(self) -> None: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def compact(self) -> None: ...
    async def close(self) -> None: ...


class Small(ApiServer):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    async def begin(self, *, without: str = "") -> None:
        await self.start()
        await self.put(LEASES, OBJECTS["Lease", "headrace-pool"])
        if without:
            self.unknown.add(without)

    def kubeconfig(self) -> Path:
        return write_kubeconfig(self.folder / "kubeconfig", self.url)

    async def get(self, collection: str, name: str) -> Object | None:
        return self.objects.get((collection, name))

    async def forbid(self, *uses: Use) -> None:
        self.refuse.clear()
        for verb, resource in uses:
            self.refuse[f"{verb} {resource}"] = (403, f"{resource} is forbidden: User cannot {verb} resource")

    async def allow(self) -> None:
        self.refuse.clear()

    async def compact(self) -> None:
        self.forget()

    async def close(self) -> None:
        await self.stop()


class Real(envtest.RealServer):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, f"system:serviceaccount:{NAMESPACE}:headrace-pool")

    async def begin(self, *, without: str = "") -> None:
        await self.start()
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        await self.put("/api/v1/namespaces", namespace)
        await self.install_crd(without)
        await self.allow()
        lease = OBJECTS["Lease", "headrace-pool"]
        await self.put(LEASES, lease | {"metadata": lease["metadata"] | {"namespace": NAMESPACE}})

    async def allow(self) -> None:
        await self._grant(lambda _: True)

    async def forbid(self, *uses: Use) -> None:
        await self._grant(lambda use: use not in uses)

    async def _grant(self, keeps: Callable[[Use], bool]) -> None:
        """The chart's roles; each rule taken apart, so that one verb of one resource can be left out."""
        for (kind, name), one in OBJECTS.items():
            if kind in ROLES and name.endswith("pool"):
                body = one | {"metadata": {"name": name}}
                if "rules" in one:
                    body["rules"] = [
                        rule | {"verbs": [verb], "resources": [resource]}
                        for rule in one["rules"]
                        for verb in rule["verbs"]
                        for resource in rule["resources"]
                        if keeps((verb, resource))
                    ]
                await self.put(ROLES[kind], body)


REAL = pytest.param(Real, id="real", marks=pytest.mark.skipif(bool(envtest.why_not()), reason=envtest.why_not()))


@pytest.fixture(params=[pytest.param(Small, id="small"), REAL])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    server: Server = request.param(tmp_path)
    yield server
    await server.close()


class Setting:
    def __init__(self, server: Server, bus: Bus) -> None:
        self.server, self.bus = server, bus

    async def cluster(self) -> Object:
        return await self.server.get(CLUSTERS, "headrace") or {}

    async def hosts(self) -> list[str]:
        """That the RayCluster stands on."""
        named = raycluster.read(await self.cluster(), SETTINGS).groups
        return sorted(host for group in named for host in group.hosts)

    async def problems(self) -> dict[str, str]:
        said: dict[str, str] = json.loads(await self.bus.ask(subjects.ask("pool", "status")))["problems"]
        return {name: why for name, why in said.items() if name != "scheduling"}

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                while not await holds():  # noqa: ASYNC110  asked of other processes
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise AssertionError(f"not in time: {await self.problems()}") from error

    async def until_hosts(self, *names: str) -> None:
        async def are() -> bool:
            return await self.hosts() == [*names]

        await self.until(are)

    async def until_told(self, kind: str, what: str) -> None:
        async def told() -> bool:
            return what in (await self.problems()).get(kind, "")

        await self.until(told)

    async def until_well(self) -> None:
        async def well() -> bool:
            return not await self.problems()

        await self.until(well)


SETTINGS = pool.settings_of(CONFIGURED)


def a_node(name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {machines.POOL_LABEL: "research", machines.HOSTNAME: name}},
        "spec": {},
        "status": {
            "allocatable": {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "2"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


@pytest.fixture
def running(nats: NatsServer, bus: Bus, tmp_path: Path, server: Server) -> Any:
    """The service beside a server that is ready."""
    config = msgspec.structs.replace(CONFIGURED, kubeconfig="")

    def begin() -> Any:
        there = msgspec.structs.replace(config, kubeconfig=str(server.kubeconfig()))
        return serving(pool.serve, nats, there, blobs=tmp_path / "blobs")

    return begin


@pytest.fixture
def here(server: Server, bus: Bus) -> Setting:
    return Setting(server, bus)


async def test_it_is_made_with_exactly_our_roles_and_an_unchanged_state_writes_nothing(
    here: Setting, running: Any
) -> None:
    await here.server.begin()
    await here.server.put(NODES, a_node("n1"))
    async with running():
        await here.until_hosts("n1")
        await here.until_well()
        written = version_of(await here.cluster())
        noted = a_node("n1")
        noted["metadata"]["annotations"] = {"theirs": "x"}
        await here.server.put(NODES, noted)
        await here.server.put(NODES, a_node("n2"))
        await here.until_hosts("n1", "n2")
    again = version_of(await here.cluster())
    assert again != written
    async with running():
        await here.until_well()
        await here.server.put(NODES, noted)
        await asyncio.sleep(1.0)
    assert version_of(await here.cluster()) == again, "the server has written what was so already"


async def test_drift_is_put_back_and_what_others_add_stays(here: Setting, running: Any) -> None:
    await here.server.begin()
    await here.server.put(NODES, a_node("n1"))
    async with running():
        await here.until_hosts("n1")
        drifted = copy.deepcopy(await here.cluster())
        drifted["spec"]["enableInTreeAutoscaling"] = True
        drifted["spec"]["workerGroupSpecs"][0]["replicas"] = 7
        drifted["metadata"]["annotations"]["theirs"] = "x"
        await here.server.put(CLUSTERS, drifted)

        async def is_back() -> bool:
            spec = (await here.cluster())["spec"]
            return spec["enableInTreeAutoscaling"] is False and spec["workerGroupSpecs"][0]["replicas"] == 1

        await here.until(is_back)
        assert (await here.cluster())["metadata"]["annotations"]["theirs"] == "x"
        await here.until_well()


async def test_a_guard_of_before_is_a_conflict_and_a_no_op_changes_nothing(here: Setting, running: Any) -> None:
    """But for the time of our fields, which this server (1.20.2) writes anew a second later: its version is another one
    then. The pool itself makes no such apply (`differs`).
    """
    await here.server.begin()
    await here.server.put(NODES, a_node("n1"))
    async with running():
        await here.until_hosts("n1")
    seen = await here.cluster()
    known = raycluster.read(seen, SETTINGS)
    body = raycluster.render(SETTINGS, known.groups)
    api = await Api.connect(str(here.server.kubeconfig()))
    try:
        path = f"{CLUSTERS}/headrace"
        guarded = body | {"metadata": body["metadata"] | {"resourceVersion": known.version}}
        again = await api.apply(path, guarded, raycluster.MANAGER)
        assert again["metadata"]["generation"] == seen["metadata"]["generation"]
        assert again["spec"] == seen["spec"]
        other = copy.deepcopy(seen)
        other["metadata"]["annotations"]["theirs"] = "y"
        await here.server.put(CLUSTERS, other)
        with pytest.raises(Conflict):
            await api.apply(path, guarded, raycluster.MANAGER)
    finally:
        await api.close()


async def test_a_raycluster_of_others_is_not_touched(here: Setting, running: Any) -> None:
    await here.server.begin()
    theirs = raycluster.render(SETTINGS, [])
    theirs["metadata"] = {"name": "headrace", "namespace": NAMESPACE, "labels": {"team": "theirs"}}
    made = await here.server.put(CLUSTERS, theirs)
    await here.server.put(NODES, a_node("n1"))
    async with running():
        await here.until_told("headrace", "is not ours")
    assert version_of(await here.cluster()) == version_of(made)


@pytest.mark.parametrize("field", ["authOptions", "upgradeStrategy"])
async def test_a_crd_that_does_not_know_a_field_is_told_by_its_name_and_nothing_is_made(
    here: Setting, running: Any, field: str
) -> None:
    """This server drops what the CRD does not know, and says nothing: a cluster without its token would let all in."""
    await here.server.begin(without=field)
    await here.server.put(NODES, a_node("n1"))
    async with running():
        await here.until_told("write", f"$.spec.{field}")
        await here.until_told("write", "older than 1.6")
    assert await here.cluster() == {}


def test_each_right_that_the_chart_grants_is_taken_away_once() -> None:
    """So none is spare. The rights by name and by namespace, and those of the hook: tests/unit/charts/test_roles.py."""
    roles = [one for (kind, name), one in OBJECTS.items() if kind in ROLES and name.endswith("pool") and "rules" in one]
    rules = [rule for role in roles for rule in role["rules"]]
    granted = {(verb, resource) for rule in rules for verb in rule["verbs"] for resource in rule["resources"]}
    assert granted == AT_ONCE.keys() | LATER


@pytest.mark.parametrize("use", AT_ONCE, ids="-".join)
async def test_a_right_that_is_taken_away_is_told_and_its_return_is_seen(here: Setting, running: Any, use: Use) -> None:
    await here.server.begin()
    await here.server.forbid(use)
    await here.server.put(NODES, a_node("n1"))
    async with running():
        await here.until_told(AT_ONCE[use], "forbidden")
        await here.server.allow()
        await here.until_hosts("n1")
        await here.until_well()


async def test_a_lease_that_is_not_there_needs_the_right_to_make_it(here: Setting, running: Any) -> None:
    await here.server.begin()
    await here.server.drop(LEASES, "headrace-pool")
    await here.server.forbid(("create", "leases"))
    await here.server.put(NODES, a_node("n1"))
    async with running():
        await here.until_told("lease", "forbidden")
        assert await here.cluster() == {}
        await here.server.allow()
        await here.until_hosts("n1")
        await here.until_well()


async def test_after_a_conflict_what_is_there_is_asked_for(here: Setting, running: Any) -> None:
    """Somebody else has written, and no watch has said so: then the write is refused by its guard."""
    watch = ("watch", "rayclusters")
    await here.server.begin()
    await here.server.put(NODES, a_node("n1"))
    async with running():
        await here.until_hosts("n1")
        await here.server.forbid(watch, ("get", "rayclusters"))
        await here.server.stop()  # a watch that is open already asks for no right
        await here.server.start()
        await here.until_told("cluster", "forbidden")
        drifted = copy.deepcopy(await here.cluster())
        drifted["metadata"]["annotations"]["theirs"] = "x"
        await here.server.put(CLUSTERS, drifted)
        await here.server.put(NODES, a_node("n2"))
        await here.until_told("write", f"GET {CLUSTERS}/headrace: 403")
        await here.server.forbid(watch)
        await here.until_hosts("n1", "n2")
        assert (await here.cluster())["metadata"]["annotations"]["theirs"] == "x"


async def test_a_machine_that_is_out_of_the_list_is_asked_for(here: Setting, running: Any) -> None:
    """It may be gone, or somebody else's now: only one that is gone is given up."""
    await here.server.begin()
    for name in ("n1", "n2"):
        await here.server.put(NODES, a_node(name))
    async with running():
        await here.until_hosts("n1", "n2")
        await here.server.forbid(("watch", "nodes"))
        await here.server.stop()
        await here.server.start()
        await here.until_told("nodes", "forbidden")
        other = a_node("n1")
        other["metadata"]["labels"][machines.POOL_LABEL] = "serving"
        await here.server.put(NODES, other)
        await here.server.compact()
        await here.server.stop()
        await here.server.start()
        await here.server.forbid(("get", "nodes"))
        await here.until_told("nodes", "GET /api/v1/nodes/n1: 403")
        await here.server.allow()
        await here.server.put(NODES, a_node("n3"))
        await here.until_hosts("n1", "n2", "n3")


async def test_a_server_that_was_away_is_gone_on_from_where_it_was(here: Setting, running: Any) -> None:
    await here.server.begin()
    for name in ("n1", "n2"):
        await here.server.put(NODES, a_node(name))
    async with running():
        await here.until_hosts("n1", "n2")
        await here.server.stop()
        for kind, path in (("nodes", NODES), ("pods", "/pods"), ("cluster", CLUSTERS)):
            await here.until_told(kind, path)
        await here.server.start()
        await here.server.drop(NODES, "n1")
        # n1 leaves only when a pod lives for each replica: there is no KubeRay here
        (group,) = raycluster.read(await here.cluster(), SETTINGS).groups
        await here.until_told(group.shape.group, "lets go of machines")
        await here.server.put(NODES, a_node("n3"))
        await here.until_hosts("n1", "n2", "n3")

        async def is_over() -> bool:
            return {*await here.problems()} == {group.shape.group}

        await here.until(is_over)


async def test_what_is_kept_no_more_is_listed_anew(here: Setting, running: Any) -> None:
    await here.server.begin()
    await here.server.put(NODES, a_node("n1"))
    async with running():
        await here.until_hosts("n1")
        await here.server.stop()
        await here.server.start()
        for number in range(2, 5):
            await here.server.put(NODES, a_node(f"n{number}"))
        await here.server.compact()
        await here.server.stop()
        await here.server.start()
        await here.until_hosts("n1", "n2", "n3", "n4")
        await here.until_well()
