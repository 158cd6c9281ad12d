"""Everything that reads bytes of a stranger, each as one function: what it lets out is a finding.

A parser has its own error for what it cannot read, and that one alone may leave it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from controlplane.config import Configuration, Team
from controlplane.gateway.projection import Projection
from controlplane.gateway.ray_jobs import mapping
from controlplane.gateway.ray_jobs.unpack import BadPackage, Unpacking
from controlplane.monitoring import door, intake, otlp, strided
from controlplane.monitoring.store import Store
from controlplane.scheduling import reports
from controlplane.scheduling import service as scheduling
from controlplane.submission import configuring
from controlplane.submission import core as submission
from controlplane.submission.queues import Queues
from events import cloudevents, dead, ledger, otlp_token, subjects
from events import messages as m
from events.wire import UNREADABLE, Delivery, ack_info
from runtime import spool
from runtime.materialise import manifest

_SUBJECT: Final = re.compile(r"hr\.v1\.job\.[a-z0-9-]+\.[a-z0-9-]+")
NOW: Final = 1_000_000.0
SPOOL_BYTES: Final = 2048
"""Of the example: its head and its first records."""
SDK: Final = Path(__file__).parents[2] / "sdk"
CONFIG: Final = Configuration(teams={"vision": Team(queues=("default", "night"))})
QUEUES: Final = Queues.configured(CONFIG)


class Parser(NamedTuple):
    """`seeds`: good examples to begin with."""

    seeds: Sequence[bytes]
    read: Callable[[bytes], None]


def parsers() -> dict[str, Parser]:
    """All of them, by name."""
    batch = _a_batch()
    return {
        "otlp": Parser([batch, b'j{"resourceMetrics": []}'], _otlp),
        "push": Parser([b"gzip\n" + batch, b"\n" + batch], _push),
        "intake": Parser([_a_metrics_message(batch), _a_chunk()], _Intake().read),
        "spool": Parser([_a_spool()], _Spool().read),
        "submit": Parser([b'{"entrypoint": ["python"], "environment": {"python": "3.11"}}'], _submit),
        "control": Parser([b'reprioritise\n{"priority": 3}', b'move\n{"before": "j-abcdefghij23"}'], _control),
        "change": Parser(_changes(), _change),
        "exchange": Parser([msgspec.json.encode(_an_exchange())], _exchange),
        "fact": Parser([b'hr.v1.job.vision.j-1\n{"type":"held","by":"ada"}'], _fact),
        "snapshots": Parser([Projection().snapshot(), scheduling.build(CONFIG).snapshot()], _snapshots),
        "ray_submit": Parser(_ray_submits(), _ray_submit),
        "package": Parser([_a_package()], _package),
        "envelope": Parser([b"hr.v1.dead.submit.a.b\nce-id: 7\nhr-reason: x\nhr-tries: 3"], _envelope),
    }


# -- Ray's Jobs API ----------------------------------------------------------------------------------------------------


def _ray_submits() -> list[bytes]:
    env = {"working_dir": "gcs://_ray_pkg_0123456789abcdef.zip", "pip": {"packages": ["numpy"], "pip_check": False}}
    request = {"entrypoint": "python x.py", "entrypoint_num_gpus": 1, "metadata": {"headrace.queue": "night"}}
    return [
        json.dumps(request | {"runtime_env": env, "entrypoint_label_selector": {"gpu": "in(A100,H100)"}}).encode(),
        b'{"entrypoint": "x", "runtime_env": {"uv": ["a"], "env_vars": {"A": "b"}, "conda": "c"}, "job_id": "d"}',
    ]


def _ray_submit(data: bytes) -> None:
    wanted, problems = mapping.read(data, CONFIG.tiers, "3.11")
    assert all(problem.path and problem.message for problem in problems)
    if not problems:
        submit = m.Submit(entrypoint=wanted.entrypoint, env=wanted.env, environment=wanted.environment, on=wanted.on)
        _submit(msgspec.json.encode(submit))


def _a_package() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (("a.py", b"print(1)\n" * 30), ("b/c.txt", b"x" * 200), ("b/d", b"")):
            archive.writestr(name, content)
    return file.getvalue()


def _package(data: bytes) -> None:
    try:
        unpacking = Unpacking(io.BytesIO(data), bytes_max=1024**2)
        size = sum(map(len, unpacking.chunks()))
    except BadPackage:
        return
    assert size <= 1024**2
    manifest.read(unpacking.manifest)


# -- monitoring --------------------------------------------------------------------------------------------------------


def _otlp(data: bytes) -> None:
    is_json, body = data[:1] == b"j", data[1:] if data[:1] == b"j" else data
    try:
        request = otlp.parse(body, is_json=is_json)
        columns = otlp.columns(request)
    except otlp.BadBody:
        return
    own = strided.columns(body)
    assert own is None or sum(len(column.values) for column in own) <= len(body)
    for part in otlp.split(request, bytes_max=4096):
        otlp.columns(otlp.parse(part))
    assert all(len(column.values) == len(column.steps) for column in columns)


def _push(data: bytes) -> None:
    encoding, _, body = data.partition(b"\n")
    try:
        door.unpacked(body, encoding.decode("latin-1"))
    except door.Refused:
        return
    otlp_token.check(b"secret", data.decode("latin-1"))


class _Intake:
    """Messages of METRICS and LOGS: subject, headers, an empty line, body."""

    def __init__(self) -> None:
        self._store: Store | None = None

    def read(self, data: bytes) -> None:
        if self._store is None:
            self._store = Store(Path(tempfile.mkdtemp(prefix="headrace-fuzz-")) / "store.duckdb")
        head, _, body = data.partition(b"\n\n")
        first, *lines = head.decode("utf-8", "replace").split("\n")
        subject = _spelled(first)
        delivery = Delivery(subject, body, _headers(lines), sequence=1, at=NOW)
        is_log = subject.startswith("hr.v1.from.") and subject.count(".") == 8
        is_metric = subject.startswith("hr.v1.from.") and subject.count(".") == 6
        if is_log:
            intake.chunks([delivery])
        elif is_metric or (subject.startswith("hr.v1.otlp.") and subject.count(".") == 4):
            intake.parts([delivery], self._store)


def _a_batch() -> bytes:
    request = ExportMetricsServiceRequest()
    resource = request.resource_metrics.add()
    pair = resource.resource.attributes.add()
    pair.key, pair.value.int_value = "headrace.attempt", 1
    metric = resource.scope_metrics.add().metrics.add()
    metric.name = "loss"
    for step in range(3):
        point = metric.gauge.data_points.add()
        point.time_unix_nano, point.as_double = 1_700_000_000_000_000_000, step / 2
        pair = point.attributes.add()
        pair.key, pair.value.int_value = "step", step
    body: bytes = request.SerializeToString()
    return body


def _a_metrics_message(batch: bytes) -> bytes:
    return b"hr.v1.from.n1.metrics.vision.j-1\nhr-spool: j-1/1/a.spool\nhr-first: 0\nhr-count: 3\n\n" + batch


def _a_chunk() -> bytes:
    return b"hr.v1.from.n1.logs.vision.j-1.1.stdout\nhr-offset: 0\nhr-end: 1\n\nepoch 1\n"


# -- the node ----------------------------------------------------------------------------------------------------------


class _Spool:
    """What a job may have made of a spool."""

    def __init__(self) -> None:
        self._file = Path(tempfile.mkdtemp(prefix="headrace-fuzz-")) / "a.spool"

    def read(self, data: bytes) -> None:
        self._file.write_bytes(data)
        try:
            reader = spool.Spool(self._file)
        except (spool.BadSpool, OSError):
            return
        try:
            for now in (0.0, 1.0, 60.0):
                reader.look(now)
                records = reader.take(1000, now)
                assert records is None or len(records) <= 1000
                reader.skip_hole(now, over=True)
        except (spool.BadSpool, OSError):
            return
        finally:
            _close(reader)


def _close(reader: spool.Spool) -> None:
    close = getattr(reader, "close", None)
    if close is not None:
        close()


def _a_spool() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        code = "import headrace\nfor step in range(3): headrace.log(step=step, loss=step / 2)"
        environ = os.environ | {"HEADRACE_SPOOL": folder, "PYTHONPATH": str(SDK)}
        subprocess.run([sys.executable, "-c", code], env=environ, check=True)
        (name,) = spool.files(Path(folder))
        return (Path(folder) / name).read_bytes()[:SPOOL_BYTES]


# -- requests, nodes, facts --------------------------------------------------------------------------------------------


def _submit(data: bytes) -> None:
    event_id = data[-8:].decode("latin-1")
    request = submission.Incoming(team="vision", user="ada", body=data, at=NOW, event_id=event_id, place="1@1.0")
    decision = submission.decide_submit(request, CONFIG, QUEUES)
    assert decision.answer.verdict in ("accepted", "rejected", "refused")
    msgspec.json.encode(decision.answer)


def _control(data: bytes) -> None:
    job, _, body = data.partition(b"\n")
    order = submission.Ordered(team="vision", user="ada", job=job.decode("utf-8", "replace"), body=body, at=NOW)
    control, found = submission.read_control(order, CONFIG)
    assert control is not None or found.problems


def _changes() -> list[bytes]:
    return [
        b"night\n" + msgspec.json.encode(m.CreateQueue(weight=2.0, tiers=("cpu",), guaranteed_gpus=1)),
        b"night\n" + msgspec.json.encode(m.SetQueue(policy="sjf", guard=None, time_limit_s_max=60.0)),
        b"\n" + msgspec.json.encode(m.SetTeam(weight=2.0, gpus_max=None)),
    ]


def _change(data: bytes) -> None:
    """A change of a queue, or, with no name before it, of a team."""
    queue, _, body = data.partition(b"\n")
    order = configuring.Order("ops", "vision", queue.decode("utf-8", "replace"), body)
    change, found = configuring.read(order, CONFIG, QUEUES)
    assert change is not None or found.problems
    if change is not None:
        decision = configuring.decide(order, change, QUEUES, CONFIG, configuring.There(), found)
        msgspec.json.encode(decision.fact if isinstance(decision, configuring.Change) else decision)


def _exchange(data: bytes) -> None:
    try:
        exchange = msgspec.json.decode(data, type=m.Exchange)
        subjects.exchange(exchange.node)
    except (*UNREADABLE, ValueError):
        return
    if not reports.problem(exchange):
        hear(exchange)


def hear(exchange: m.Exchange) -> None:
    """What a leader does with what a node says, for some rounds. Its invariants hold, and its answer can be sent."""
    core = scheduling.build(CONFIG)
    core.apply(ledger.Entry(1, subjects.TERM, m.Led(leader="me"), NOW, ""), NOW)
    core.begin_term(NOW)
    sequence = 1
    for now in (NOW, NOW + 1, NOW + 30):
        core.hear(exchange, now)
        round_ = core.decide(now)
        for decision in round_.decisions:
            sequence += 1
            core.apply(ledger.Entry(sequence, decision.subject, decision.fact, now, ""), now)
        core.check()
        msgspec.json.encode(core.desired(exchange.node, now))
    msgspec.json.encode(core.nodes_view())
    core.snapshot()


def _an_exchange() -> m.Exchange:
    ref = m.AttemptRef(team="vision", job="j-1", attempt=1)
    live = m.LiveAttempt(ref=ref, state="ended", end=m.AttemptEnd(cause="exited", ended_at=1.0, exit_code=0))
    capacity = m.Capacity(cpus=8, memory_bytes=2**33, gpus=2)
    return m.Exchange(node="n1", boot="b", runner="r", capacity=capacity, attempts=(live,))


def _fact(data: bytes) -> None:
    subject, _, body = data.partition(b"\n")
    delivery = Delivery(_spelled(subject.decode("utf-8", "replace")), body, sequence=1, at=NOW)
    try:
        entry = ledger.entry(delivery)
    except ledger.UnknownFact:
        return
    if _SUBJECT.fullmatch(delivery.subject):  # services alone write facts, and they spell them well
        Projection().apply(entry)


def _snapshots(data: bytes) -> None:
    with contextlib.suppress(*UNREADABLE):
        Projection.restore(data)
    with contextlib.suppress(ValueError):  # what `keeping` expects of it
        scheduling.build(CONFIG).restore(data)


def _envelope(data: bytes) -> None:
    subject, *lines = data.decode("utf-8", "replace").split("\n")
    delivery = Delivery(subject, data, _headers(lines), sequence=1, at=NOW)
    cloudevents.from_headers(delivery.headers)
    dead.read(delivery)
    with contextlib.suppress(dead.NoReplay):
        dead.replayed(delivery)
    with contextlib.suppress(ValueError):  # the server alone writes there
        ack_info(subject)
    json.dumps(delivery.place)


def _headers(lines: Sequence[str]) -> dict[str, str]:
    return {name.strip(): value.strip() for name, colon, value in (line.partition(":") for line in lines) if colon}


def _spelled(text: str) -> str:
    """As a server would take it: no empty tokens, no wildcards, no white space."""
    return ".".join("".join(token.split()) or "x" for token in text.replace("*", "x").replace(">", "x").split("."))
