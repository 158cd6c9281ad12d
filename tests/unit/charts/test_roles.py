"""Every verb that is used against every verb that is granted: none is missing, none is spare."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec
import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration as ClientConfiguration

from controlplane.config import Configuration
from controlplane.frame import Clock, Tools
from controlplane.pool import election, machines, raycluster, service, uninstall, watching
from controlplane.pool.api import Api
from events.bus import NoAnswer
from tests.support.apiserver import ApiServer
from tests.support.charts import Object, rendered, values

OBJECTS = rendered(values("minimal"))
NODES, PODS = "/api/v1/nodes", "/api/v1/namespaces/ml/pods"
CLUSTERS = "/apis/ray.io/v1/namespaces/ml/rayclusters"
CONFIG = Configuration(
    kubernetes_pool="headrace",
    kubernetes_namespace="ml",
    kubernetes_node_image="node:1",
    kubernetes_ray_version="2.60.0",
)


class Use(NamedTuple):
    """A request, as a role names it. `name` is empty where a request has none, such as a list of many."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str


class Watched(ApiServer):
    """Keeps what was asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.uses: set[Use] = set()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        collection, name = self._split(request.path)
        parts = collection.strip("/").split("/")
        group = "" if parts[0] == "api" else parts[1]
        namespace = parts[parts.index("namespaces") + 1] if "namespaces" in parts else ""
        selector = request.query.get("fieldSelector", "")
        name = name or (selector.partition("=")[2] if selector.startswith("metadata.name=") else "")
        verb = self._verb(request, name if request.method != "GET" else self._split(request.path)[1])
        self.uses.add(Use(verb, group, parts[-1], namespace, name))
        if verb == "patch" and (collection, name) not in self.objects:  # apply: "create" is asked for as well
            self.uses.add(Use("create", group, parts[-1], namespace, ""))
        return await super()._answer(request)


class Silence:
    """A bus that nobody answers on."""

    async def ask(self, *_: Any, **__: Any) -> bytes:
        raise NoAnswer("nobody is there")


def granted(account: str) -> set[tuple[Use, bool]]:
    """What a service account of the release may do, and whether it may only with that name."""
    found = set()
    for kind in ("RoleBinding", "ClusterRoleBinding"):
        for (its, _), binding in OBJECTS.items():
            if its == kind and account in [subject["name"] for subject in binding["subjects"]]:
                assert [subject["namespace"] for subject in binding["subjects"]] == ["ml"]
                reference = binding["roleRef"]
                namespace = "ml" if kind == "RoleBinding" else ""
                for rule in OBJECTS[reference["kind"], reference["name"]]["rules"]:
                    found |= set(_of(rule, namespace))
    return found


def _of(rule: Object, namespace: str) -> list[tuple[Use, bool]]:
    return [
        (Use(verb, group, resource, namespace, name), bool(name))
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    ]


def allows(grant: tuple[Use, bool], use: Use) -> bool:
    one, is_named = grant
    return (
        (one.verb, one.group, one.resource) == (use.verb, use.group, use.resource)
        and one.namespace in ("", use.namespace)
        and (not is_named or one.name == use.name)
    )


def needs(use: Use, grant: tuple[Use, bool]) -> bool:
    """Whether nothing less would do: what is asked for in one namespace needs no right in all of them."""
    return allows(grant, use) and grant[0].namespace == use.namespace


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def a_machine(name: str, pool: str = "headrace") -> Object:
    return {
        "metadata": {"name": name, "labels": {machines.POOL_LABEL: pool, machines.HOSTNAME: name}},
        "status": {
            "allocatable": {"cpu": "8", "memory": "64Gi"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


@asynccontextmanager
async def a_pool(server: ApiServer) -> AsyncIterator[None]:
    api = Api(ClientConfiguration(host=server.url))
    config = msgspec.structs.replace(CONFIG, kubernetes_cluster="headrace")
    tools: Any = Tools(config, Silence(), None, None, Clock(), "me", lambda: None)  # type: ignore[arg-type]
    running = asyncio.create_task(service.Pool(tools, api, service.settings_of(config)).run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])
        await api.close()


async def uses_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> set[Use]:
    """A life of the pool in which all that it can ask for is asked for."""
    for module, name in ((election, "ROUND_S"), (service, "SETTLE_S"), (watching, "PAUSE_S_MIN")):
        monkeypatch.setattr(module, name, 0.05)
    server = Watched()
    await server.start()
    try:
        await server.put(NODES, a_machine("n1"))
        async with a_pool(server):
            await until(lambda: (CLUSTERS, "headrace") in server.objects)
            server.refuse["patch rayclusters"] = (409, "the object has been modified")
            await server.put(NODES, a_machine("n2"))
            await until(lambda: server.requests["get rayclusters"] > 0)
            server.refuse.clear()
            await _a_machine_that_is_out_of_the_list(server)
            await until(lambda: server.requests["get nodes"] > 0 and server.requests["update leases"] > 0)
    finally:
        await server.stop()
    return server.uses


async def _a_machine_that_is_out_of_the_list(server: Watched) -> None:
    await server.stop()
    await server.put(NODES, a_machine("n1", pool="another"))
    server.forget()
    await server.start()


async def test_the_pool_may_do_what_it_does_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    await _compare("headrace-pool", await uses_of_the_pool(monkeypatch))


async def test_the_hook_may_do_what_it_does_and_nothing_else() -> None:
    server = Watched()
    await server.start()
    settings = service.settings_of(CONFIG)
    await server.put(CLUSTERS, raycluster.render(settings, []))
    api = Api(ClientConfiguration(host=server.url))
    try:
        assert await uninstall.remove(api, settings, away_s=0.05, look_s=0.01) == 1
    finally:
        await api.close()
        await server.stop()
    await _compare("headrace-uninstall", server.uses)


async def _compare(account: str, uses: set[Use]) -> None:
    grants = granted(account)
    assert {use for use in uses if not any(allows(grant, use) for grant in grants)} == set(), "missing"
    assert {grant[0] for grant in grants if not any(needs(use, grant) for use in uses)} == set(), "spare"


async def test_nobody_else_may_do_anything() -> None:
    assert granted("headrace") == set()
    assert granted("default") == set()


def test_the_lease_of_the_chart_is_the_one_that_the_pool_takes() -> None:
    assert [name for kind, name in OBJECTS if kind == "Lease"] == [service.LEASE]
