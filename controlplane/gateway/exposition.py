"""`GET /metrics`: numbers in the text form of Prometheus, each as `headrace_<name>`.

Everybody sees the counters of all services. A token that `scrapes` sees queues and nodes as well, and of each running
job the newest value of each series: the step is a series of its own, not a label, which would make a series of every
step. Series of a job that does not run any more are gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from litestar import Request, Response, get
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from controlplane.config import Identity
from controlplane.gateway.cluster import statuses
from controlplane.gateway.context import Gateway, Here
from controlplane.gateway.failures import Failure
from events import messages as m
from events.bus import AskRefused, BusError

JOBS_MAX: Final = 50
"""Of one team, in one question: monitoring answers 5,000 series at once."""
SERIES_MAX: Final = 20_000
"""Of all jobs. The rest is counted in `headrace_job_series_left_out`."""


@get("/metrics", media_type="text/plain")
async def metrics(gateway: Here, request: Request[Identity, Any, Any]) -> Response[bytes]:
    """What `GET /v1/status` says in numbers; `headrace_up` is 0 for a service that does not answer."""
    families = Families()
    _services(families, await statuses(gateway))
    if request.user.scrapes:
        await _queues(families, gateway)
        await _jobs(families, gateway, await _nodes(families, gateway))
    registry = CollectorRegistry()
    registry.register(families)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


class Families:
    """Gauges by name. Gauges all: a counter of a service begins anew with its process, which is not this one."""

    def __init__(self) -> None:
        self._families: dict[str, GaugeMetricFamily] = {}

    def add(self, name: str, value: float, /, **labels: str) -> None:
        """The same name has the same labels each time."""
        family = self._families.get(name) or GaugeMetricFamily(f"headrace_{name}", name, labels=list(labels))
        self._families[name] = family
        family.add_metric(list(labels.values()), value)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield from self._families.values()


def _services(families: Families, services: Mapping[str, Mapping[str, Any]]) -> None:
    for service, said in services.items():
        families.add("up", int(bool(said.get("answers"))), service=service)
        for name, value in said.items():
            if type(value) in (int, float):
                families.add(name, value, service=service)


async def _queues(families: Families, gateway: Gateway) -> None:
    try:
        view = await gateway.ask("scheduling", "queues", None, m.QueuesView)
    except (BusError, AskRefused, Failure):
        return  # `headrace_up` says who does not answer
    for queue in view.queues:
        labels = {"team": queue.team, "queue": queue.queue}
        families.add("queue_waiting", queue.waiting, **labels)
        families.add("queue_running", queue.running, **labels)
        families.add("queue_gpus", queue.gpus, **labels)


async def _nodes(families: Families, gateway: Gateway) -> dict[str, set[str]]:
    """Gives the jobs that run, by team."""
    running: dict[str, set[str]] = {}
    try:
        view = await gateway.ask("scheduling", "nodes", None, m.NodesView)
    except (BusError, AskRefused, Failure):
        return running
    for node in view.nodes:
        families.add("node_ready", int(node.state == "ready"), node=node.node)
        families.add("node_attempts", len(node.attempts), node=node.node)
        families.add("node_cpus", node.capacity.cpus, node=node.node)
        families.add("node_cpus_free", node.free.cpus, node=node.node)
        families.add("node_gpus", node.capacity.gpus, node=node.node)
        families.add("node_gpus_free", len(node.free.gpus), node=node.node)
        for ref in node.attempts:
            running.setdefault(ref.team, set()).add(ref.job)
    return running


async def _jobs(families: Families, gateway: Gateway, running: Mapping[str, set[str]]) -> None:
    shown = left_out = 0
    for team, jobs in sorted(running.items()):
        for some in _batches(sorted(jobs)):
            try:
                answer = await gateway.ask("monitoring", "latest", m.AskLatest(team=team, jobs=some), m.LatestAnswer)
            except (BusError, AskRefused, Failure):
                continue
            for one in _newest(answer.latest):
                if shown == SERIES_MAX:
                    left_out += 1
                    continue
                shown += 1
                labels = {"team": team, "job": one.job, "name": one.name, "rank": str(one.rank)}
                families.add("job_value", float("nan") if one.value is None else one.value, **labels)
                families.add("job_step", one.step, **labels)
    families.add("job_series_left_out", left_out)


def _newest(latest: Iterable[m.Latest]) -> Iterable[m.Latest]:
    """Of each series, that of the newest attempt: they come in the order of attempts."""
    return {(one.job, one.name, one.rank): one for one in latest}.values()


def _batches(jobs: list[str]) -> Iterator[tuple[str, ...]]:
    for begin in range(0, len(jobs), JOBS_MAX):
        yield tuple(jobs[begin : begin + JOBS_MAX])
