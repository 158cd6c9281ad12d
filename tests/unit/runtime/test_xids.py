"""What an Xid means, and what a watch makes of events and looks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runtime import xids
from runtime.gpu_health import TOLD_MAX, GpuWatch
from runtime.nvml import Condition, Event
from runtime.xids import Blame

PAGE = Path(__file__).resolve().parents[3] / "docs" / "concepts" / "gpu-health.md"
LOST = Condition(1, "lost", "the driver has lost it", True)


class Watch(GpuWatch):
    def __init__(self) -> None:
        self.changes = 0
        super().__init__("boot", self._count)

    def _count(self) -> None:
        self.changes += 1

    def signs(self) -> list[tuple[int, str, float]] | None:
        health = self.health
        return None if health is None else [(fault.gpu, fault.sign, fault.since_at) for fault in health.faults]


@pytest.mark.parametrize("xid", [13, 31, 43, 45, 68, 109])
def test_what_the_program_does_is_not_held_against_the_gpu(xid: int) -> None:
    assert xids.meaning(xid).blame is Blame.PROGRAM
    watch = Watch()
    watch.on_look((), 1.0)
    watch.on_event(Event(0, xid), 2.0)
    assert watch.signs() == []
    assert [error.hardware for error in watch.errors((0,), 0.0)] == [False]


@pytest.mark.parametrize("xid", [48, 64, 74, 79, 94, 95, 119, 0])
def test_what_the_hardware_does_is(xid: int) -> None:
    watch = Watch()
    watch.on_look((), 1.0)
    watch.on_event(Event(0, xid), 2.0)
    assert watch.health is not None
    assert [(fault.gpu, fault.ends, fault.stands) for fault in watch.health.faults] == [(0, True, False)]
    assert [error.hardware for error in watch.errors((0,), 0.0)] == [True]


def test_a_number_that_nobody_knows_blames_nobody() -> None:
    assert xids.meaning(4000).blame is Blame.UNKNOWN
    assert xids.words(4000) == "Xid 4000"


def test_the_page_has_the_table() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    assert rows == [(str(number), xid.blame.value, xid.what) for number, xid in xids.TABLE.items()]


def test_nothing_is_said_before_the_first_look() -> None:
    watch = Watch()
    watch.on_event(Event(0, 79), 1.0)
    assert watch.signs() is None
    watch.on_look((), 2.0)
    assert watch.signs() == [(0, "Xid 79", 1.0)]
    assert watch.changes == 2


def test_what_stands_has_stood_since_it_was_seen_first_and_goes() -> None:
    watch = Watch()
    watch.on_look((LOST,), 1.0)
    watch.on_look((LOST,), 2.0)
    assert (watch.signs(), watch.changes) == ([(1, "lost", 1.0)], 1)
    watch.on_look((), 3.0)
    watch.on_look((LOST,), 4.0)
    assert watch.signs() == [(1, "lost", 4.0)]


def test_of_an_event_that_comes_again_the_last_time_is_told() -> None:
    watch = Watch()
    watch.on_look((), 0.0)
    watch.on_event(Event(0, 79), 1.0)
    watch.on_event(Event(0, 79), 2.0)
    assert watch.signs() == [(0, "Xid 79", 2.0)]


def test_an_attempt_is_told_of_its_own_gpus_and_its_own_time_and_not_without_end() -> None:
    watch = Watch()
    for at, gpu, xid in ((1.0, 0, 31), (2.0, 1, 31), (3.0, 0, 13), (3.5, 0, 13)):
        watch.on_event(Event(gpu, xid), at)
    assert [(error.gpu, error.at) for error in watch.errors((0, 2), 2.0)] == [(0, 3.0)]
    watch.on_look((LOST, LOST._replace(gpu=0), Condition(2, "rows pending", "rows wait", False)), 3.7)
    assert [(error.gpu, error.why, error.hardware) for error in watch.errors((0, 2), 3.6)] == [
        (0, "a fault (the driver has lost it)", True)
    ]
    for xid in range(1000, 2000):
        watch.on_event(Event(0, xid), 4.0)
    assert len(watch.errors((0,), 0.0)) == TOLD_MAX
