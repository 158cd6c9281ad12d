"""The reader of spools: whatever a job made of its files, it takes what is sound and says what is wrong."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Gauge, Metric, NumberDataPoint

import headrace
from events.messages import AttemptRef
from headrace import metrics
from runtime import otlp, spool
from tests.support.spools import spool_into

REF = AttemptRef(team="vision", job="j-1", attempt=2)
LATER = 1.0


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with spool_into(tmp_path):
        yield tmp_path


def a_spool(folder: Path, records: int = 3) -> Path:
    for step in range(records):
        headrace.log(step=step, loss=step / 2)
    (name,) = spool.files(folder)
    return folder / name


def taken(file: spool.Spool, now: float = 0.0) -> list[int]:
    """Steps of all records that are complete."""
    file.look(now)
    records = file.take(1 << 20, now + LATER)
    return [] if records is None else records["step"].tolist()


def test_writer_and_reader_agree() -> None:
    assert spool.MAGIC == metrics.MAGIC
    assert spool.HEADER.format == metrics.HEADER.format
    assert spool.NAME_LENGTH.format == metrics.NAME_LENGTH.format
    assert spool.VOID == metrics.VOID
    assert spool.SUFFIX == metrics.SUFFIX
    assert spool.NAMES_MAX == metrics.NAMES_MAX
    assert spool.NAME_BYTES_MAX == metrics.NAME_BYTES_MAX
    longest = metrics.HEADER.size + metrics.NAMES_MAX * (metrics.NAME_BYTES_MAX + 2) + metrics.HEADER_ALIGN
    assert longest <= spool.HEADER_BYTES_MAX
    assert max(metrics.SEGMENT_BYTES) // 32 <= spool.SLOTS_MAX


def test_a_reader_goes_on_where_it_was(folder: Path) -> None:
    file = spool.Spool(a_spool(folder))
    assert taken(file) == [0, 1, 2]
    assert taken(file) == []
    headrace.log(step=9, loss=1)
    assert taken(file) == [9]
    assert taken(spool.Spool(file.path, position=3)) == [9]


def test_a_record_is_not_taken_at_the_look_that_found_it(folder: Path) -> None:
    file = spool.Spool(a_spool(folder))
    assert file.look(10.0) == 3
    assert file.take(10, 10.0) is None
    assert file.take(10, 10.0 + spool.SETTLE_S) is not None


def test_after_a_rewind_the_same_records_come_again(folder: Path) -> None:
    file = spool.Spool(a_spool(folder))
    assert taken(file) == [0, 1, 2]
    file.rewind(1)
    assert taken(file) == [1, 2]


def test_a_record_without_its_marker_waits(folder: Path) -> None:
    path = a_spool(folder)
    file = spool.Spool(path)
    write_marker(path, file.layout, 1, 0)
    assert taken(file) == [0]
    write_marker(path, file.layout, 1, file.layout.start + file.layout.size)
    assert taken(file) == [1, 2]


def test_a_record_that_stays_open_is_passed_over_after_a_while(folder: Path) -> None:
    path = a_spool(folder)
    file = spool.Spool(path)
    write_marker(path, file.layout, 1, 0)
    assert taken(file) == [0]
    assert not file.skip_hole(100.0, over=False)
    assert not file.skip_hole(100.0 + spool.HOLE_S / 2, over=False)
    assert file.skip_hole(100.0 + spool.HOLE_S, over=False)
    assert taken(file, 200.0) == [2]


def test_a_record_that_its_dead_writer_left_open_is_passed_over_at_once(folder: Path) -> None:
    path = a_spool(folder)
    file = spool.Spool(path)
    write_marker(path, file.layout, 0, 0)
    assert taken(file) == []
    assert file.skip_hole(0.0, over=True)
    assert taken(file) == [1, 2]
    assert not file.skip_hole(0.0, over=True)


def test_a_marker_of_another_place_is_none(folder: Path) -> None:
    path = a_spool(folder)
    file = spool.Spool(path)
    write_marker(path, file.layout, 1, file.layout.start)
    assert taken(file) == [0]


def write_marker(path: Path, layout: spool.Layout, place: int, marker: int) -> None:
    with path.open("r+b") as file:
        file.seek(layout.start + (place + 1) * layout.size - 8)
        file.write(struct.pack("<Q", marker))


def test_a_file_that_is_cut_while_it_is_read_is_given_up(folder: Path) -> None:
    path = a_spool(folder)
    file = spool.Spool(path)
    os.truncate(path, file.layout.start + file.layout.size)
    with pytest.raises(spool.BadSpool, match="became shorter"):
        file.look(0.0)


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_only_regular_files_are_read(folder: Path, kind: str) -> None:
    real = a_spool(folder)
    path = folder / "9-9-9-9.spool"
    if kind == "link":
        path.symlink_to(real)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises((spool.BadSpool, OSError)):
        spool.Spool(path)


def test_names_of_files_are_checked_and_their_number_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "FILES_MAX", 3)
    for name in ("a b.spool", "..spool", ".hidden.spool", "x.txt", "é.spool", *(f"{n}-1-0-0.spool" for n in range(5))):
        (tmp_path / name).touch()
    assert spool.files(tmp_path) == ["0-1-0-0.spool", "1-1-0-0.spool", "2-1-0-0.spool"]
    assert spool.files(tmp_path / "absent") == []


HEADER = {
    "magic": spool.MAGIC,
    "start": 128,
    "size": 32,
    "slots": 4,
    "count": 1,
    "names_bytes": 3,
    "rank": 0,
    "segment": 0,
    "pid": 1,
    "created": 0,
}


def a_header(names: bytes = b"\x01\x00x", **changed: object) -> bytes:
    return (spool.HEADER.pack(*(HEADER | changed).values()) + names).ljust(128, b"\0") + bytes(4 * 32)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"HRSPOOL1",
        a_header(magic=b"HRSPOOL2"),
        a_header(count=0, size=24),
        a_header(count=65, size=8 * 68),
        a_header(size=40),
        a_header(size=0),
        a_header(slots=5),
        a_header(slots=0),
        a_header(slots=2**40),
        a_header(start=2**31),
        a_header(start=0),
        a_header(names_bytes=10_000),
        a_header(b"\x00\x00", names_bytes=2),
        a_header(b"\xff\xff", names_bytes=2),
        a_header(b"\x01\x00\xff"),
        a_header(b"", names_bytes=0),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "1-1-0-0.spool"
    path.write_bytes(content)
    with pytest.raises(spool.BadSpool):
        spool.Spool(path)


def test_the_header_of_these_tests_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "1-1-0-0.spool"
    path.write_bytes(a_header())
    assert spool.Spool(path).layout == spool.Layout(("x",), 0, 128, 32, 4)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 300), st.booleans())
def test_no_content_makes_the_reader_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, sound: bool
) -> None:
    path = tmp_path_factory.mktemp("noise") / "1-1-0-0.spool"
    content = bytearray(a_header() if sound else b"")
    content[at : at + len(noise)] = noise
    path.write_bytes(content)
    try:
        file = spool.Spool(path)
        taken(file)
        file.skip_hole(0.0, over=True)
        taken(file)
    except spool.BadSpool:
        pass


def test_the_wire_has_what_opentelemetry_would_write(folder: Path) -> None:
    rows = [(0, [0.5, float("inf")]), (2**40, [-1.0, 3.0]), (-5, [1e300, 0.0])]
    for step, (first, second) in rows:
        headrace.log({"train/loss": first, "größe": second}, step=step)
    (name,) = spool.files(folder)
    file = spool.Spool(folder / name)
    file.look(0.0)
    records = file.take(10, LATER)
    assert records is not None
    expected = ExportMetricsServiceRequest()
    resource = expected.resource_metrics.add()
    resource.resource.attributes.extend(
        [
            KeyValue(key="headrace.job", value=AnyValue(string_value="j-1")),
            KeyValue(key="headrace.team", value=AnyValue(string_value="vision")),
            KeyValue(key="headrace.attempt", value=AnyValue(int_value=2)),
            KeyValue(key="headrace.rank", value=AnyValue(int_value=0)),
        ]
    )
    scope = resource.scope_metrics.add()
    for index, metric in enumerate(("train/loss", "größe")):
        points = [
            NumberDataPoint(
                time_unix_nano=int(time),
                as_double=values[index],
                attributes=[KeyValue(key="step", value=AnyValue(int_value=step))],
            )
            for (step, values), time in zip(rows, records["time"], strict=True)
        ]
        scope.metrics.append(Metric(name=metric, gauge=Gauge(data_points=points)))
    assert ExportMetricsServiceRequest.FromString(otlp.encoded(REF, file.layout, records)) == expected


def test_no_message_is_larger_than_a_stream_takes() -> None:
    names = tuple(f"{number:03}" + "é" * 126 for number in range(64))
    for count in (1, 3, 64):
        layout = spool.Layout(names[:count], 7, 0, 8 * (count + 3), 1)
        records = np.zeros(otlp.records_max(layout), layout.dtype)
        assert 0.9 * otlp.BODY_BYTES_MAX < len(otlp.encoded(REF, layout, records)) <= otlp.BODY_BYTES_MAX
