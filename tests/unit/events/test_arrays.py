"""The indices of an array: what is written is what is meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import arrays
from events.identity import job_id, task_id


@pytest.mark.parametrize(
    ("text", "indices", "at_once"),
    [
        ("0-4", [0, 1, 2, 3, 4], 0),
        ("0-15:4%2", [0, 4, 8, 12], 2),
        ("1,3,7-9", [1, 3, 7, 8, 9], 0),
        ("9, 0-2", [9, 0, 1, 2], 0),
        ("007", [7], 0),
        ("5-5:3%1", [5], 1),
    ],
)
def test_indices_read_as_slurm_writes_them(text: str, indices: list[int], at_once: int) -> None:
    found, most = arrays.parse(text)
    assert ([found[position] for position in range(len(found))], most) == (indices, at_once)
    assert [found.position(index) for index in indices] == list(range(len(indices)))
    assert found.position(6) is None
    with pytest.raises(IndexError):
        found[len(indices)]


@pytest.mark.parametrize(
    "text", ["", " ", "-1", "1-", "a", "1..3", "3-1", "1-9:0", "1,1", "0-9,3", "0-9%", "0-9%0", "0-9%x", "1,,2", "²"]
)
def test_what_are_no_indices_is_refused_with_words(text: str) -> None:
    with pytest.raises(arrays.BadArray) as refused:
        arrays.parse(text)
    assert str(refused.value)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 60), st.integers(1, 9)), min_size=1, max_size=5))
def test_the_canonical_form_means_the_same(ranges: list[tuple[int, int, int]]) -> None:
    text = ",".join(f"{first}-{first + more}:{step}" for first, more, step in ranges)
    try:
        found, _ = arrays.parse(text)
    except arrays.BadArray:
        return
    again, _ = arrays.parse(str(found))
    assert [again[at] for at in range(len(again))] == [found[at] for at in range(len(found))]
    assert str(again) == str(found)


def test_the_id_of_a_task_follows_from_its_array_and_index_alone() -> None:
    array = job_id(team="t", user="u", client_id="c")
    ids = {task_id(array, index) for index in range(1000)} | {array, task_id(task_id(array, 0), 0)}
    assert len(ids) == 1002
    assert task_id(array, 7) == task_id(array, 7)
