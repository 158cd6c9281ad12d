"""Ray as a fleet: which nodes there are, and one warm detached runner actor on each.

The driver of Ray ends the whole process when the head stays away, so capacity runs in a process of its own. Everything
here blocks and is called from one worker thread; what Ray raises leaves as FleetError.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final

import ray
from grpc import RpcError
from ray.exceptions import RayError

from controlplane.capacity.core import LABEL, SeenNode
from controlplane.config import endpoint

LOG: Final = logging.getLogger("headrace.capacity")
NAMESPACE: Final = "headrace"
CALL_S_MAX: Final = 10.0
REASON_CHARACTERS_MAX: Final = 500
RAYS_OWN: Final = "ray.io/"
"""What the labels begin with that Ray gives to each node by itself."""
GPU_LABEL: Final = "ray.io/accelerator-type"
RUNNER_MODULE: Final = "runtime.actor"
"""Loaded by name on the node: the node's own code, in whatever release it has."""
UNANSWERED: Final = (RayError, RpcError, OSError, RuntimeError, ValueError)
"""What calls raise when the head does not answer: Ray Client lets through what gRPC says."""


class FleetError(Exception):
    """Ray did not answer, or not as expected."""


class NoHead(FleetError):
    """Nobody listens where Ray's head should be: it is not up yet, or not again."""


@contextmanager
def _asking(failure: str) -> Iterator[None]:
    """Turns what Ray raises inside into a FleetError that begins with `failure`."""
    try:
        yield
    except UNANSWERED as error:
        reason = " ".join(str(error).split())  # its end says more than its beginning, which may be a remote traceback
        raise FleetError(f"{failure}: {reason[-REASON_CHARACTERS_MAX:]}") from error


class Fleet:
    """A connection to the shared Ray cluster."""

    def __init__(self, address: str) -> None:
        """Raises FleetError; NoHead at once, for Ray itself would wait half a minute, and leave a thread behind."""
        try:
            socket.create_connection(endpoint(address), timeout=CALL_S_MAX).close()
        except (OSError, UnicodeError) as error:  # the latter of a name that can be none
            raise NoHead(f"no head of Ray at {address}: {error}") from error
        os.environ["RAY_CLIENT_RECONNECT_GRACE_PERIOD"] = "0"  # a head that died is not waited for: the next is another
        with _asking(f"Ray's head at {address} listens and does not let us in (is RAY_AUTH_TOKEN the head's, too?)"):
            try:
                ray.init(
                    address=address,
                    namespace=NAMESPACE,
                    log_to_driver=False,
                    configure_logging=False,
                    logging_level="ERROR",
                )
            except BaseException:
                ray.shutdown()  # half a connection would be in the way of the next one
                raise

    @_asking("Ray does not list its nodes")
    def nodes(self) -> list[SeenNode]:
        """Every node that Ray knows of, dead ones too."""
        if not ray.is_initialized():
            raise ConnectionError("the connection is lost")
        return [_seen(node) for node in ray.nodes()]

    @_asking("Ray does not tell of runners")
    def runners(self, nodes: list[SeenNode]) -> frozenset[str]:
        """Names of the nodes whose runner answers."""
        handles = {}
        for node in nodes:
            if node.alive and node.name:
                try:
                    handles[node.name] = ray.get_actor(_actor_name(node.name))
                except ValueError:
                    continue
        calls = {name: handle.ping.remote() for name, handle in handles.items()}
        ready = set(ray.wait([*calls.values()], num_returns=len(calls), timeout=CALL_S_MAX)[0]) if calls else set()
        answered = set()
        for name, call in calls.items():
            try:
                ray.get(call, timeout=CALL_S_MAX if call in ready else 0)
            except RayError as error:
                LOG.warning("runner does not answer", extra={"node": name, "reason": _last_line(error)})
                continue
            answered.add(name)
        return frozenset(answered)

    def start_runner(self, node: str, settings: dict[str, Any]) -> None:
        """Ask for the node's runner; one that lives already is left alone."""
        options = {
            "name": _actor_name(node),
            "lifetime": "detached",
            "num_cpus": 0,
            "max_restarts": -1,
            "max_task_retries": -1,
            "max_concurrency": 8,
            "get_if_exists": True,
            "label_selector": {LABEL: node},
        }
        with _asking(f"no runner for {node}"):
            ray.remote(Host).options(**options).remote(settings)

    def close(self) -> None:
        ray.shutdown()


class Host:
    """The body of the runner actor, in a Ray worker on the node."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._runner = import_module(RUNNER_MODULE).start(settings)

    async def ping(self) -> str:
        """Answers while the runner works; raises what it failed of otherwise, so that Ray shows it."""
        answer: str = await self._runner.ping()
        return answer


def _last_line(error: Exception) -> str:
    """Of what Ray tells of a failure: the remote traceback ends with the error itself."""
    lines = str(error).strip().splitlines()
    return lines[-1][:REASON_CHARACTERS_MAX] if lines else type(error).__name__


def _actor_name(node: str) -> str:
    return f"runner-{node}"


def _seen(node: dict[str, Any]) -> SeenNode:
    resources, labels = node.get("Resources", {}), node.get("Labels", {})
    return SeenNode(
        name=labels.get(LABEL, ""),
        ray_id=node["NodeID"],
        alive=bool(node["Alive"]),
        cpus=float(resources.get("CPU", 0)),
        gpus=int(resources.get("GPU", 0)),
        memory_bytes=int(resources.get("memory", 0)),
        gpu_model=labels.get(GPU_LABEL, ""),
        address=node.get("NodeManagerAddress", ""),
        labels={name: value for name, value in labels.items() if name != LABEL and not name.startswith(RAYS_OWN)},
    )
