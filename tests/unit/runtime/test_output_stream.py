"""A stream from a pipe to a file, when the disk does not want it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from runtime.output import READ_BYTES, Stream


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    return Stream(str(tmp_path / "stdout"), bytes_max=100)


def break_disk(stream: Stream) -> int:
    """Every write fails with "no space left" from now on; gives what puts it right again."""
    kept = os.dup(stream._file)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, stream._file)
    os.close(full)
    return kept


def test_a_full_disk_pauses_the_stream_and_loses_nothing(tmp_path: Path, stream: Stream) -> None:
    kept = break_disk(stream)
    os.write(stream.writer, b"first")
    stream.pump()
    assert stream.paused
    assert stream.error == "No space left on device"
    os.write(stream.writer, b" second")
    stream.pump()
    os.dup2(kept, stream._file)
    stream.pump()
    assert not stream.paused
    assert (tmp_path / "stdout").read_bytes() == b"first second"


def test_past_the_cap_it_goes_on_reading_and_keeps_nothing(tmp_path: Path, stream: Stream) -> None:
    os.write(stream.writer, b"x" * 101)
    stream.pump()
    os.write(stream.writer, b"y" * 5000)
    stream.pump()
    assert (tmp_path / "stdout").read_bytes() == b"x" * 100 + b"\n[headrace: output cut at 100 bytes]\n"
    os.close(stream.writer)
    stream.pump()
    assert stream.over


def test_exactly_the_cap_is_not_cut(tmp_path: Path, stream: Stream) -> None:
    os.write(stream.writer, b"x" * 100)
    stream.pump()
    assert (tmp_path / "stdout").read_bytes() == b"x" * 100
    assert not stream.cut


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "stdout").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        Stream(str(tmp_path / "stdout"), bytes_max=100)


def test_a_stream_that_never_ends_takes_only_its_turn(tmp_path: Path) -> None:
    stream = Stream(str(tmp_path / "stdout"), bytes_max=1 << 30)
    fcntl.fcntl(stream.writer, fcntl.F_SETPIPE_SZ, 4 * READ_BYTES)
    os.write(stream.writer, b"x" * 4 * READ_BYTES)
    stream.pump(reads_max=2)
    assert stream.kept_bytes == 2 * READ_BYTES
