"""What OpenTelemetry can say, and what becomes of it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from controlplane.monitoring import otlp, strided
from events.messages import AttemptRef
from runtime import otlp as shipper
from runtime.spool import Layout

REF = AttemptRef(team="vision", job="j-1", attempt=3)


def a_request() -> tuple[ExportMetricsServiceRequest, object]:
    request = ExportMetricsServiceRequest()
    return request, request.resource_metrics.add().scope_metrics.add()


def label(pairs: object, key: str, value: object) -> None:
    pair = pairs.add()  # type: ignore[attr-defined]
    pair.key = key
    kind = {bool: "bool_value", int: "int_value", float: "double_value", str: "string_value"}[type(value)]
    setattr(pair.value, kind, value)


def by_name(request: ExportMetricsServiceRequest) -> dict[str, otlp.Column]:
    return {column.name: column for column in otlp.columns(otlp.parse(request.SerializeToString()))}


@settings(max_examples=50, deadline=None)
@given(
    rank=st.integers(0, 70_000),
    names=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), min_size=1, max_size=3, unique=True),
    rows=st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**63 - 1)), min_size=1, max_size=20),
)
def test_our_own_form_is_read_as_opentelemetrys_classes_read_it(
    rank: int, names: list[str], rows: list[tuple[int, int]]
) -> None:
    layout = Layout(names=tuple(names), rank=rank, start=0, size=0, slots=0)
    records = np.zeros(len(rows), layout.dtype)
    records["step"], records["time"] = zip(*rows, strict=True)
    records["values"] = np.arange(records["values"].size).reshape(records["values"].shape) / 7
    body = shipper.encoded(REF, layout, records)
    fast, slow = strided.columns(body), otlp.columns(otlp.parse(body))
    assert fast is not None
    for one, other in zip(fast, slow, strict=True):
        assert one[:3] == other[:3] == (3, min(rank, otlp.RANK_MAX), other.name)
        for left, right in zip(one[3:], other[3:], strict=True):
            np.testing.assert_array_equal(left, right)


def a_body() -> bytearray:
    layout = Layout(names=("loss", "acc"), rank=1, start=0, size=0, slots=0)
    records = np.zeros(3, layout.dtype)
    records["step"], records["time"] = [1, 2, 3], [10, 11, 12]
    return bytearray(shipper.encoded(REF, layout, records))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_changed_byte_never_makes_the_short_way_say_something_else(data: st.DataObject) -> None:
    body = a_body()
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    both_ways_agree(body)


def test_nor_does_a_flipped_bit() -> None:
    """Each of them. Found by the test above: a metric under another number was still read as one."""
    for bit in range(len(a_body()) * 8):
        body = a_body()
        body[bit // 8] ^= 1 << bit % 8
        both_ways_agree(body)


def both_ways_agree(body: bytearray) -> None:
    fast = strided.columns(bytes(body))
    if fast is None:
        return
    try:
        slow = otlp.columns(otlp.parse(bytes(body)))
    except otlp.BadBody:
        return  # in a label that the short way does not look into
    for one, other in zip(fast, slow, strict=True):
        assert one[:3] == other[:3]
        for left, right in zip(one[3:], other[3:], strict=True):
            np.testing.assert_array_equal(left, right)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_rubbish_is_a_bad_body_or_nothing(body: bytes) -> None:
    strided.columns(body)
    try:
        otlp.columns(otlp.parse(body))
    except otlp.BadBody:
        return


def test_a_gauge_keeps_its_step_and_other_attributes_become_part_of_the_name() -> None:
    request, scope = a_request()
    metric = scope.metrics.add()  # type: ignore[attr-defined]
    metric.name = "loss"
    for step, split in ((1, "train"), (2, "test"), (3, "train")):
        point = metric.gauge.data_points.add()
        point.as_double, point.time_unix_nano = step / 2, step
        label(point.attributes, "step", step)
        label(point.attributes, "split", split)
        label(point.attributes, "fold", 7)
    found = by_name(request)
    assert found["loss{fold=7,split=train}"].steps.tolist() == [1, 3]
    assert found["loss{fold=7,split=test}"].values.tolist() == [1.0]


def test_the_step_of_an_exemplar_counts_and_none_is_said_so() -> None:
    request, scope = a_request()
    metric = scope.metrics.add()  # type: ignore[attr-defined]
    metric.name = "loss"
    point = metric.gauge.data_points.add()
    point.as_int = 4
    label(point.exemplars.add().filtered_attributes, "step", 17)
    metric.gauge.data_points.add().as_double = 5
    column = by_name(request)["loss"]
    assert column.steps.tolist() == [17, otlp.NO_STEP]
    assert column.values.tolist() == [4.0, 5.0]


def test_sums_are_kept_as_they_are_and_histograms_as_count_and_sum() -> None:
    request, scope = a_request()
    for kind in ("sum", "histogram", "exponential_histogram", "summary"):
        metric = scope.metrics.add()  # type: ignore[attr-defined]
        metric.name = kind
        point = getattr(metric, kind).data_points.add()
        if kind == "sum":
            point.as_int = 9
        else:
            point.count, point.sum = 4, 2.5
    values = {name: column.values.tolist() for name, column in by_name(request).items()}
    assert values == {"sum": [9.0]} | {
        f"{kind}.{part}": [value]
        for kind in ("histogram", "exponential_histogram", "summary")
        for part, value in (("count", 4.0), ("sum", 2.5))
    }


def test_a_rank_may_come_as_text_as_it_does_from_an_environment_variable() -> None:
    request = ExportMetricsServiceRequest()
    resource = request.resource_metrics.add()
    resource.resource.attributes.add(key="headrace.rank").value.string_value = "3"
    resource.scope_metrics.add().metrics.add(name="loss").gauge.data_points.add(as_double=0.5, time_unix_nano=1)
    assert [column.rank for column in otlp.columns(request)] == [3]


def test_a_point_without_a_value_is_not_a_number() -> None:
    request, scope = a_request()
    metric = scope.metrics.add()  # type: ignore[attr-defined]
    metric.gauge.data_points.add()
    assert math.isnan(by_name(request)["unnamed"].values[0])


def test_json_is_read_with_its_hexadecimal_ids() -> None:
    text = {
        "resourceMetrics": [
            {
                "scopeMetrics": [
                    {
                        "metrics": [
                            {
                                "name": "x",
                                "gauge": {
                                    "dataPoints": [
                                        {
                                            "timeUnixNano": "5",
                                            "asDouble": 1.5,
                                            "attributes": [{"key": "step", "value": {"intValue": "3"}}],
                                            "exemplars": [
                                                {
                                                    "spanId": "eee19b7ec3c1b174",
                                                    "traceId": "5b8efff798038103d269b633813fc60c",
                                                    "asDouble": 1,
                                                }
                                            ],
                                        }
                                    ]
                                },
                            }
                        ]
                    }
                ]
            }
        ]
    }
    (column,) = otlp.columns(otlp.parse(json.dumps(text).encode(), is_json=True))
    assert (column.name, column.steps.tolist(), column.values.tolist()) == ("x", [3], [1.5])


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'"x"', b'{"resourceMetrics": 5}', b"[" * 5000, b'{"a":' * 90 + b"1" + b"}" * 90]
)
def test_json_that_is_no_request_is_a_bad_body(body: bytes) -> None:
    with pytest.raises(otlp.BadBody):
        otlp.parse(body, is_json=True)


def test_a_large_request_is_cut_between_points_and_nothing_is_lost() -> None:
    request, scope = a_request()
    label(request.resource_metrics[0].resource.attributes, "headrace.rank", 2)
    for name in ("a", "b"):
        metric = scope.metrics.add()  # type: ignore[attr-defined]
        metric.name = name
        for step in range(500):
            point = metric.gauge.data_points.add()
            point.as_double = step
            label(point.attributes, "step", step)
    bodies = otlp.split(request, bytes_max=5_000)
    assert len(bodies) > 5
    assert max(map(len, bodies)) <= 5_000
    steps: dict[str, list[int]] = {}
    for body in bodies:
        for column in otlp.columns(otlp.parse(body)):
            assert column.rank == 2
            steps.setdefault(column.name, []).extend(column.steps.tolist())
    assert steps == {"a": list(range(500)), "b": list(range(500))}
