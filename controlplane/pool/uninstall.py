"""Deletes the RayCluster of an installation that is being removed: `python -m controlplane.pool.uninstall`.

The RayCluster is the pool's and not Helm's, so Helm runs this after everything else is gone (a hook, `post-delete`). A
pool that has not heard of its end yet could make the RayCluster once more, so this looks until it has stayed away.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import Final

from controlplane.pool import raycluster
from controlplane.pool.api import Api, ApiError, Conflict, NotFound, metadata_of

LOOK_S: Final = 2.0
AWAY_S: Final = 20.0
"""A pool that was told to end has ended by then, and so has its right to write."""
LIMIT_S: Final = 200.0


class NotOurs(Exception):
    """Somebody else's RayCluster has that name."""


async def remove(api: Api, settings: raycluster.Settings, *, away_s: float = AWAY_S, look_s: float = LOOK_S) -> int:
    """Delete it until it has stayed away. Gives how often it was deleted. Raises ApiError, NotOurs, TimeoutError."""
    path = f"/apis/{raycluster.API_VERSION}/namespaces/{settings.namespace}/rayclusters/{settings.name}"
    loop, deleted, away_since = asyncio.get_running_loop(), 0, None
    async with asyncio.timeout(LIMIT_S):
        while away_since is None or loop.time() < away_since + away_s:
            try:
                found = await api.get(path)
                away_since = None
                if metadata_of(found, f"GET {path}").get("deletionTimestamp") is None:
                    uid = _ours(found, settings)
                    await api.delete(path, uid=uid)
                    deleted += 1
                    print(f"RayCluster {settings.namespace}/{settings.name} is deleted", flush=True)
            except NotFound:
                away_since = away_since or loop.time()
            except Conflict:
                pass  # another one has its name by now: look again
            await asyncio.sleep(look_s)
    return deleted


def _ours(found: dict[str, object], settings: raycluster.Settings) -> str:
    cluster = raycluster.read(found, settings)
    if cluster.problem:
        raise NotOurs(cluster.problem)
    return cluster.uid


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit status: 0 when it is gone, or was somebody else's."""
    parser = argparse.ArgumentParser(prog="python -m controlplane.pool.uninstall")
    for name in ("namespace", "cluster", "pool"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--kubeconfig", default="", help="empty: the service account of the pod")
    options = parser.parse_args(arguments)
    settings = raycluster.Settings(
        name=options.cluster,
        namespace=options.namespace,
        pool=options.pool,
        node_image="",
        ray_version="",
        token_secret="",
    )
    return asyncio.run(_run(settings, options.kubeconfig))


async def _run(settings: raycluster.Settings, kubeconfig: str) -> int:
    api = await Api.connect(kubeconfig)
    try:
        await remove(api, settings)
    except NotOurs as error:
        print(f"left alone: {error}", flush=True)
    except (ApiError, TimeoutError) as error:
        print(f"error: {error or 'the RayCluster does not go away'}", file=sys.stderr)
        print(f"hint: kubectl -n {settings.namespace} delete raycluster {settings.name}", file=sys.stderr)
        return 1
    finally:
        await api.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
