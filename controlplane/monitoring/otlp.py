"""OTLP metrics ↔ columns: what OpenTelemetry sends, as arrays of steps, times and values a series.

How OpenTelemetry's data model becomes series (https://opentelemetry.io/docs/specs/otel/metrics/data-model/):

* a Gauge or a Sum is a series of its own name; a Sum as it was sent, cumulative or delta;
* a Histogram, an exponential one and a Summary become `<name>.count` and `<name>.sum`: their buckets are not kept;
* the step is the point's integer attribute `step`, else that of its newest exemplar, else it is NO_STEP, which the
  store replaces by the whole seconds since the attempt's first point;
* every other attribute becomes part of the name, sorted: `requests{code=200,path=/}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

NO_STEP: Final = -(2**63)
TIME_MAX_NS: Final = 2**63 - 1
RANK_MAX: Final = 65_535
NAME_CHARACTERS_MAX: Final = 256
"""Of a series, attributes included; a longer name is cut."""
ATTRIBUTES_MAX: Final = 8
"""That count as part of a name; the others of a point are left out."""
ATTRIBUTE_CHARACTERS_MAX: Final = 64
JSON_DEPTH_MAX: Final = 32
"""Of a JSON body: OTLP needs about 12."""

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class BadBody(Exception):
    """This is no OTLP metrics request; the message says what is wrong with it."""


class Column(NamedTuple):
    """Points of one series, in the order in which they were sent. `times` are ns since the epoch, 0: unsaid."""

    attempt: int
    """0: the sender did not say."""
    rank: int
    name: str
    steps: Integers
    times: Integers
    values: Floats


def parse(body: bytes, *, is_json: bool = False) -> ExportMetricsServiceRequest:
    """The request in a body. Raises BadBody."""
    request = ExportMetricsServiceRequest()
    try:
        if is_json:
            content = json.loads(body)
            if not isinstance(content, dict):
                raise BadBody("not an OTLP ExportMetricsServiceRequest: no JSON object")
            json_format.ParseDict(
                _without_ids(content), request, ignore_unknown_fields=True, max_recursion_depth=JSON_DEPTH_MAX
            )
        else:
            request.ParseFromString(body)
    except (DecodeError, json_format.ParseError, ValueError, RecursionError, TypeError, AttributeError) as error:
        raise BadBody(f"not an OTLP ExportMetricsServiceRequest: {str(error)[:200]}") from error
    return request


def columns(request: ExportMetricsServiceRequest) -> list[Column]:
    """All series in a request. Total: whatever protobuf can say has an answer."""
    found: list[Column] = []
    for resource in request.resource_metrics:
        labels = {pair.key: _whole(pair.value) for pair in resource.resource.attributes}
        attempt = max(0, labels.get("headrace.attempt", 0))
        rank = min(max(0, labels.get("headrace.rank", 0)), RANK_MAX)
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                found.extend(Column(attempt, rank, *series) for series in _series(metric))
    return found


def _whole(value: Any) -> int:
    """A number, also one that came as text: what stands in OTEL_RESOURCE_ATTRIBUTES is nothing else."""
    text = value.string_value
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else int(value.int_value)


_Series = tuple[str, Integers, Integers, Floats]


def _series(metric: Metric) -> Iterator[_Series]:
    kind = metric.WhichOneof("data")
    name = metric.name or "unnamed"
    if kind is None:
        return
    points: Sequence[Any] = getattr(metric, kind).data_points
    if kind in ("gauge", "sum"):
        yield from _grouped(name, points, [_number(point) for point in points])
    else:
        yield from _grouped(name + ".count", points, [float(point.count) for point in points])
        yield from _grouped(name + ".sum", points, [float(point.sum) for point in points])


def _number(point: Any) -> float:
    which = point.WhichOneof("value")
    if which == "as_double":
        return float(point.as_double)
    return float(point.as_int) if which == "as_int" else float("nan")


def _grouped(name: str, points: Sequence[Any], values: Sequence[float]) -> Iterator[_Series]:
    """One series for each different set of attributes."""
    groups: dict[str, list[int]] = {}
    for index, point in enumerate(points):
        groups.setdefault(_suffix(point.attributes), []).append(index)
    steps = np.array([_step(point) for point in points], np.int64)
    times = np.array([min(point.time_unix_nano, TIME_MAX_NS) for point in points], np.int64)
    numbers = np.array(values, np.float64)
    for suffix, indices in groups.items():
        full = (name + suffix)[:NAME_CHARACTERS_MAX]
        if len(groups) == 1:
            yield full, steps, times, numbers
        else:
            yield full, steps[indices], times[indices], numbers[indices]


def _step(point: Any) -> int:
    for pair in point.attributes:
        if pair.key == "step":
            return _integer(pair)
    for exemplar in reversed(getattr(point, "exemplars", ())):
        for pair in exemplar.filtered_attributes:
            if pair.key == "step":
                return _integer(pair)
    return NO_STEP


def _integer(pair: Any) -> int:
    return int(pair.value.int_value) if pair.value.WhichOneof("value") == "int_value" else NO_STEP


def _suffix(attributes: Iterable[Any]) -> str:
    parts = [f"{pair.key}={_text(pair.value)}" for pair in attributes if pair.key != "step"]
    return "{" + ",".join(sorted(parts)[:ATTRIBUTES_MAX]) + "}" if parts else ""


def _text(value: Any) -> str:
    which = value.WhichOneof("value")
    if which is None:
        return ""
    content = getattr(value, which)
    if which == "bool_value":
        content = str(content).lower()
    return str(content)[:ATTRIBUTE_CHARACTERS_MAX]


def _without_ids(content: Any, depth: int = 0) -> Any:
    """OTLP's JSON has trace and span ids in hexadecimal, where protobuf's has base 64; nobody needs them here."""
    if depth > JSON_DEPTH_MAX:
        raise BadBody(f"JSON nested deeper than {JSON_DEPTH_MAX}")
    if isinstance(content, Mapping):
        return {
            key: _without_ids(value, depth + 1)
            for key, value in content.items()
            if key not in ("traceId", "spanId", "trace_id", "span_id")
        }
    if isinstance(content, list):
        return [_without_ids(value, depth + 1) for value in content]
    return content


def split(request: ExportMetricsServiceRequest, *, bytes_max: int) -> list[bytes]:
    """The request as bodies of at most about `bytes_max`, cut between points."""
    body = request.SerializeToString()
    if len(body) <= bytes_max:
        return [body]
    bodies: list[bytes] = []
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                bodies += _split_metric(resource, metric, bytes_max)
    return bodies


def _split_metric(resource: Any, metric: Metric, bytes_max: int) -> list[bytes]:
    kind = metric.WhichOneof("data")
    if kind is None:
        return []
    points = getattr(metric, kind).data_points
    pieces = max(1, -(-2 * metric.ByteSize() // bytes_max))
    width = max(1, -(-len(points) // pieces))
    bodies = []
    for start in range(0, len(points), width):
        part = ExportMetricsServiceRequest()
        target = part.resource_metrics.add()
        target.resource.CopyFrom(resource.resource)
        copy = target.scope_metrics.add().metrics.add()
        copy.name = metric.name
        getattr(copy, kind).data_points.extend(points[start : start + width])
        bodies.append(part.SerializeToString())
    return bodies
