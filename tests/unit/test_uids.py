"""A range of user ids, as an operator writes it."""

from __future__ import annotations

import pytest

from events import uids


def test_both_ends_are_in_it_and_nothing_is_none() -> None:
    assert uids.parse("200000-200003") == range(200_000, 200_004)
    assert uids.parse("") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("200000", "is not a range of user ids"),
        ("200000-", "is not a range of user ids"),
        ("a-b", "is not a range of user ids"),
        ("0-65535", "user ids from 1000"),
        ("200000-4294967295", "to 4294967293"),
        ("200000-200000", "at least 2"),
        ("200009-200000", "the smaller one first"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_can(text: str, says: str) -> None:
    with pytest.raises(uids.BadRange, match=says) as refused:
        uids.parse(text)
    assert "such as 200000-265535" in str(refused.value)
