"""Numbers, tables and charts as a person reads them."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import errors, submission
from headrace.cli import charts, text
from headrace.cli.printer import to_ascii
from headrace.cli.table import Cell, Column, table


def unpainted(words: str, style: str) -> str:
    return words


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "–"), (0.041, "41ms"), (12, "12s"), (372, "6m12s"), (12_240, "3h24m"), (187_200, "2d4h")],
)
def test_a_duration_reads_in_its_two_largest_units(seconds: float | None, said: str) -> None:
    assert text.duration(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.84129, "0.8413"), (97.25, "97.25"), (3, "3"), (1.25e9, "1.25e+09"), (0.00004, "4e-05"), (None, "nan")],
)
def test_a_metric_reads_in_four_digits(value: float | None, said: str) -> None:
    assert text.number(value) == said


@pytest.mark.parametrize(("written", "seconds"), [("90", 90), ("2h", 7200), ("1h30m", 5400), ("1.5 d", 129_600)])
def test_a_time_limit_is_written_as_people_write_it(written: str, seconds: float) -> None:
    assert submission.seconds(written, "time_limit") == seconds


@pytest.mark.parametrize("written", ["", "two hours", "3x", "-5s", "1h-3m"])
def test_what_is_no_duration_is_refused_with_the_field_and_an_example(written: str) -> None:
    with pytest.raises(errors.UsageError, match="time_limit") as refused:
        submission.seconds(written, "time_limit")
    assert "1h30m" in refused.value.hint


NOON = datetime(2026, 11, 29, 12, 0, 5, tzinfo=timezone(timedelta(hours=1)))


@pytest.mark.parametrize(
    ("written", "after_noon_s"),
    [
        ("18:00", 6 * 3600 - 5),
        ("11:59:59", 24 * 3600 - 6),
        ("2h", 7200),
        ("now+1h30m", 5400),
        ("now", 0),
        ("2026-11-29T11:00:05Z", 0),
        ("2026-11-30T12:00:05+01:00", 86_400),
        (NOON + timedelta(seconds=3), 3),
        (NOON.timestamp() + 7, 7),
    ],
)
def test_a_begin_time_is_written_as_people_write_it(written: str | float | datetime, after_noon_s: float) -> None:
    assert submission.moment(written, "begin", NOON) == NOON.timestamp() + after_noon_s


@pytest.mark.parametrize("written", ["", "soon", "25:00", "90", "now-2h", "2026-13-01", "tomorrow 18:00", "nowhere"])
def test_what_is_no_time_is_refused_with_the_field_and_examples(written: str) -> None:
    with pytest.raises(errors.UsageError, match="begin") as refused:
        submission.moment(written, "begin", NOON)
    assert "18:00" in refused.value.hint


def test_gpu_indices_read_as_ranges() -> None:
    assert text.ranges([0, 1, 2, 3, 6]) == "0–3, 6"


def test_another_persons_text_cannot_steer_the_terminal() -> None:
    assert text.clean("job\x1b[2J\r\n\x9b1m") == "job?[2J???1m"


def test_moments_become_rfc_3339_for_programs_and_nothing_else_changes() -> None:
    view = {"started_at": 1.5, "at": 0, "step": 3, "latest": {"loss": {"at": 2}}, "seen_at": None}
    assert text.timed(view) == {
        "started_at": "1970-01-01T00:00:01.500000Z",
        "at": None,
        "step": 3,
        "latest": {"loss": {"at": "1970-01-01T00:00:02.000000Z"}},
        "seen_at": None,
    }


def test_a_table_cuts_its_flexible_columns_until_it_fits() -> None:
    columns = (Column("JOB", least=6), Column("RAN", right=True))
    lines = table(columns, [["a-very-long-name", "3h24m"], ["日本語の名前", "41m"]], width=16, paint=unpainted)
    assert lines == ["JOB          RAN", "a-very-l…  3h24m", "日本語の…    41m"]
    assert all(text.width(line) <= 16 for line in lines)


def test_paint_takes_no_room_in_a_table() -> None:
    lines = table(
        (Column("A"), Column("B")), [[Cell("x", "red"), "y"]], width=80, paint=lambda words, style: f"<{words}>"
    )
    assert lines == ["<A>  <B>", "<x>  y"]


def test_a_sparkline_shows_the_run_and_ends_with_the_newest_value() -> None:
    assert charts.sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert charts.sparkline([*range(100), 0], 5) == "▂▄▇█▁"


def test_a_value_that_is_no_number_is_a_blank() -> None:
    assert charts.sparkline([0.0, None, math.nan, 1.0]) == "▁  █"


def test_a_flat_series_is_a_line_in_the_middle() -> None:
    assert charts.sparkline([5, 5, 5]) == "▄▄▄"


def test_a_plot_keeps_a_peak_that_one_bucket_holds() -> None:
    points = [charts.Column(step, 1, 1, 1) for step in range(100)]
    points[50] = charts.Column(50, 1, 9, 1)
    lines = charts.plot(points, columns=40, rows=5)
    assert [line.split("┤")[0].strip() for line in lines[:5]] == ["9.00", "7.00", "5.00", "3.00", "1.00"]
    assert lines[0].rstrip("⠀")[-1] > "⠀"
    assert lines[-1].split() == ["0", "99"]


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50),
    st.integers(20, 200),
    st.integers(3, 20),
)
def test_a_plot_always_fits_its_room(values: list[float], columns: int, rows: int) -> None:
    lines = charts.plot([charts.Column(i, v, v, v) for i, v in enumerate(values)], columns=columns, rows=rows)
    assert len(lines) == rows + 2
    assert all(len(line) <= columns for line in lines)


def test_our_own_signs_have_ascii_stand_ins_of_the_same_width() -> None:
    ours = "▶ ○ ✕ ✓ – ≈ × … ▁▂▃▄▅▆▇█ ┤ └┬─ ⠀⡀⣧⣿"
    assert to_ascii(ours).isascii()
    assert len(to_ascii(ours)) == len(ours)
