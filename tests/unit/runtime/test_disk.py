"""When a node says that its disk is full, and when no more."""

from __future__ import annotations

import pytest

from runtime.disk import BYTES_MIN, FAILED_S, INODES_MIN, Disk, Room, says_full

PLENTY = Room(100 * BYTES_MIN, 100 * INODES_MIN)
FULL = "its disk is full: less than 16 MiB are free"


def test_a_disk_with_room_is_no_reason() -> None:
    assert Disk().problem(PLENTY, 0.0) == ""


def test_a_disk_that_was_full_has_room_when_twice_the_least_is_free() -> None:
    disk = Disk()
    assert disk.problem(Room(BYTES_MIN - 1, None), 0.0) == FULL
    assert disk.problem(Room(2 * BYTES_MIN - 1, None), 1.0) == FULL
    assert disk.problem(Room(2 * BYTES_MIN, None), 2.0) == ""
    assert disk.problem(Room(BYTES_MIN, None), 3.0) == ""


def test_inodes_run_out_like_bytes() -> None:
    assert (
        Disk().problem(PLENTY._replace(inodes=INODES_MIN - 1), 0.0) == "its disk is full: less than 256 inodes are free"
    )
    assert Disk().problem(PLENTY._replace(inodes=None), 0.0) == ""


def test_a_start_that_found_no_room_closes_the_node_for_a_while() -> None:
    disk = Disk()
    disk.start_failed(10.0)
    assert disk.problem(PLENTY, 10.0 + FAILED_S - 0.1) == "its disk is full: an attempt found no room"
    assert disk.problem(PLENTY, 10.0 + FAILED_S) == ""


@pytest.mark.parametrize(
    ("message", "full"),
    [
        ("the node cannot lay it out: [Errno 28] No space left on device: '/n/attempts/j.1'", True),
        ("uv failed: failed to copy: No space left on device (os error 28)", True),
        ("[Errno 122] Disk quota exceeded", True),
        ("no wheel of torch for this platform", False),
    ],
)
def test_a_full_disk_is_known_by_its_words(message: str, full: bool) -> None:
    assert says_full(message) == full
