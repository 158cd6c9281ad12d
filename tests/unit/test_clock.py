"""The clock of every service."""

from __future__ import annotations

from controlplane.frame import SLEW_MAX, Clock


class Machine:
    """A machine whose wall clock may be set."""

    def __init__(self) -> None:
        self.wall = 1_000_000.0
        self.steady = 50.0

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    def clock(self) -> Clock:
        return Clock(lambda: self.wall, lambda: self.steady)


def test_it_goes_with_the_machine() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.passes(12.5)
    assert clock.now() == 1_000_012.5


def test_no_lease_ends_because_somebody_set_the_wall_clock() -> None:
    machine = Machine()
    clock = machine.clock()
    for step in (45.0, -45.0, 86_400.0):
        before = clock.now()
        machine.wall += step
        machine.passes(1.0)
        assert abs(clock.now() - before - 1.0) <= SLEW_MAX * 1.01


def test_it_follows_a_wall_clock_that_was_set_and_stays_with_it() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wall += 0.5
    for _ in range(1_500):
        machine.passes(1.0)
        clock.now()
    assert abs(clock.now() - machine.wall) < 1e-6


def test_it_never_goes_back() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wall -= 3_600.0
    seen = []
    for _ in range(100):
        machine.passes(0.01)
        seen.append(clock.now())
    assert seen == sorted(seen)
