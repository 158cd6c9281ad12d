"""What an API server may answer that it should not, through the running service: told, less and less often asked again,
nothing deleted, and over when it is over."""

from __future__ import annotations

import asyncio
import itertools
import json
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controlplane.pool import machines, watching
from controlplane.pool import service as pool
from events import subjects
from events.bus import Bus
from tests.integration.pool.test_pool_service import (
    CLUSTERS,
    FAST,
    NODES,
    PODS,
    KubeRay,
    Setting,
    a_node,
)
from tests.support.apiserver import ApiServer, write_kubeconfig
from tests.support.nats import NatsServer
from tests.support.serving import serving

LEASES = "/apis/coordination.k8s.io/v1/namespaces/headrace/leases"
BIG = 10 * 1024**2


@pytest.fixture
async def here(server: ApiServer, nats: NatsServer, bus: Bus, tmp_path: Path) -> AsyncIterator[Bad]:
    """Nothing runs yet: what is bad may be so from the beginning."""
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server.url)
    config = msgspec.structs.replace(FAST, kubeconfig=str(kubeconfig))
    here = Bad(server, KubeRay(server), bus)
    here.run = lambda: serving(pool.serve, nats, config, blobs=tmp_path / "blobs")
    kuberay = asyncio.create_task(here.kuberay.run())
    yield here
    kuberay.cancel()
    await asyncio.gather(kuberay, return_exceptions=True)


class Bad(Setting):
    run: Any

    async def until_told(self, kind: str, what: str) -> None:
        async def told() -> bool:
            return what in (await self.status())["problems"].get(kind, "")

        await self.becomes(told, True)

    async def until_well(self) -> None:
        async def well() -> bool:
            return not {*(await self.status())["problems"]} - {"scheduling"}

        await self.becomes(well, True)

    def gaps(self, asked: str) -> list[float]:
        times = self.server.times.get(asked, [])
        return [after - before for before, after in itertools.pairwise(times)]

    def is_nothing_deleted(self) -> bool:
        return not self.kuberay.deleted and not any(asked.startswith("delete") for asked in self.server.requests)


async def nothing(_: Bad) -> None:
    return None


async def lists_anew_without_one(here: Bad) -> None:
    """A machine that is out of the list: it is asked for whether it is gone, or only somebody else's now."""
    await here.until(lambda: here.groups() == [(1, ["n1"])])
    await here.server.put(NODES, a_node("n2"))
    await here.until(lambda: len(here.kuberay.pods()) == 2)
    await here.server.stop()
    here.server.objects[NODES, "n2"]["metadata"]["labels"][machines.POOL_LABEL] = "another"
    here.server.version += 1
    here.server.forget()
    await here.server.start()


async def writes_by_an_old_version(here: Bad) -> None:
    """Somebody else has written, and no watch has said so."""
    await here.until(lambda: here.groups() == [(1, ["n1"])])
    here.server.refuse["watch rayclusters"] = (403, "rayclusters is forbidden")
    await here.server.stop()
    await here.server.start()
    drifted = json.loads(json.dumps(here.kuberay.cluster()))
    drifted["metadata"]["annotations"]["theirs"] = "x"
    await here.server.put(CLUSTERS, drifted)
    await here.server.put(NODES, a_node("n2"))


@pytest.mark.parametrize(
    ("asked", "told", "provoke"),
    [
        ("list nodes", "nodes", nothing),
        ("watch nodes", "nodes", nothing),
        ("get nodes", "nodes", lists_anew_without_one),
        ("list /api/v1/pods", "write", nothing),
        (f"list {PODS}", "pods", nothing),
        ("watch pods", "pods", nothing),
        ("list rayclusters", "cluster", nothing),
        ("watch rayclusters", "cluster", nothing),
        ("get rayclusters", "write", writes_by_an_old_version),
        ("create rayclusters", "write", nothing),
        ("patch rayclusters", "write", nothing),
        ("get leases", "lease", nothing),
        ("create leases", "lease", nothing),
        ("update leases", "lease", nothing),
    ],
)
async def test_403_on_any_verb_is_told_asked_less_and_less_and_over_when_the_right_is_back(
    here: Bad, asked: str, told: str, provoke: Any
) -> None:
    here.server.refuse[asked] = (403, f"{asked} is forbidden: User cannot do it")
    await here.server.put(NODES, a_node("n1"))
    async with here.run():
        if told == "lease" and asked == "update leases":
            await here.server.put(LEASES, {"metadata": {"name": pool.LEASE}, "spec": {}})
        await provoke(here)
        await here.until_told(told, f"{asked} is forbidden")
        verb = asked.partition(" ")[0].replace("create", "patch" if "rayclusters" in asked else "create")
        counted = f"{verb} {asked.rpartition('/')[2].partition(' ')[2] or asked.rpartition('/')[2]}"
        before = here.server.requests[counted]
        await asyncio.sleep(3.0)
        assert here.server.requests[counted] - before <= 4, "asked again and again"
        assert here.is_nothing_deleted()
        here.server.refuse.clear()
        hosts = ["n1"] if provoke is nothing else ["n1", "n2"]
        if provoke is lists_anew_without_one:  # n2 was given to others, and nothing runs there
            await here.until_well()
        else:
            await here.until(lambda: here.groups() == [(len(hosts), hosts)])
            await here.until_well()


