"""`GET /metrics`: the counters of all services in the text form of Prometheus, each as `headrace_<counter>`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from litestar import Response, get
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from controlplane.gateway.cluster import statuses
from controlplane.gateway.context import Here


@get("/metrics", media_type="text/plain")
async def metrics(gateway: Here) -> Response[bytes]:
    """What `GET /v1/status` says in numbers; `headrace_up` is 0 for a service that does not answer."""
    registry = CollectorRegistry()
    registry.register(_Said(await statuses(gateway)))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


class _Said:
    """The numbers in what services said, as families over services."""

    def __init__(self, services: Mapping[str, Mapping[str, Any]]) -> None:
        self._services = services

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One family a counter. Gauges all: a counter begins anew with its process, which is not this one."""
        families: dict[str, GaugeMetricFamily] = {}
        for service, said in self._services.items():
            numbers = {"up": int(bool(said.get("answers")))}
            numbers |= {name: value for name, value in said.items() if type(value) in (int, float)}
            for name, value in numbers.items():
                family = families.get(name) or GaugeMetricFamily(f"headrace_{name}", name, labels=["service"])
                families[name] = family
                family.add_metric([service], value)
        yield from families.values()
