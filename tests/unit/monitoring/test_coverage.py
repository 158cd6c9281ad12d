"""Ranges say which records are stored, in whatever order and however often they come."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from controlplane.monitoring import coverage

PIECES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 15)), max_size=30)


@given(PIECES)
def test_ranges_hold_what_a_set_of_numbers_would(pieces: list[tuple[int, int]]) -> None:
    ranges: coverage.Ranges = ()
    known: set[int] = set()
    for first, count in pieces:
        wanted = set(range(first, first + count))
        assert coverage.holds(ranges, first, first + count) == (wanted <= known)
        ranges, fresh = coverage.add(ranges, first, first + count)
        new = [number for low, high in fresh for number in range(low, high)]
        assert new == sorted(wanted - known)
        known |= wanted
        assert {number for low, high in ranges for number in range(low, high)} == known
        assert all(low < high for low, high in ranges)
        assert all(before[1] < after[0] for before, after in pairwise(ranges))
        missing = {number for low, high in coverage.holes(ranges) for number in range(low, high)}
        assert missing == set(range(coverage.end(ranges))) - known


def test_of_too_many_holes_the_oldest_is_given_up() -> None:
    ranges: coverage.Ranges = ()
    for index in range(coverage.RANGES_MAX + 5):
        ranges, _ = coverage.add(ranges, 2 * index, 2 * index + 1)
    assert len(ranges) == coverage.RANGES_MAX
    assert ranges[0] == (0, 11)
