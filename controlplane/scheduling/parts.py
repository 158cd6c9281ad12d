"""What nodes say of an attempt, each of its own part, and what that makes of the whole. Pure.

A job on one node has one part. A gang has one for each of its nodes, and lives and ends as one: it has started when all
parts run; when one breaks off, the others are not wanted any more, and the attempt is over when every part is. So no
part of an attempt lives when the ledger says that it is over. Parts that end well wait for the others. Before, no part
is started until each is laid out and ready: what they wait for then is `meeting`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from events import messages as m

MISSING_MAX: Final = 2
"""Exchanges in which a node does not name an attempt before the attempt is over: what it says in the second one it says
knowing the list that it was answered to the first."""


TRIED_AGAIN: Final = frozenset(
    {"source_failed", "environment_failed", "meeting_failed", "output_failed", "fenced", "supervisor_lost", "stopped"}
)
"""Causes that say nothing about the program."""

FAILURES: Final = frozenset({"exited", "signalled", "out_of_memory"})
"""The program's own: what `retries` are for."""


class Part(msgspec.Struct, eq=False):
    """An attempt on one of its nodes, as this leader has heard of it. May be forgotten, and is heard again."""

    reported: m.LiveAttempt | None = None
    """What the node said last."""
    missing: int = 0
    """Exchanges in a row in which the node did not name it."""
    gone_why: str = ""
    """Evidence that it cannot be alive."""

    @property
    def end(self) -> m.AttemptEnd | None:
        return self.reported.end if self.reported is not None and self.reported.state == "ended" else None

    @property
    def is_ready(self) -> bool:
        """Whether it is laid out and waits for the others."""
        return self.reported is not None and self.reported.state == "ready"

    @property
    def runs(self) -> bool:
        """Whether it has begun; it may have ended since."""
        return self.reported is not None and self.reported.state in ("running", "ended")

    @property
    def is_lost(self) -> bool:
        """Whether it is over though nobody has seen its end."""
        return self.end is None and (bool(self.gone_why) or self.missing >= MISSING_MAX)

    @property
    def is_over(self) -> bool:
        return self.end is not None or self.is_lost

    @property
    def is_broken(self) -> bool:
        """Whether it is over and the other parts cannot go on without it."""
        return self.is_lost or (self.end is not None and not is_success(self.end))


def meeting(parts: Iterable[Part]) -> m.Meeting | None:
    """Where the parts of a gang, in the order of their ranks, meet; None: they must not start yet.

    Nothing of it is kept: it follows from what nodes say, and from the same words for every leader. Once a part was
    started the others follow it; until then all must be ready, and the one of rank 0 says where.
    """
    offered, is_ready = None, True
    for rank, part in enumerate(parts):
        live = part.reported
        if live is None or live.state != "ready":
            if live is not None and live.meeting is not None:
                return live.meeting
            is_ready = False
        elif rank == 0:
            offered = live.meeting
    return offered if is_ready else None


def is_success(end: m.AttemptEnd) -> bool:
    return end.cause == "exited" and end.exit_code == 0


def met_a_broken_gpu(end: m.AttemptEnd) -> bool:
    """Whether the program failed when a GPU of its own did: that says nothing about the program."""
    return end.cause in FAILURES and not is_success(end) and any(error.hardware for error in end.gpu_errors)


def deciding_end(ends: list[tuple[str, m.AttemptEnd]], *, stopping: bool = False) -> tuple[str, m.AttemptEnd]:
    """Which end, of which node, says what became of the whole; if all ended well, that of the first node.

    When one part is gone the programs of the others fail, and are often heard of sooner. So it is the first that broke
    off through no fault of the program, else the first that failed by itself. While the job is `stopping`, those that
    were stopped count among these: what fails after them fails because of them.
    """
    failed = [each for each in ends if not is_success(each[1])]
    by_itself = [each for each in failed if stopping or each[1].cause != "stopped"]
    broke_off = [each for each in by_itself if each[1].cause in TRIED_AGAIN and each[1].cause != "stopped"]
    broke_off += [each for each in by_itself if met_a_broken_gpu(each[1])]
    if not failed:
        return ends[0]
    return min(broke_off or by_itself or failed, key=lambda each: each[1].exited_at or each[1].ended_at)
