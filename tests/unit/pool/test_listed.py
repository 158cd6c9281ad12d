"""A pool of listed hosts: what the scheduler hears of each, and what a person does."""

from __future__ import annotations

import pytest

from controlplane.hosts import parse
from controlplane.pool.listed import BY, Listed
from controlplane.pool.standing import Say, Standing
from events import messages as m

READY = Standing("ready")


def a_pool(text: str, **standing: Standing) -> Listed:
    pool = Listed()
    pool.on_hosts(parse(text))
    pool.on_standing(standing)
    return pool


@pytest.mark.parametrize(
    ("line", "standing", "change"),
    [
        ("", READY, None),
        ("", Standing("cordoned", by=BY), m.UncordonNode()),
        ("", Standing("drained", by=BY), m.UncordonNode()),
        ("", Standing("cordoned", by="ada"), None),
        ("", Standing("cordoned", by="ada", cordoned_by="ada"), None),
        ("", Standing("drained", by=BY, cordoned_by="ada", draining_by=BY), None),
        ("", Standing("drained", by=BY, cordoned_by=BY, draining_by=BY), m.UncordonNode()),
        ("", Standing("suspected"), None),
        ("cordon = 'disks'", READY, m.CordonNode(why="disks")),
        ("cordon = 'disks'", Standing("cordoned", by="ada"), None),
        ("cordon = 'disks'", Standing("draining", by=BY), None),
        ("drain = 'sold'", READY, m.DrainNode(why="sold", stop=True)),
        ("drain = 'sold'", Standing("cordoned", by=BY), m.DrainNode(why="sold", stop=True)),
        ("drain = 'sold'", Standing("drained", by=BY), None),
        ("drain = 'sold'", Standing("suspected", by="ada", draining_by="ada"), None),
        ("drain = 'sold'", Standing("gone"), None),
    ],
)
def test_the_scheduler_hears_what_it_does_not_know_yet(
    line: str, standing: Standing, change: m.NodeChange | None
) -> None:
    said = a_pool(f"[[hosts]]\nname = 'a'\n{line}", a=standing).decide()
    assert said == (() if change is None else (Say("a", change),))


def test_a_machine_that_is_not_listed_gets_no_jobs() -> None:
    said = a_pool("[[hosts]]\nname = 'a'", a=READY, b=READY).decide()
    assert said == (Say("b", m.CordonNode(why="it is not in the file of hosts")),)


def test_nothing_is_said_before_there_is_a_list() -> None:
    pool = Listed()
    pool.on_standing({"a": READY})
    assert pool.decide() == ()
    assert pool.problems == {}


def test_a_machine_that_is_listed_and_not_there_is_told_with_what_makes_it_join() -> None:
    pool = a_pool("[[hosts]]\nname = 'a'\n[[hosts]]\nname = 'b'\n[[hosts]]\nname = 'c'", a=READY, c=Standing("gone"))
    assert list(pool.problems) == ["b", "c"]
    assert "ray start --address=… --labels hr.node=b" in pool.problems["b"]


def test_nothing_is_missing_before_the_scheduler_was_heard() -> None:
    pool = Listed()
    pool.on_hosts(parse("[[hosts]]\nname = 'a'"))
    assert pool.problems == {}