@pytest.mark.parametrize("asked", ["list nodes", "watch nodes", "list rayclusters", "watch pods"])
async def test_the_time_between_two_tries_grows(here: Bad, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PAUSE_S_MIN", 0.05)
    monkeypatch.setattr(watching, "PAUSE_S_MAX", 1.0)
    here.server.refuse[asked] = (403, "is forbidden")
    async with here.run():
        await here.until(lambda: len(here.gaps(asked)) >= 7)
    gaps = here.gaps(asked)
    assert gaps[3] > 2 * gaps[0]
    assert gaps[6] > 2 * gaps[3] or gaps[6] >= 1.0
    assert max(gaps) < 2.5


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ((200, b"<html><body>Sign in</body></html>", "text/html"), "Sign in"),
        ((502, b"<html><body>Bad gateway</body></html>", "text/html"), "Bad gateway"),
        ((200, b'{"hello": "world"}', "application/json"), "no object of Kubernetes"),
        ((200, b'{"metadata": 7}', "application/json"), "no object of Kubernetes"),
        ((200, b'["a"]', "application/json"), "no object of Kubernetes"),
        ((200, b'{"metadata": {"resourceVersion": "1"}, "items": [', "application/json"), "no object of Kubernetes"),
        ((200, b"", "application/json"), "no object of Kubernetes"),
        ((500, b'{"kind": "Status", "code": 500, "message": "etcd is away"}', "application/json"), "etcd is away"),
        ((429, b'{"kind": "Status", "code": 429, "message": "too many requests"}', "application/json"), "too many"),
        ((503, b"", "text/plain"), "no word of Kubernetes"),
    ],
)
async def test_whatever_is_answered_is_told_and_nothing_is_deleted(
    here: Bad, answer: tuple[int, bytes, str], what: str
) -> None:
    await here.server.put(NODES, a_node("n1"))
    async with here.run():
        await here.until(lambda: len(here.kuberay.pods()) == 1)
        await here.server.stop()
        here.server.forget()
        here.server.version += 1
        here.server.instead = answer
        await here.server.start()
        await here.until_told("lease", what)
        here.server.instead = None
        await here.server.put(NODES, a_node("n2"))
        await here.until(lambda: here.groups() == [(2, ["n1", "n2"])])
        await here.until_well()
        assert here.is_nothing_deleted()
        assert len(here.gaps("list nodes")) <= 6


@pytest.mark.parametrize("where", ["a list", "a watch"])
@pytest.mark.parametrize("kind", ["node", "raycluster"])
async def test_an_object_of_10_mb_is_taken_or_named_and_memory_stays_bounded(here: Bad, where: str, kind: str) -> None:
    """etcd takes 1.5 MiB; a server that hands out more is somebody else's. A list may have it, an event may not."""
    await here.server.put(NODES, a_node("n1"))
    big = a_node("n2")
    async with here.run():
        if where == "a watch":
            await here.until(lambda: here.groups() == [(1, ["n1"])])
        else:
            await here.until(lambda: bool(here.kuberay.cluster()))
            await here.server.stop()
            await here.server.start()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if kind == "node":
            big["metadata"]["annotations"] = {"theirs": "x" * BIG}
            await here.server.put(NODES, big)
        else:
            fat = json.loads(json.dumps(here.kuberay.cluster()))
            fat["metadata"]["annotations"]["theirs"] = "x" * BIG
            await here.server.put(CLUSTERS, fat)
        if where == "a list":
            here.server.forget()
            await here.server.stop()
            await here.server.start()
        if kind == "node":
            await here.until(lambda: here.groups() == [(2, ["n1", "n2"])])
        else:
            await here.server.put(NODES, a_node("n3"))
            await here.until(lambda: here.groups()[0][1][-1] == "n3")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 400 * 1024, f"{grown} KiB more than before"
        assert here.server.requests["watch nodes"] + here.server.requests["watch rayclusters"] <= 16
        assert here.is_nothing_deleted()
        said = json.loads(await here.bus.ask(subjects.ask("pool", "status")))
        assert len(json.dumps(said)) < 20_000


@pytest.mark.parametrize("in_trials", [True, False], ids=["told by a trial", "told only when it is written"])
async def test_what_the_server_drops_without_a_word_is_told_and_not_written_again_and_again(
    here: Bad, in_trials: bool
) -> None:
    here.server.unknown.add("upgradeStrategy")
    here.server.drops_in_trials = in_trials
    await here.server.put(NODES, a_node("n1"))
    async with here.run():
        await here.until_told("write", "$.spec.upgradeStrategy")
        assert bool(here.groups()) is not in_trials
        asked = here.server.requests["patch rayclusters"]
        for number in range(5):
            await here.server.put(NODES, a_node(f"m{number}"))
            await asyncio.sleep(2 * pool.SETTLE_S)
        assert here.server.requests["patch rayclusters"] == asked <= 2
    here.server.unknown.clear()
    async with here.run():
        await here.until(lambda: sum(replicas for replicas, _ in here.groups()) == 6)
        await here.until_well()
    assert here.is_nothing_deleted()
