"""Any OpenTelemetry SDK may write an attempt's metrics, and only that attempt's."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from controlplane.config import ConfigurationError
from controlplane.monitoring import door
from events import messages as m
from events import otlp_token
from events.bus import AskRefused, Bus
from tests.support import monitoring as world
from tests.support.monitoring import SECRET, TEAM, ask, eventually
from tests.support.nats import NatsServer

REF = m.AttemptRef(team=TEAM, job="j-1", attempt=2)
TOKEN = otlp_token.mint(SECRET.encode(), REF)


def push(url: str, body: bytes, token: str = TOKEN, path: str = "/v1/metrics", **headers: str) -> Any:
    return httpx.AsyncClient(base_url=url).post(
        path,
        content=body,
        headers={"content-type": "application/x-protobuf", "authorization": f"Bearer {token}"}
        | {name.replace("_", "-"): value for name, value in headers.items()},
    )


def a_body(name: str = "loss", value: float = 1.5, points: int = 1) -> bytes:
    request = ExportMetricsServiceRequest()
    resource = request.resource_metrics.add()
    lie = resource.resource.attributes.add()  # another job's, another attempt's: not believed
    lie.key, lie.value.string_value = "headrace.job", "j-2"
    lie = resource.resource.attributes.add()
    lie.key, lie.value.int_value = "headrace.attempt", 7
    metric = resource.scope_metrics.add().metrics.add()
    metric.name = name
    for step in range(points):
        point = metric.gauge.data_points.add()
        point.as_double, point.time_unix_nano = value, 10**18 + step
        step_label = point.attributes.add()
        step_label.key, step_label.value.int_value = "step", step
    return request.SerializeToString()


async def curves(bus: Bus, job: str = "j-1") -> dict[str, m.Series]:
    answer = await ask(bus, "series", m.AskSeries(team=TEAM, job=job), m.SeriesAnswer)
    return {series.name: series for series in answer.series}


def train(url: str) -> None:
    """What a user's program does with the stock SDK."""
    exporter = OTLPMetricExporter(endpoint=f"{url}/v1/metrics", headers={"authorization": f"Bearer {TOKEN}"})
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=60_000)
    provider = MeterProvider([reader], resource=Resource({"headrace.job": "j-2"}))
    meter = provider.get_meter("training")
    meter.create_gauge("loss").set(0.25, {"step": 7, "split": "train"})
    meter.create_counter("samples").add(32)
    meter.create_histogram("seconds").record(0.5)
    provider.shutdown()


async def test_the_stock_sdk_writes_into_the_attempt_of_its_token(bus: Bus, nats: NatsServer, tmp_path: Path) -> None:
    async with world.monitoring(bus, world.configuration(nats, tmp_path / "state")) as status:
        await world.write_facts(bus, "j-1", world.accepted("j-1"))
        await asyncio.to_thread(train, status["otlp"])

        async def arrived() -> dict[str, m.Series]:
            found = await curves(bus)
            return found if len(found) == 4 else {}

        found = await eventually(arrived)
        assert found["loss{split=train}"].values == (0.25,)
        assert found["loss{split=train}"].steps == (7,)
        assert found["samples"].values == (32.0,)
        assert (found["seconds.count"].values, found["seconds.sum"].values) == ((1.0,), (0.5,))
        assert {series.attempt for series in found.values()} == {2}


async def test_a_push_is_answered_as_otlp_wants_it(bus: Bus, nats: NatsServer, tmp_path: Path) -> None:
    async with world.monitoring(bus, world.configuration(nats, tmp_path / "state")) as status:
        url = status["otlp"]
        await world.write_facts(bus, "j-1", world.accepted("j-1"))
        packed = await push(url, gzip.compress(a_body()), content_encoding="gzip")
        assert (packed.status_code, packed.content) == (200, b"")
        assert packed.headers["content-type"] == "application/x-protobuf"
        json = await push(url, b'{"resourceMetrics": []}', content_type="application/json")
        assert (json.status_code, json.json()) == (200, {})
        for path in ("/v1/traces", "/v1/logs"):
            assert (await push(url, b"", path=path)).status_code == 200

        wrong = await push(url, a_body(), token="nobody's")
        assert wrong.status_code == 401
        assert wrong.content[:2] == b"\x08\x10"  # google.rpc.Status, code UNAUTHENTICATED
        bad = await push(url, b"\xff\xff\xff", content_type="application/x-protobuf")
        assert (bad.status_code, bad.content[:2]) == (400, b"\x08\x03")
        bad = await push(url, b"{", content_type="application/json")
        assert (bad.status_code, bad.json()["code"]) == (400, 3)
        assert (await push(url, b"no gzip", content_encoding="gzip")).status_code == 400
        assert (await push(url, gzip.compress(a_body())[:-9], content_encoding="gzip")).status_code == 400
        assert (await push(url, b"", content_encoding="br")).status_code == 415
        assert (await push(url, bytes(door.BODY_BYTES_MAX + 1))).status_code == 413
        bomb = gzip.compress(bytes(door.PLAIN_BYTES_MAX + 1))
        assert (await push(url, bomb, content_encoding="gzip")).status_code == 413
        counts = await world.status(bus)
        assert (counts["dropped_traces"], counts["dropped_logs"]) == (1, 1)


async def test_a_push_that_is_sent_again_counts_once_and_a_large_one_is_whole(
    bus: Bus, nats: NatsServer, tmp_path: Path
) -> None:
    async with world.monitoring(bus, world.configuration(nats, tmp_path / "state")) as status:
        large = a_body(points=40_000)
        assert len(large) > 1_000_000
        for body in (large, large, a_body("acc")):
            assert (await push(status["otlp"], body)).status_code == 200

        async def arrived() -> dict[str, m.Series]:
            try:
                found = await curves(bus)
            except AskRefused:  # nothing of it is stored yet, and the ledger knows no such job
                return {}
            return found if "acc" in found else {}

        found = await eventually(arrived)
        assert found["loss"].count == 40_000
        assert (await world.status(bus))["records_repeated"] == 40_000


async def test_without_the_stream_a_push_is_to_be_sent_again(bus: Bus) -> None:
    async def refuse(items: list[Any]) -> list[Any]:
        from events.bus import Unknown

        return [Unknown("no answer")] * len(items)

    async def never(ref: m.AttemptRef) -> bool:
        return False

    entrance = door.Door(SECRET.encode(), refuse, never)
    transport = httpx.ASGITransport(app=entrance.application())  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
        answer = await client.post("/v1/metrics", content=a_body(), headers={"authorization": f"Bearer {TOKEN}"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_an_attempt_that_has_long_been_over_is_refused(
    bus: Bus, nats: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controlplane.monitoring.answers.LATE_S", 0.0)
    async with world.monitoring(bus, world.configuration(nats, tmp_path / "state")) as status:
        await world.write_facts(bus, "j-1", world.accepted("j-1"), world.placed(1), world.finished(1))
        old = otlp_token.mint(SECRET.encode(), m.AttemptRef(team=TEAM, job="j-1", attempt=1))

        async def refused() -> bool:
            return (await push(status["otlp"], a_body(), token=old)).status_code == 403

        await eventually(refused)


def test_a_taken_port_is_an_error_that_names_the_setting() -> None:
    taken = door.listener("127.0.0.1", 0)
    with pytest.raises(ConfigurationError, match="otlp_port: cannot listen on 127"):
        door.listener("127.0.0.1", taken.getsockname()[1])
    taken.close()
