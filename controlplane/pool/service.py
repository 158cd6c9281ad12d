"""The shell of the pool: watch Kubernetes, ask the scheduler, let the core decide, write what it says, look again."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Final

import msgspec

from controlplane.config import Configuration, ConfigurationError
from controlplane.frame import Tools
from controlplane.pool import election, machines, raycluster, scheduler, static
from controlplane.pool.api import Api, ApiError, Conflict, Event, NotFound, Object
from controlplane.pool.core import Decisions, Reserved, Write
from controlplane.pool.machines import CLUSTER_LABEL, POOL_LABEL, Amounts, Machine
from controlplane.pool.scheduler import LOOK_S, PROBLEMS_MAX, Unheard
from controlplane.pool.standing import BY, Say
from controlplane.pool.watching import Watching
from events import subjects
from events.bus import Asked

LOG: Final = logging.getLogger("headrace.pool")
SETTLE_S: Final = 0.2
"""After a change: others come with it, and one write is for all of them."""
PAUSE_S_MIN: Final = 1.0
PAUSE_S_MAX: Final = 300.0
"""Between two tries of a write that was refused."""
FINAL: Final = frozenset({400, 422})
UNKNOWN: Final = "failed to create typed patch object"
"""With 500: the CRD does not know a field. As with `FINAL`, the same will be answered to the same."""
LEASE: Final = "headrace-pool"


async def serve(tools: Tools) -> None:
    """Keep one RayCluster on the machines of the pool until cancelled; or the scheduler to a file of hosts."""
    if tools.config.hosts_file:
        await static.serve(tools)
        return
    settings = settings_of(tools.config)
    api = await Api.connect(tools.config.kubeconfig)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(api.close)
        pool = Pool(tools, api, settings)
        door = await tools.bus.answer(subjects.ask("pool", "status"), pool.answer_status)
        stack.push_async_callback(door.close)
        tools.ready()
        await pool.run()


def settings_of(config: Configuration) -> raycluster.Settings:
    """Raises ConfigurationError if something is missing."""
    for name in ("kubernetes_pool", "kubernetes_node_image", "kubernetes_ray_version"):
        if not getattr(config, name):
            raise ConfigurationError(f"{name} is not set: the pool keeps a RayCluster on Kubernetes' machines")
    return raycluster.Settings(
        name=config.kubernetes_cluster,
        namespace=config.kubernetes_namespace,
        pool=config.kubernetes_pool,
        node_image=config.kubernetes_node_image,
        ray_version=config.kubernetes_ray_version,
        token_secret=config.kubernetes_token_secret,
        node_secret=config.kubernetes_node_secret,
        head_claim=config.kubernetes_head_claim,
        grace_s=int(config.grace_s_max) + 60,
        node_folder=config.node_folder or "/var/lib/headrace",
        attempt_uids=config.attempt_uids,
    )


class Pool:
    """One process of the pool."""

    def __init__(self, tools: Tools, api: Api, settings: raycluster.Settings) -> None:
        self._tools = tools
        self._api = api
        self._settings = settings
        self._core = Reserved(settings)
        self._election = election.Election(tools.instance)
        self._changed = asyncio.Event()
        self._cluster_listed = asyncio.Event()
        base = f"/apis/{raycluster.API_VERSION}/namespaces/{settings.namespace}/rayclusters"
        self._clusters, self._cluster = base, f"{base}/{settings.name}"
        self._pods = f"/api/v1/namespaces/{settings.namespace}/pods"
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{settings.namespace}/leases"
        self._ours = f"{CLUSTER_LABEL}={settings.name}"
        self._failing: dict[str, str] = {}
        self._try_again_at = 0.0
        self._pause_s = 0.0
        self._writes = self._conflicts = 0
        self._asked: set[str] = set()
        """Nodes of which something was asked in the last round: it may not have been done."""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for kind, path, query in (
                ("cluster", self._clusters, {"fieldSelector": f"metadata.name={self._settings.name}"}),
                ("pods", self._pods, {"labelSelector": self._ours}),
                ("nodes", "/api/v1/nodes", {"labelSelector": f"{POOL_LABEL}={self._settings.pool}"}),
            ):
                group.create_task(self._watch(kind, path, query))
            group.create_task(self._lead())
            group.create_task(self._look())
            group.create_task(self._act())

    # -- seeing ------------------------------------------------------------------------------------------------------

    async def _watch(self, kind: str, path: str, query: dict[str, str]) -> None:
        if kind != "cluster":
            await self._cluster_listed.wait()
        sink = _Sink(self, kind)
        await Watching(self._api, path, query, sink, random.random).run()

    async def listed(self, kind: str, items: list[Object]) -> None:
        if kind == "cluster":
            self._core.on_cluster(raycluster.read(items[0], self._settings) if items else None, listed=True)
            self._cluster_listed.set()
        elif kind == "pods":
            self._core.on_workers(filter(None, map(machines.worker, items)))
        else:
            found = {one.name: one for one in map(self._machine, items)}
            missing = [name for name in self._core.machines if name not in found]
            self._core.on_machines([*found.values(), *await self._others(missing)])
        self._changed.set()

    async def _others(self, names: Iterable[str]) -> list[Machine]:
        """Of machines that are in no list any more, those that are there, and are not ours."""
        found = []
        for name in names:
            try:
                found.append(self._machine(await self._api.get(f"/api/v1/nodes/{name}")))
            except NotFound:
                continue
        return found

    def happened(self, kind: str, event: Event) -> None:
        name, is_gone = machines.name_of(event.object), event.type == "DELETED"
        if kind == "cluster":
            self._core.on_cluster(None if is_gone else raycluster.read(event.object, self._settings))
        elif kind == "pods":
            worker = machines.worker(event.object)
            if is_gone or worker is None:
                self._core.on_worker_gone(name)
            else:
                self._core.on_worker(worker)
        else:
            machine = self._machine(event.object)
            if is_gone and machine.reserved:
                self._core.on_machine_gone(name)
            else:  # one that has lost its label is out of the watch, and still there
                self._core.on_machine(machine)
        self._changed.set()

    def failing(self, kind: str, why: str) -> None:
        if why:
            self._failing[kind] = why
        else:
            self._failing.pop(kind, None)

    def _machine(self, raw: Object) -> Machine:
        return machines.machine(raw, self._settings.pool)

    # -- leading -----------------------------------------------------------------------------------------------------

    async def _lead(self) -> None:
        """Take the Lease, or keep it, or wait for it."""
        identity, clock = self._tools.instance, self._tools.clock
        try:
            while True:
                led = self._election.leads(clock.now())
                try:
                    async with asyncio.timeout(election.RENEW_S_MAX / 2):
                        now = clock.now()
                        await election.once(self._api, self._election, self._leases, LEASE, identity, now, now)
                    self.failing("lease", "")
                except (ApiError, TimeoutError) as error:
                    self.failing("lease", str(error) or "no answer in time")
                if self._election.leads(clock.now()) != led:
                    LOG.info("leads" if not led else "leads no more", extra={"identity": identity})
                    if not led:
                        self._core.on_lead()
                    self._changed.set()
                await asyncio.sleep(election.ROUND_S)
        finally:
            if self._election.leads(clock.now()):
                await election.give_up(self._api, self._leases, LEASE, identity, clock.now())

    async def _look(self) -> None:
        """Ask the scheduler again and again what is on its nodes."""
        while True:
            if self._election.leads(self._tools.clock.now()):
                try:
                    standing = await scheduler.standing(self._tools.bus)
                    self.failing("scheduling", "")
                    if self._core.on_standing(standing) or self._asked:
                        self._changed.set()
                except Unheard as error:
                    self.failing("scheduling", str(error))
            await asyncio.sleep(LOOK_S)

    # -- acting ------------------------------------------------------------------------------------------------------

    async def _act(self) -> None:
        while True:
            await self._next_round()
            now = self._tools.clock.now()
            if not self._election.leads(now):
                continue
            try:
                await self._round(now)
            except ApiError as error:
                self._try_later(str(error), now)

    def _try_later(self, why: str, now: float, *, is_final: bool = False) -> None:
        self._pause_s = PAUSE_S_MAX if is_final else min(PAUSE_S_MAX, max(PAUSE_S_MIN, 2 * self._pause_s))
        self._try_again_at = now + self._pause_s
        self.failing("write", why)
        LOG.warning("was not done", extra={"why": why, "again_in_s": self._pause_s})

    async def _next_round(self) -> None:
        """Wait for a change, or for when the core or a refusal says."""
        now = self._tools.clock.now()
        later = [at for at in (self._core.wake_at(), self._try_again_at) if at is not None and at > now]
        try:
            async with asyncio.timeout(min(later) - now if later else None):
                await self._changed.wait()
        except TimeoutError:
            pass
        await asyncio.sleep(SETTLE_S)
        self._changed.clear()

    async def _round(self, now: float) -> None:
        decisions = self._core.decide(now)
        if decisions.look_at_pods:
            self._core.on_pods(await self._asked_of(), now)
            decisions = self._core.decide(now)
        if decisions.drains_for_upgrade:
            await self._read_cluster()
        if decisions.drains_for_upgrade or (decisions.write is not None and decisions.write.afresh):
            pods = await self._api.list(self._pods, {"labelSelector": self._ours})
            self._core.on_workers(filter(None, map(machines.worker, pods.items)))
            decisions = self._core.decide(now)
        if decisions.write is None:
            self._on_all_written()
        elif now >= self._try_again_at:
            await self._write(decisions.write, now)
        await self._say(decisions)

    async def _read_cluster(self) -> None:
        found = await self._api.get(self._cluster)
        self._core.on_cluster(raycluster.read(found, self._settings))

    async def _asked_of(self) -> dict[str, Amounts]:
        """What pods that are not ours ask for, by node."""
        asked: dict[str, Amounts] = {}
        pods = await self._api.list("/api/v1/pods", {"fieldSelector": "spec.nodeName!="})
        for pod in pods.items:
            one = None if self._is_ours(pod) else machines.requests(pod)
            if one is not None:
                asked[one.node] = asked.get(one.node, Amounts()) + one.amounts
        return asked

    def _is_ours(self, pod: Object) -> bool:
        metadata = pod.get("metadata")
        if not isinstance(metadata, dict) or metadata.get("namespace") != self._settings.namespace:
            return False
        labels = metadata.get("labels")
        return isinstance(labels, dict) and labels.get(CLUSTER_LABEL) == self._settings.name

    async def _write(self, write: Write, now: float) -> None:
        body = write.body
        if write.version:
            body = body | {"metadata": body["metadata"] | {"resourceVersion": write.version}}
        lost = ""
        try:
            answer = await self._api.apply(self._cluster, body, raycluster.MANAGER, is_trial=True)
            lost = write.lost_in(answer)
            if not lost:
                answer = await self._api.apply(self._cluster, body, raycluster.MANAGER)
                self._writes += 1
                LOG.info("RayCluster written", extra={"because_of": write.why})
                lost = write.lost_in(answer)
        except Conflict:
            self._conflicts += 1
            answer = await self._api.get(self._cluster)
        except ApiError as error:
            is_unknown = UNKNOWN in str(error)
            why = f"{error}: {raycluster.TOO_OLD}" if is_unknown else str(error)
            self._try_later(why, now, is_final=is_unknown or error.status in FINAL)
            return
        if lost:
            self._try_later(lost, now, is_final=True)
            return
        self._core.on_cluster(raycluster.read(answer, self._settings))
        self._on_all_written()
        self._changed.set()

    def _on_all_written(self) -> None:
        """All that is wanted is written: what could not be done before is over."""
        self._pause_s = self._try_again_at = 0.0
        self.failing("write", "")

    async def _say(self, decisions: Decisions) -> None:
        asked = {say.node for say in decisions.say}
        for node in self._asked - asked:
            self.failing(_of_node(node), "")
        self._asked = asked
        for say in decisions.say:
            if not await self._ask_for(say):
                break  # nobody answers: the others would be waited for in vain, one after the other

    async def _ask_for(self, say: Say) -> bool:
        """Gives whether it was answered."""
        try:
            why_not = await scheduler.tell(self._tools.bus, say, by=BY)
        except Unheard as error:
            self.failing(_of_node(say.node), str(error))
            return False
        self.failing(_of_node(say.node), why_not)
        return True

    # -- telling -----------------------------------------------------------------------------------------------------

    async def answer_status(self, _: Asked) -> bytes:
        cluster, now = self._core.cluster, self._tools.clock.now()
        problems = self._core.problems | self._failing
        return msgspec.json.encode(
            {
                "leads": self._election.leads(now),
                "machines": len(self._core.machines),
                "members": sum(len(group.hosts) for group in cluster.groups) if cluster else 0,
                "pods": len(self._core.workers),
                "requests": self._api.requests,
                "writes": self._writes,
                "conflicts": self._conflicts,
                "problems": dict(sorted(problems.items())[:PROBLEMS_MAX]),
            }
        )


class _Sink:
    """Hands on what is seen of one kind of objects."""

    def __init__(self, pool: Pool, kind: str) -> None:
        self._pool, self._kind = pool, kind

    async def listed(self, items: list[Object]) -> None:
        await self._pool.listed(self._kind, items)

    def happened(self, event: Event) -> None:
        self._pool.happened(self._kind, event)

    def failing(self, why: str) -> None:
        self._pool.failing(self._kind, why)


def _of_node(node: str) -> str:
    """Under which it is told what the scheduler does not do with a node."""
    return f"node {node}"
