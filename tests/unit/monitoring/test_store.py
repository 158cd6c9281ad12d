"""What is stored is what was sent, once: against a model that keeps every record in a dictionary."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.monitoring import questions, rollups
from controlplane.monitoring.batch import STEP_MAX, Part, commit
from controlplane.monitoring.otlp import NO_STEP, Column
from controlplane.monitoring.store import Store
from events import messages as m

TEAM, JOB = "vision", "j-1"


@pytest.fixture
def store(tmp_path: Path) -> Any:
    store = Store(tmp_path / "metrics.duckdb", threads=1)
    yield store
    store.close()


def a_column(steps: list[int], values: list[float], *, name: str = "loss", times: list[int] | None = None) -> Column:
    at = times if times is not None else [step * 1000 + 10**18 for step in steps]
    return Column(1, 0, name, np.array(steps, np.int64), np.array(at, np.int64), np.array(values, np.float64))


def a_batch(first: int, count: int, *, spool: str = "a", job: str = JOB, step: Any = lambda index: index) -> Part:
    """Records of a spool: record i has value i."""
    indices = list(range(first, first + count))
    column = a_column([step(index) for index in indices], [float(index) for index in indices], name=f"m-{spool}")
    return Part(TEAM, job, 1, [column], 0, f"{TEAM}/{job}/1/{spool}", first, count)


def a_push(column: Column, push: str = "") -> Part:
    return Part(TEAM, JOB, 1, [column], 5 * 10**9, push=push)


def series(store: Store, **more: Any) -> list[m.Series]:
    return list(questions.series(store, m.AskSeries(team=TEAM, job=JOB, **more)).series)


BATCHES = st.lists(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 300), st.integers(1, 40)), min_size=1, max_size=4),
    max_size=8,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=BATCHES, reopened=st.booleans(), backwards=st.booleans())
def test_repeats_overlaps_and_late_batches_store_each_record_once(
    tmp_path_factory: pytest.TempPathFactory, batches: Any, reopened: bool, backwards: bool
) -> None:
    file = tmp_path_factory.mktemp("store") / "metrics.duckdb"
    store = Store(file, threads=1)
    known: dict[str, set[int]] = {"a": set(), "b": set()}
    for number, batch in enumerate(batches):
        fresh = 0
        for spool, first, count in batch:
            new = set(range(first, first + count)) - known[spool]
            fresh += len(new)
            known[spool] |= new
        step = (lambda index: -7 * index) if backwards else (lambda index: 3 * index)
        parts = [a_batch(first, count, spool=spool, step=step) for spool, first, count in batch]
        assert commit(store, parts, sequence=number + 1).points == fresh
        if reopened:
            store.close()
            store = Store(file, threads=1)
    for spool, records in known.items():
        found = series(store, names=(f"m-{spool}",), buckets=4000)
        assert sorted(value for curve in found for value in curve.values if value is not None) == sorted(records)
        missing = set(range(max(records, default=-1) + 1)) - records
        rows = store.db.execute("SELECT first, after FROM gaps WHERE spool LIKE ?", [f"%/{spool}"]).fetchall()
        assert {index for first, after in rows for index in range(first, after)} == missing
    assert store.place("METRICS") == len(batches)
    store.close()


POINTS = st.lists(
    st.tuples(
        st.integers(-3000, 6000),
        st.integers(1, 5),
        st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf]),
    ),
    min_size=1,
    max_size=300,
)


@settings(max_examples=25, deadline=None)
@given(
    points=POINTS,
    cuts=st.integers(1, 4),
    buckets=st.integers(1, 60),
    edge=st.tuples(st.integers(-4000, 7000), st.integers(0, 9000)) | st.none(),
)
def test_a_curve_is_what_its_points_say_bucket_by_bucket(points: Any, cuts: int, buckets: int, edge: Any) -> None:
    store = Store(Path(":memory:"), threads=1)
    for number in range(cuts):
        part = points[number::cuts]
        if part:
            steps, times, values = zip(*part, strict=True)
            commit(store, [a_push(a_column(list(steps), list(values), times=list(times)))], sequence=number)
    low, high = (edge[0], edge[0] + edge[1]) if edge else (-(10**6), 10**6)
    chosen = [point for point in points if low <= point[0] <= high]
    found = series(store, buckets=buckets, **({"step_from": low, "step_to": high} if edge else {}))
    if not chosen:
        assert found == []
        store.close()
        return
    (curve,) = found
    finite = [value for _, _, value in chosen if math.isfinite(value)]
    assert len(curve.steps) <= buckets
    assert curve.count == len(chosen)
    assert min((value for value in curve.low if value is not None), default=None) == min(finite, default=None)
    assert max((value for value in curve.high if value is not None), default=None) == max(finite, default=None)
    assert list(curve.steps) == sorted(curve.steps)
    assert curve.steps[-1] == max(step for step, _, _ in chosen)
    last = max(chosen, key=lambda point: (point[0], point[1], _rank(point[2])))
    assert curve.values[-1] == (last[2] if math.isfinite(last[2]) else None)
    newest = max(points, key=lambda point: (point[0], point[1], _rank(point[2])))
    (latest,) = questions.latest(store, m.AskLatest(team=TEAM, jobs=(JOB,))).latest
    assert (latest.step, latest.count) == (newest[0], len(points))
    store.close()


def _rank(value: float) -> tuple[bool, float]:
    return (math.isnan(value), 0.0 if math.isnan(value) else value)


def test_one_bucket_holds_steps_on_both_sides_of_0(store: Store) -> None:
    """All multiples of a width cut at 0: looking for one that does not never came to an end."""
    steps = [-1664, -1, 0, 4095]
    commit(store, [a_push(a_column(steps, [3.0, 1.0, 2.0, 9.0]))], sequence=1)
    (curve,) = series(store, buckets=1)
    assert (curve.count, curve.low, curve.high, curve.values) == (4, (1.0,), (9.0,), (9.0,))
    (curve,) = series(store, buckets=1, step_from=-5, step_to=5)
    assert (curve.count, curve.low, curve.high) == (2, (1.0,), (2.0,))


def test_roll_ups_and_points_give_the_same_long_curve(store: Store) -> None:
    values = np.random.default_rng(1).normal(size=40_000)
    for start in range(0, 40_000, 7_777):
        steps = list(range(start, min(start + 7_777, 40_000)))
        commit(store, [a_push(a_column(steps, list(values[steps])))], sequence=start)
    (curve,) = series(store, buckets=30, step_from=700, step_to=39_001)
    width = rollups.width(700, 39_001, 30)
    assert rollups.source(width) == 1024
    expected: dict[int, list[int]] = {}
    for step in range(700, 39_002):
        expected.setdefault(step // width, []).append(step)
    assert curve.low == tuple(values[steps].min() for steps in expected.values())
    assert curve.high == tuple(values[steps].max() for steps in expected.values())
    assert curve.values == tuple(values[steps[-1]] for steps in expected.values())
    assert curve.count == 38_302


@pytest.mark.parametrize("stored", [0, 7])
def test_a_spool_whose_last_records_never_came_is_not_drained(tmp_path: Path, stored: int) -> None:
    """Found by the campaign (seed 4109): its end says how many there were."""
    end = Part(TEAM, JOB, 1, [], 0, f"{TEAM}/{JOB}/1/a", 20, 0, ended=True)
    with contextlib.closing(Store(tmp_path / "metrics.duckdb", threads=1)) as store:
        done = commit(store, [*([a_batch(0, stored)] if stored else []), end], sequence=1)
        assert [drained for *_, drained in done.spools] == [False]
        assert store.db.execute("SELECT first, after FROM gaps").fetchall() == [(stored, 20)]
    with contextlib.closing(Store(tmp_path / "metrics.duckdb", threads=1)) as store:  # it is not forgotten
        done = commit(store, [a_batch(stored, 20 - stored)], sequence=2)
        assert [drained for *_, drained in done.spools] == [True]
        assert store.db.execute("SELECT * FROM gaps").fetchall() == []


def test_a_spool_that_an_older_release_kept_is_all_there_is(tmp_path: Path) -> None:
    file = tmp_path / "metrics.duckdb"
    with duckdb.connect(str(file)) as db:
        db.execute(
            "CREATE TABLE spool(name VARCHAR, team VARCHAR, job VARCHAR, attempt INTEGER, ranges VARCHAR,"
            " ended BOOLEAN)"
        )
        db.execute("INSERT INTO spool VALUES (?, ?, ?, 1, '[[0,7]]', true)", [f"{TEAM}/{JOB}/1/a", TEAM, JOB])
    with contextlib.closing(Store(file, threads=1)) as store:
        assert store.book((TEAM, JOB)).spools[f"{TEAM}/{JOB}/1/a"].is_drained


def test_nothing_of_a_transaction_that_failed_is_stored(store: Store) -> None:
    commit(store, [a_batch(0, 5)], sequence=1)
    broken = a_batch(5, 5)._replace(columns=[a_column([1, 2], [1.0, 2.0])._replace(steps=np.array(["x", "y"]))])
    with pytest.raises((TypeError, ValueError, np.exceptions.DTypePromotionError)):
        commit(store, [broken], sequence=2)
    assert store.place("METRICS") == 1
    assert commit(store, [a_batch(5, 5)], sequence=2).points == 5
    assert series(store)[0].count == 10


def test_a_push_that_comes_again_counts_once(store: Store) -> None:
    push = a_push(a_column([1, 2], [1.0, 2.0]), "digest")
    assert commit(store, [push, push], sequence=1).points == 2
    store.forget((TEAM, JOB))
    assert commit(store, [push], sequence=2).points == 0


def test_points_without_a_step_count_the_seconds_since_the_attempts_first(store: Store) -> None:
    second = 10**9
    commit(store, [a_push(a_column([NO_STEP], [1.0], times=[100 * second]))], sequence=1)
    store.forget((TEAM, JOB))
    commit(store, [a_push(a_column([NO_STEP] * 2, [2.0, 3.0], times=[103 * second + 5, 101 * second]))], sequence=2)
    assert series(store)[0].steps == (0, 1, 3)


def test_points_without_a_time_have_that_of_the_stream(store: Store) -> None:
    commit(store, [a_push(a_column([1], [1.0], times=[0]))], sequence=1)
    assert series(store)[0].at == (5.0,)


def test_steps_that_json_cannot_say_are_taken_for_the_nearest(store: Store) -> None:
    commit(store, [a_push(a_column([2**62, -(2**63) + 1], [1.0, 2.0], times=[1, 2]))], sequence=1)
    assert series(store)[0].steps == (-STEP_MAX, STEP_MAX)


def test_series_beyond_the_limit_are_counted_and_not_stored(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.monitoring.batch.SERIES_OF_A_JOB_MAX", 2)
    columns = [a_column([1], [1.0], name=name) for name in ("a", "b", "c")]
    done = commit(store, [Part(TEAM, JOB, 1, columns, 1)], sequence=1)
    assert (done.points, done.refused) == (2, 1)


def test_an_answer_is_small_enough_for_a_message(store: Store) -> None:
    columns = [a_column(list(range(900)), [math.pi * step for step in range(900)], name=f"m{n:04}") for n in range(500)]
    commit(store, [Part(TEAM, JOB, 1, columns, 1)], sequence=1)
    answer = questions.series(store, m.AskSeries(team=TEAM, job=JOB, buckets=4000))
    assert len(msgspec.json.encode(answer)) < 1_000_000
    assert answer.matched == 500
    assert len(answer.series) == questions.ENTRIES_MAX // questions.BUCKETS_MIN


@pytest.mark.parametrize("ask", [{"buckets": 0}, {"step_from": 5, "step_to": 4}, {"names": ("x",) * 1001}])
def test_a_question_that_makes_no_sense_is_refused_with_its_field(store: Store, ask: dict[str, Any]) -> None:
    with pytest.raises(questions.Bad, match=next(iter(ask))):
        questions.series(store, m.AskSeries(team=TEAM, job=JOB, **ask))


def test_a_second_process_cannot_open_the_store(store: Store, tmp_path: Path) -> None:
    import subprocess
    import sys

    code = f"import duckdb; duckdb.connect({str(tmp_path / 'metrics.duckdb')!r}, read_only=True)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert b"lock" in result.stderr.lower()
