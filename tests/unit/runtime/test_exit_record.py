"""What lies in an attempt's folder, and what it says about the attempt."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from runtime import exit_record
from runtime.exit_record import Damaged, Record, Spec
from runtime.supervised import Standing, standing

RECORD = Record("exited", 12.5, started_at=10.0, exit_code=1, output_bytes={"stdout": 3})


def test_a_spec_is_read_as_it_was_written(tmp_path: Path) -> None:
    spec = Spec(("python", "x.py"), {"A": "ü\n"}, "/tmp", time_limit_s=3.0)
    exit_record.write_spec(str(tmp_path), spec)
    assert exit_record.read_spec(str(tmp_path)) == spec
    assert (tmp_path / "spec.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"argv": [], "env": {}, "cwd": "/"}', '{"unknown": 1}'])
def test_a_damaged_spec_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "spec.json").write_text(content)
    with pytest.raises(Damaged, match=r"spec\.json"):
        exit_record.read_spec(str(tmp_path))


def test_a_record_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    reserved = exit_record.reserve_record(str(tmp_path))
    assert exit_record.read_record(str(tmp_path)) is None
    exit_record.write_record(str(tmp_path), RECORD, reserved)
    assert exit_record.read_record(str(tmp_path)) == RECORD
    assert not (tmp_path / "exit.json.new").exists()


def test_a_record_with_an_endless_message_still_fits(tmp_path: Path) -> None:
    exit_record.write_record(str(tmp_path), RECORD._replace(message="x" * 100_000))
    found = exit_record.read_record(str(tmp_path))
    assert found is not None
    assert found.message == "x" * 1000


def test_the_lock_can_be_taken_once_for_ever(tmp_path: Path) -> None:
    lock = exit_record.take_lock(str(tmp_path))
    with pytest.raises(FileExistsError):
        exit_record.take_lock(str(tmp_path))
    os.close(lock)
    with pytest.raises(FileExistsError):
        exit_record.take_lock(str(tmp_path))
    assert os.listdir(tmp_path) == ["lock"]


def test_every_standing_is_told_apart(tmp_path: Path) -> None:
    assert standing(tmp_path) is Standing.NEVER_LAUNCHED
    lock = exit_record.take_lock(str(tmp_path))
    assert standing(tmp_path) is Standing.LIVES
    os.close(lock)
    assert standing(tmp_path) is Standing.VANISHED
    exit_record.write_record(str(tmp_path), RECORD)
    assert standing(tmp_path) is Standing.ENDED


def test_a_lease_that_was_never_noted_is_none(tmp_path: Path) -> None:
    path = str(tmp_path / "lease")
    assert exit_record.lease_cleared_at(path) is None
    exit_record.renew_lease(path, 12.25)
    assert exit_record.lease_cleared_at(path) == 12.25


def test_a_lease_is_noted_in_place_so_that_a_full_disk_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    exit_record.renew_lease(str(path), 9.5)
    before = path.stat()
    exit_record.renew_lease(str(path), 123456789.25)
    after = path.stat()
    assert (before.st_ino, before.st_size) == (after.st_ino, after.st_size)
    assert exit_record.lease_cleared_at(str(path)) == 123456789.25


def test_a_lock_is_signed_in_place_so_that_a_full_disk_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_bytes(b"x" * exit_record.SIGNATURE_BYTES)
    lock = os.open(path, os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    exit_record.sign_lock(lock)
    assert path.read_bytes() == b"%-16d" % os.getpid()
    assert exit_record.holder(str(path)) == os.getpid()
    os.close(lock)
    assert exit_record.holder(str(path)) == 0
