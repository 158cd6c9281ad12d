"""Which user an attempt gets, and when none can be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.users import NoUser, Users, closed

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has users to give")


@needs_root
def test_nobody_has_the_user_of_another_and_the_longest_unused_comes_next() -> None:
    users = Users("300000-300003")
    assert users.builder == 300_000
    first, second = users.take(), users.take()
    users.give_back(first)
    assert (first, second, users.take(), users.take()) == (300_001, 300_002, 300_003, 300_001)
    with pytest.raises(NoUser, match="300000-300003 are in use"):
        users.take()


@needs_root
def test_one_that_an_attempt_before_us_has_is_not_given() -> None:
    users = Users("300000-300003")
    users.keep(300_002)
    assert {users.take(), users.take()} == {300_001, 300_003}


def test_a_folder_above_that_is_closed_is_named_with_the_fix(tmp_path: Path) -> None:
    within = tmp_path / "within"
    within.mkdir()
    tmp_path.chmod(0o700)
    top = next(folder for folder in reversed(within.parents) if not folder.stat().st_mode & 1)
    assert closed(within) == f"{top} lets other users not pass to {within}: chmod o+x {top}, or put it elsewhere"
    assert closed(Path("/usr/bin/env")) == ""
