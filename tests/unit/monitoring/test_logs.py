"""Output is kept byte by byte at its place, whatever the order in which it comes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.monitoring.logs import Chunk, Logs
from controlplane.monitoring.store import Store
from events import messages as m
from events import ranks

OUTPUT = bytes(range(33, 126)) * 3


@pytest.fixture
def store(tmp_path: Path) -> Any:
    store = Store(tmp_path / "metrics.duckdb", threads=1)
    yield store
    store.close()


@pytest.fixture
def logs(tmp_path: Path, store: Store) -> Any:
    logs = Logs(tmp_path / "logs", store)
    yield logs
    logs.close()


def a_chunk(first: int, after: int, *, job: str = "j-1", ended: bool = False, attempt: int = 1) -> Chunk:
    return Chunk("vision", job, attempt, "stdout", first, OUTPUT[first:after], ended)


def test_the_nodes_of_a_gang_write_each_to_a_place_of_their_own(logs: Logs) -> None:
    said = {0: b"rank 0\n", 1: b"I am rank 1\n"}
    chunks = [Chunk("vision", "j-1", 1, ranks.stream("stdout", rank), 0, data) for rank, data in said.items()]
    logs.commit(chunks, sequence=1)
    answers = {rank: read(logs, rank=rank) for rank in said}
    assert {rank: answer.data for rank, answer in answers.items()} == said
    assert {answer.stream for answer in answers.values()} == {"stdout"}


def read(logs: Logs, offset: int = 0, *, over: bool = False, job: str = "j-1", **more: Any) -> m.LogAnswer:
    return logs.read(m.AskLog(team="vision", job=job, offset=offset, **more), over=over)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(1, len(OUTPUT) - 1), max_size=12, unique=True),
    order=st.randoms(use_true_random=False),
    name=st.uuids(),
)
def test_chunks_in_any_order_and_again_make_the_output(logs: Logs, cuts: list[int], order: Any, name: Any) -> None:
    job = str(name)
    places = [0, *sorted(cuts), len(OUTPUT)]
    chunks = [a_chunk(first, after, job=job) for first, after in pairwise(places)]
    chunks += [a_chunk(max(0, cut - 5), cut + 5, job=job) for cut in cuts[:3]]
    order.shuffle(chunks)
    for number, chunk in enumerate(chunks):
        logs.commit([chunk], sequence=number)
    logs.commit([Chunk("vision", job, 1, "stdout", len(OUTPUT), b"", True)], sequence=99)
    answer = read(logs, job=job)
    assert (answer.data, answer.complete, answer.size_bytes) == (OUTPUT, True, len(OUTPUT))


def test_a_reader_waits_in_front_of_a_hole_that_may_still_be_filled(logs: Logs) -> None:
    logs.commit([a_chunk(0, 10), a_chunk(110, 120)], sequence=1)
    assert read(logs).data == OUTPUT[:10]
    assert read(logs, 10).data == b""
    assert not read(logs, 10).complete
    logs.commit([a_chunk(10, 110)], sequence=2)
    assert read(logs, 10).data == OUTPUT[10:120]


def test_a_hole_that_nothing_will_fill_is_shown_in_its_place(logs: Logs) -> None:
    logs.commit([a_chunk(0, 10), a_chunk(110, 120), a_chunk(120, 125, ended=True)], sequence=1)
    shown, offset = b"", 0
    while (answer := read(logs, offset)).data:
        shown += answer.data
        offset = answer.offset + len(answer.data)
    assert shown == OUTPUT[:10] + b"\n[headrace: 100 bytes of output are missing here]\n" + OUTPUT[110:125]
    assert offset == answer.size_bytes == 125
    assert not answer.complete
    assert read(logs, offset, over=True).complete


def test_a_small_hole_keeps_its_length(logs: Logs) -> None:
    logs.commit([a_chunk(0, 10), a_chunk(13, 20, ended=True)], sequence=1)
    answer = read(logs, 10)
    assert (answer.offset, answer.data) == (10, b"???")


def test_a_negative_offset_counts_from_the_end(logs: Logs) -> None:
    logs.commit([a_chunk(0, 100)], sequence=1)
    assert (read(logs, -7).offset, read(logs, -7).data) == (93, OUTPUT[93:100])
    assert read(logs, -500).offset == 0


def test_no_attempt_means_the_newest_with_output(logs: Logs) -> None:
    logs.commit([a_chunk(0, 5), a_chunk(0, 9, attempt=3)], sequence=1)
    assert (read(logs).attempt, read(logs).data) == (3, OUTPUT[:9])
    assert read(logs, attempt=1).data == OUTPUT[:5]
    assert read(logs, job="j-other") == m.LogAnswer(attempt=0, stream="stdout", offset=0, data=b"", size_bytes=0)


def test_names_never_lead_out_of_the_folder(logs: Logs, tmp_path: Path) -> None:
    logs.commit([Chunk("../..", "../../etc/passwd", 1, "stdout", 0, b"x")], sequence=1)
    (written,) = (path for path in tmp_path.rglob("*") if path.is_file() and "duckdb" not in path.name)
    assert written.resolve().is_relative_to((tmp_path / "logs").resolve())


def test_more_files_than_may_be_open_are_written(logs: Logs) -> None:
    chunks = [a_chunk(first, first + 5, job=f"j-{number}") for first in (0, 5) for number in range(100)]
    logs.commit(chunks, sequence=1)
    assert {read(logs, job=f"j-{number}").data for number in range(100)} == {OUTPUT[:10]}


def test_only_what_is_new_is_told(logs: Logs) -> None:
    assert logs.commit([a_chunk(0, 10)], sequence=1)
    assert not logs.commit([a_chunk(3, 10)], sequence=1)
    assert logs.commit([a_chunk(10, 10, ended=True)], sequence=2)
    assert not logs.commit([a_chunk(10, 10, ended=True)], sequence=2)


def test_of_output_that_never_came_its_node_said_how_much_it_was(logs: Logs) -> None:
    key = ("vision", "j-1", 1)
    logs.commit([a_chunk(0, 10)], sequence=1)
    logs.settle({(*key, "stdout"): 110, (*key, "stderr"): 0})
    assert read(logs, 10).data == b"\n[headrace: 100 bytes of output are missing here]\n"
    assert not read(logs, 10).complete
    logs.settle({(*key, "stdout"): 500})
    assert read(logs).size_bytes == 110
