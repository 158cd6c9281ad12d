"""The names under which the nodes of a gang write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import ranks

RANKS = st.integers(0, ranks.RANK_MAX)


@given(st.sampled_from(["stdout", "stderr"]), RANKS)
def test_what_a_stream_is_called_says_whose_it_is(name: str, rank: int) -> None:
    assert ranks.read_stream(ranks.stream(name, rank)) == (name, rank)


@given(st.sampled_from(["none", "a-1-2.spool"]), RANKS)
def test_what_a_spool_is_called_says_whose_it_is(file: str, rank: int) -> None:
    assert ranks.rank_of_spool(ranks.spool(file, rank)) == rank


@pytest.mark.parametrize(
    "text", ["stdout-", "stdout-0", "stdout-03", "stdout-x", "stdout-65536", "stdout--1", "stdout-²"]
)
def test_no_stream_has_two_names(text: str) -> None:
    assert ranks.read_stream(text) is None
