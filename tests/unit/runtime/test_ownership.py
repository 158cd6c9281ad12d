"""Whose files are whose, from attempt to attempt."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from runtime import ownership

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")

FIRST, SECOND, STRANGER = 300_001, 300_002, 300_003


def owner(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, stat.S_IMODE(found.st_mode)


def test_a_sealed_folder_is_the_next_attempts_but_not_what_another_owns(tmp_path: Path) -> None:
    """A hard link to a cache of all jobs, or to a stranger's file, must not become the successor's."""
    cache, strange = tmp_path / "cache.py", tmp_path / "strange"
    cache.write_text("of all jobs")
    strange.write_text("of another")
    os.chown(strange, STRANGER, STRANGER)
    job = tmp_path / "job"
    job.mkdir()
    ownership.give_job(job, FIRST)
    assert owner(job) == (FIRST, 0o700)

    (job / "kept").write_text("kept")
    os.chown(job / "kept", FIRST, FIRST)
    os.link(cache, job / "cache")
    os.link(strange, job / "strange")
    (job / "link").symlink_to(cache)
    os.lchown(job / "link", FIRST, FIRST)
    job.chmod(0o777)
    ownership.seal_job(job, FIRST)
    assert owner(job) == (0, 0o700)
    ownership.seal_job(job, FIRST)

    ownership.give_job(job, SECOND)
    assert owner(job) == (SECOND, 0o700)
    assert owner(job / "kept")[0] == (job / "link").lstat().st_uid == SECOND
    assert (owner(cache)[0], owner(strange)[0]) == (0, STRANGER)
    ownership.seal_job(job, FIRST)
    assert owner(job) == (SECOND, 0o700), "its end comes late: the next attempt has it"


def test_what_was_made_before_there_were_users_is_given_but_not_what_has_two_names(tmp_path: Path) -> None:
    cache = tmp_path / "cache.py"
    cache.write_text("of all jobs")
    job = tmp_path / "job"
    (job / "a").mkdir(parents=True)
    (job / "a" / "kept").write_text("kept")
    os.link(cache, job / "a" / "cache")
    ownership.give_job(job, FIRST)
    assert owner(job / "a" / "kept")[0] == owner(job / "a")[0] == FIRST
    assert owner(cache)[0] == 0


def test_of_an_attempt_its_user_has_its_own_folders_and_passes_the_rest(tmp_path: Path) -> None:
    for name in ("scratch", "spool"):
        (tmp_path / name).mkdir()
    (tmp_path / "launch.json").write_text("{}")
    ownership.give_attempt(tmp_path, FIRST)
    assert owner(tmp_path) == (0, 0o710)
    assert tmp_path.stat().st_gid == FIRST
    assert {owner(tmp_path / name) for name in ("home", "scratch", "spool")} == {(FIRST, 0o700)}
    assert owner(tmp_path / "launch.json")[0] == 0
