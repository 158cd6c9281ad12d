"""The RayCluster of an installation that is removed is deleted, however late the pool hears of its end."""

from __future__ import annotations

import asyncio

import pytest
from kubernetes.aio.client import Configuration

from controlplane.pool import raycluster, uninstall
from controlplane.pool.api import Api
from controlplane.pool.raycluster import Settings
from tests.support.apiserver import ApiServer

CLUSTERS = "/apis/ray.io/v1/namespaces/ml/rayclusters"
SETTINGS = Settings(name="headrace", namespace="ml", pool="research", node_image="i", ray_version="2", token_secret="t")
OURS = raycluster.render(SETTINGS, [])


async def removed(server: ApiServer, *, away_s: float = 0.3) -> int:
    api = Api(Configuration(host=server.url))
    try:
        return await uninstall.remove(api, SETTINGS, away_s=away_s, look_s=0.02)
    finally:
        await api.close()


async def test_it_is_deleted_and_nothing_else_is(server: ApiServer) -> None:
    await server.put(CLUSTERS, OURS)
    await server.put(CLUSTERS, OURS | {"metadata": OURS["metadata"] | {"name": "another"}})
    assert await removed(server) == 1
    assert [name for _, name in server.objects] == ["another"]
    assert set(server.requests) == {"get rayclusters", "delete rayclusters"}


async def test_it_is_deleted_again_when_a_late_pool_makes_it_again(server: ApiServer) -> None:
    await server.put(CLUSTERS, OURS)
    removing = asyncio.create_task(removed(server))
    async with asyncio.timeout(10):
        while server.objects:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)  # nearly long enough to believe it
    await server.put(CLUSTERS, OURS)
    async with asyncio.timeout(10):
        while server.objects:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    gone_at = asyncio.get_running_loop().time()
    assert await removing == 2
    assert asyncio.get_running_loop().time() >= gone_at + 0.25, "counts anew how long it stays away"


async def test_somebody_elses_is_left_alone(server: ApiServer) -> None:
    await server.put(CLUSTERS, OURS | {"metadata": OURS["metadata"] | {"labels": {}}})
    with pytest.raises(uninstall.NotOurs, match="not ours"):
        await removed(server)
    assert len(server.objects) == 1


async def test_without_one_there_is_nothing_to_do(server: ApiServer) -> None:
    assert await removed(server) == 0


async def test_one_that_took_its_name_meanwhile_is_looked_at_anew(server: ApiServer) -> None:
    await server.put(CLUSTERS, OURS)
    server.refuse["delete rayclusters"] = (409, "Precondition failed")
    removing = asyncio.create_task(removed(server))
    async with asyncio.timeout(10):
        while server.requests["delete rayclusters"] < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    server.refuse.clear()
    assert await removing == 1
