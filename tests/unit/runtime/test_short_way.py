"""A short way to a deep folder."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from runtime import short_way

SUN_PATH_MAX = 107


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the place of /tmp; itself deep, so what is compared is names."""
    place = tmp_path / "t"
    place.mkdir()
    monkeypatch.setattr(short_way, "PLACE", place)
    return place


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / ("x" * 100) / "attempts" / "j-1.1" / "scratch"
    folder.mkdir(parents=True)
    return folder


def test_a_deep_folder_has_a_link_of_the_nodes_own(scratch: Path, place: Path) -> None:
    link = short_way.to(scratch)
    assert link.parent == place
    assert len(link.name) == len("hr-0123456789")
    assert link.resolve() == scratch.resolve()
    assert short_way.to(scratch) == link, "again is harmless"


def test_from_tmp_there_is_room_for_the_sockets_of_ray_and_of_multiprocessing() -> None:
    link = f"/tmp/{short_way.PREFIX}0123456789"
    for below in (
        "/pymp-abcdefgh/listener-abcdefgh",
        "/ray/session_2026-11-30_08-05-27_613887_4194304/sockets/plasma_store",
    ):
        assert len(link + below) <= SUN_PATH_MAX


def test_a_short_path_needs_no_other(place: Path) -> None:
    assert short_way.to(Path("/n/scratch")) == Path("/n/scratch")
    assert list(place.iterdir()) == []


def test_a_name_that_somebody_else_has_taken_is_not_used(scratch: Path, tmp_path: Path) -> None:
    link = short_way.to(scratch)
    link.unlink()
    link.symlink_to(tmp_path)
    assert short_way.to(scratch) == scratch
    short_way.remove(scratch)
    assert os.readlink(link) == str(tmp_path), "what is not ours is left alone"
    link.unlink()
    link.mkdir()
    assert short_way.to(scratch) == scratch


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link to somebody else")
def test_a_link_of_another_user_is_not_used_wherever_it_leads(scratch: Path) -> None:
    link = short_way.to(scratch)
    os.lchown(link, 65534, 65534)
    assert short_way.to(scratch) == scratch


def test_where_no_link_can_be_made_the_long_way_is_taken(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_way, "PLACE", Path("/proc/nowhere"))
    assert short_way.to(scratch) == scratch


def test_it_goes_with_the_folder(scratch: Path, place: Path) -> None:
    short_way.to(scratch)
    short_way.remove(scratch)
    assert list(place.iterdir()) == []


def test_ways_to_what_is_not_there_any_more_are_swept_and_no_others(scratch: Path, place: Path, tmp_path: Path) -> None:
    attempts = scratch.parents[1]
    live = short_way.to(scratch)
    gone = attempts / "j-2.1" / "scratch"
    short_way.to(gone)
    others = short_way.to(tmp_path / ("y" * 100) / "attempts" / "j-3.1" / "scratch")
    short_way.sweep(attempts)
    assert {*place.iterdir()} == {live, others}


def test_a_socket_can_be_bound_below_it(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_way, "PLACE", Path("/tmp"))
    way = short_way.to(scratch)
    try:
        below = way / "pymp-abcdefgh"
        below.mkdir()
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(below / "listener-abcdefgh"))
        with socket.socket(socket.AF_UNIX) as bound, pytest.raises(OSError, match="too long"):
            bound.bind(str(scratch / "pymp-abcdefgh" / "listener-abcdefgi"))
    finally:
        short_way.remove(scratch)
