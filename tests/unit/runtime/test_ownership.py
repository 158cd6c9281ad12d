"""Whose files are whose, from attempt to attempt."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime import attempt, ownership
from runtime.attempt import discard
from runtime.node_folder import NodeFolder
from runtime.removing import remove
from runtime.users import NoUser, Users
from tests.support.folders import deep

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")

FIRST, SECOND, STRANGER, LAST = 300_001, 300_002, 300_003, 300_004


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


def test_what_was_never_launched_leaves_its_jobs_folder_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its user is another attempt's later, and must not own the folder then. If that fails nobody gets the user."""
    node, users = NodeFolder(tmp_path), Users(f"{FIRST - 1}-{SECOND}")
    folder, job = node.attempts / "j-a.3", tmp_path / "jobs" / "j-a"
    for made in (folder, job):
        made.mkdir(parents=True)
    ownership.give_attempt(folder, FIRST)
    ownership.give_job(job, FIRST)

    with monkeypatch.context() as patched:
        patched.setattr(os, "chown", refused)
        discard(folder, node, users)
    assert folder.exists()
    assert users.take() != FIRST
    with pytest.raises(NoUser):
        users.take()

    discard(folder, node, users)
    assert owner(job) == (0, 0o700)
    assert job.stat().st_gid == FIRST
    assert not folder.exists()


def test_the_user_of_an_attempt_that_ended_unlaunched_is_known_by_its_folder(tmp_path: Path) -> None:
    """It has no specification; a runner that died before it sealed the job's folder leaves that to the next."""
    tmp_path.chmod(0o700)
    assert attempt._user_of(tmp_path) == 0
    ownership.give_attempt(tmp_path, FIRST)
    assert attempt._user_of(tmp_path) == FIRST


def refused(*_: object, **__: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_the_group_of_a_volume_is_no_user(tmp_path: Path) -> None:
    """As Kubernetes gives one by fsGroup: folders that are made in there have it too."""
    os.chown(tmp_path, -1, STRANGER)
    tmp_path.chmod(0o2775)
    folder = tmp_path / "attempt"
    folder.mkdir(mode=0o700)
    assert folder.stat().st_gid == STRANGER
    assert ownership.user_of_attempt(folder) == 0
    ownership.give_attempt(folder, FIRST)
    assert ownership.user_of_attempt(folder) == FIRST


def test_of_an_attempt_its_user_has_its_own_folders_and_passes_the_rest(tmp_path: Path) -> None:
    for name in ("scratch", "spool"):
        (tmp_path / name).mkdir()
    (tmp_path / "launch.json").write_text("{}")
    ownership.give_attempt(tmp_path, FIRST)
    assert owner(tmp_path) == (0, 0o710)
    assert tmp_path.stat().st_gid == FIRST
    assert {owner(tmp_path / name) for name in ("home", "scratch", "spool")} == {(FIRST, 0o700)}
    assert owner(tmp_path / "launch.json")[0] == 0


@contextmanager
def interrupted_after(monkeypatch: pytest.MonkeyPatch, gifts: int) -> Iterator[None]:
    """The runner dies when it has given away so many files."""
    given = iter(range(gifts))
    give_away = ownership._chown

    def dies(held: int, uid: int) -> None:
        if next(given, None) is None:
            raise KeyboardInterrupt
        give_away(held, uid)

    with monkeypatch.context() as patched:
        patched.setattr(ownership, "_chown", dies)
        with pytest.raises(KeyboardInterrupt):
            yield


def a_folder_of(uid: int, folder: Path, files: int = 4) -> list[Path]:
    (folder / "a").mkdir(parents=True)
    found = [folder, folder / "a", *(folder / "a" / str(number) for number in range(files))]
    for path in found[2:]:
        path.write_text("kept")
    for path in found:
        os.chown(path, uid, uid)
    return found


@pytest.mark.parametrize("sealed_between", [False, True])
def test_a_giving_that_was_interrupted_twice_loses_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sealed_between: bool
) -> None:
    strange = tmp_path / "strange"
    strange.write_text("of another")
    kept = a_folder_of(FIRST, job := tmp_path / "job")
    os.link(strange, job / "a" / "strange")
    ownership.seal_job(job, FIRST)
    for uid in (SECOND, STRANGER):
        with interrupted_after(monkeypatch, 2):
            ownership.give_job(job, uid)
        if sealed_between:
            ownership.seal_job(job, uid)
            assert owner(job) == (0, 0o700)
    ownership.give_job(job, LAST)
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in kept} == {(LAST, LAST)}
    assert owner(strange)[0] == 0


def test_folders_in_folders_deeper_than_a_path_may_be_long_are_given(tmp_path: Path) -> None:
    here = deep(job := tmp_path / "job", 3_000)
    ownership.give_job(job, FIRST)
    assert os.fstat(here).st_uid == FIRST
    os.close(here)
    assert remove(job)


def test_a_new_builder_has_the_cache_and_all_environments_though_the_first_try_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The builder before may be an attempt's user by now, and must not write what all jobs run."""
    node = NodeFolder(tmp_path / "node")
    built = a_folder_of(FIRST, tmp_path / "volume") + a_folder_of(FIRST, node.environments / "e")
    node.cache.symlink_to(tmp_path / "volume")  # an operator may put it elsewhere
    for gifts in (2, 8):
        with interrupted_after(monkeypatch, gifts):
            node.prepare(builder=SECOND)
    node.prepare(builder=SECOND)
    assert {path.lstat().st_uid for path in built} == {SECOND}
    assert owner(node.environments)[0] == 0
    with interrupted_after(monkeypatch, 2):
        node.prepare(builder=STRANGER)
    node.prepare(builder=SECOND)
    assert {path.lstat().st_uid for path in built} == {SECOND}, "the operator went back to the range before"
