"""Which requests are solved, by whom and for what: values in, values out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.environments.core import (
    AGAIN_S,
    DEFAULT_PLATFORM,
    PROBE_EVERY_S,
    TAKEOVER_S,
    Build,
    Core,
    Decision,
    Fail,
    Probe,
)
from events import messages as m
from events import subjects
from events.identity import environment_digest
from events.lifecycle import Outcome

LINUX, ARM = "x86_64-manylinux_2_28", "aarch64-manylinux_2_28"
READY = m.EnvironmentReady(lock="sha256:1", python="3.11", platform=LINUX, packages=1)


class World:
    """A core, and a ledger that is only a counter."""

    def __init__(self, *, builds_max: int = 2) -> None:
        self.core = Core(me="me", builds_max=builds_max)
        self.sequence = 0

    def fact(self, subject: str, fact: m.Fact, at: float = 0.0) -> Outcome:
        self.sequence += 1
        outcome = self.core.apply(subject, self.sequence, fact, at)
        self.core.check()
        return outcome

    def node(self, *pythons: str, platform: str = LINUX, name: str = "n1") -> None:
        capacity = m.Capacity(cpus=1, memory_bytes=1, pythons=pythons, platform=platform)
        self.fact(subjects.node(name), m.NodeJoined(boot="b", capacity=capacity))

    def want(self, *roots: str, python: str = "3.11", platform: str = "") -> str:
        request = m.EnvironmentRequest(python=python, roots=roots, platform=platform)
        subject = subjects.environment(environment_digest(request))
        self.fact(subject, m.EnvironmentWanted(request=request))
        return subject

    def decide(self, now: float = 0.0) -> list[Decision]:
        decisions = self.core.decide(now)
        self.core.check()
        return decisions

    def reason(self) -> str:
        [decision] = self.decide()
        assert isinstance(decision, Fail)
        return decision.reason


@pytest.fixture
def world() -> World:
    made = World()
    made.node("3.11.7", "3.12.1")
    return made


def test_a_wanted_request_is_built_once_for_the_nodes_platform_and_the_minor_version(world: World) -> None:
    subject = world.want("six", python="3.11.4")
    [build] = world.decide()
    assert isinstance(build, Build)
    assert (build.subject, build.expect) == (subject, world.sequence)
    assert (build.target.python, build.target.platform) == ("3.11", LINUX)
    assert world.decide() == []


def test_nothing_is_decided_before_any_node_is_known() -> None:
    world = World()
    world.want("six")
    assert world.decide() == []
    assert world.core.wake_at() is None
    world.node("3.11.7")
    assert len(world.decide()) == 1


def test_a_version_that_no_node_has_is_refused_by_naming_those_there_are(world: World) -> None:
    world.node("3.9.2", name="n2")
    world.want(python="3.8")
    expected = "no node has Python 3.8; nodes have 3.9.2, 3.11.7 and 3.12.1: choose one with --python"
    assert world.reason() == expected


def test_a_node_that_does_not_say_what_it_has_is_trusted_to_have_it() -> None:
    world = World()
    world.node(platform="")
    world.want(python="3.13")
    [build] = world.decide()
    assert isinstance(build, Build)
    assert build.target.platform == DEFAULT_PLATFORM


def test_a_node_that_is_gone_does_not_count(world: World) -> None:
    world.fact(subjects.node("n1"), m.NodeGone(why="x"))
    world.want("six")
    assert world.decide() == []


def test_a_platform_that_is_asked_for_must_be_that_of_a_node_with_the_version(world: World) -> None:
    world.node("3.12.1", platform=ARM, name="n2")
    world.want(platform=ARM)
    assert world.reason() == f"no node with Python 3.11 is a {ARM}; there are {LINUX}"
    world.want(platform=ARM, python="3.12")
    [build] = world.decide()
    assert isinstance(build, Build)
    assert build.target.platform == ARM


def test_of_several_platforms_the_most_common_one_is_solved_for(world: World) -> None:
    for name in ("n2", "n3"):
        world.node("3.11.2", platform=ARM, name=name)
    world.want("six")
    [build] = world.decide()
    assert isinstance(build, Build)
    assert build.target.platform == ARM


def test_no_more_are_built_at_once_than_allowed_and_the_rest_in_the_order_of_wanting(world: World) -> None:
    wanted = [world.want(name) for name in "abc"]
    first = world.decide()
    assert [d.subject for d in first if isinstance(d, Build)] == wanted[:2]
    world.fact(wanted[1], m.EnvironmentBuilding(builder="me"))
    world.fact(wanted[1], READY)
    assert [d.subject for d in world.decide() if isinstance(d, Build)] == wanted[2:]


def test_a_refusal_needs_no_free_slot() -> None:
    world = World(builds_max=1)
    world.node("3.11.7")
    world.want("a")
    world.want("b", python="3.7")
    assert [type(decision) for decision in world.decide()] == [Build, Fail]


def test_a_refusal_is_said_again_only_after_a_while(world: World) -> None:
    world.want(python="3.8")
    assert len(world.decide(0.0)) == 1
    assert world.decide(1.0) == []
    assert world.core.wake_at() == AGAIN_S
    assert len(world.decide(AGAIN_S)) == 1


def test_a_build_of_another_is_left_alone_as_long_as_its_builder_lives(world: World) -> None:
    subject = world.want("six")
    world.fact(subject, m.EnvironmentBuilding(builder="other"), at=100.0)
    assert world.decide(100.0) == [Probe("other")]
    world.core.on_probed("other", alive=True)
    assert world.decide(101.0) == []
    assert world.core.wake_at() == 100.0 + PROBE_EVERY_S
    world.core.on_probed("other", alive=False)
    [build] = world.decide(102.0)
    assert isinstance(build, Build)
    assert build.expect == world.sequence


def test_a_builder_that_did_not_answer_once_is_trusted_again_when_it_writes(world: World) -> None:
    first, second = world.want("numpy"), world.want("scipy")
    world.fact(first, m.EnvironmentBuilding(builder="other"))
    world.core.on_probed("other", alive=False)
    world.fact(second, m.EnvironmentBuilding(builder="other"))
    assert [type(decision) for decision in world.decide()] == [Probe]


def test_a_build_that_is_too_old_is_taken_over_whatever_its_builder_says(world: World) -> None:
    subject = world.want("six")
    world.fact(subject, m.EnvironmentBuilding(builder="other"), at=0.0)
    assert isinstance(world.decide(TAKEOVER_S)[0], Build)


def test_a_build_that_another_one_took_over_is_not_ours_any_more(world: World) -> None:
    subject = world.want("six")
    world.decide()
    world.fact(subject, m.EnvironmentBuilding(builder="me"))
    world.fact(subject, m.EnvironmentBuilding(builder="other"))
    assert world.decide() == [Probe("other")]


def test_a_dropped_build_is_begun_again_after_a_while(world: World) -> None:
    subject = world.want("six")
    world.decide(0.0)
    world.core.on_dropped(subject, 1.0)
    assert world.decide(2.0) == []
    assert world.core.wake_at() == 1.0 + AGAIN_S
    assert isinstance(world.decide(1.0 + AGAIN_S)[0], Build)


def test_a_failed_request_that_is_wanted_again_is_built_again_and_a_ready_one_is_not(world: World) -> None:
    subject = world.want("six")
    world.decide()
    world.fact(subject, m.EnvironmentFailed(reason="x"))
    assert world.decide() == []
    world.want("six")
    assert isinstance(world.decide()[0], Build)
    world.fact(subject, READY)
    request = m.EnvironmentRequest(python="3.11", roots=("six",))
    assert world.fact(subject, m.EnvironmentWanted(request=request)) is Outcome.REPEATED
    assert world.decide() == []


def test_a_fact_that_no_correct_writer_writes_is_forbidden_and_changes_nothing(world: World) -> None:
    subject = subjects.environment("sha256:" + "0" * 64)
    assert world.fact(subject, READY) is Outcome.FORBIDDEN
    assert world.decide() == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"python": "banana"}, "$.environment.python: 'banana' is no Python 3"),
        ({"python": "2.7"}, "is no Python 3"),
        ({"platform": "../x"}, "$.environment.platform"),
        ({"roots": ("six", "-r /etc/passwd")}, "$.environment.roots[1]: '-r /etc/passwd' is not a plain requirement"),
        ({"roots": ("x @ https://x.example/x.whl",)}, "roots[0]"),
        ({"roots": ("--index-url=https://x.example",)}, "roots[0]"),
        ({"roots": ("./local",)}, "roots[0]"),
        ({"roots": ("six\n-e .",)}, "roots[0]"),
        ({"roots": ("a" * 501,)}, "roots[0]"),
        ({"roots": ("six",) * 2001}, "2,001 entries"),
        ({"preferences": ("six>=1",)}, "preferences[0]"),
    ],
)
def test_what_is_no_plain_request_is_refused_by_its_path(world: World, fields: dict[str, Any], words: str) -> None:
    request = m.EnvironmentRequest(**({"python": "3.11"} | fields))
    world.fact(subjects.environment("sha256:" + "1" * 64), m.EnvironmentWanted(request=request))
    assert words in world.reason()


@pytest.mark.parametrize(
    "root",
    [
        "six",
        "numpy>=2,<3",
        "a[b,c] ~= 1.0 ; python_version < '3.12' and sys_platform == \"linux\"",
        "x (>=1.0)",
        "y==1.*",
    ],
)
def test_plain_requirements_pass(world: World, root: str) -> None:
    world.want(root)
    assert isinstance(world.decide()[0], Build)


FACTS = st.sampled_from(["want", "node", "gone", "mine", "other", "ready", "failed", "drop", "dead", "decide", "later"])


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(st.tuples(FACTS, st.integers(0, 3)), max_size=40))
def test_whatever_happens_it_agrees_with_itself_and_a_replay_gives_the_same(steps: list[tuple[str, int]]) -> None:
    world, now, log = World(), 0.0, []
    requests = [m.EnvironmentRequest(python="3.11", roots=(f"p{number}",)) for number in range(4)]
    for what, number in steps:
        subject = subjects.environment(environment_digest(requests[number]))
        facts: dict[str, tuple[str, m.Fact]] = {
            "want": (subject, m.EnvironmentWanted(request=requests[number])),
            "node": (
                subjects.node("n"),
                m.NodeJoined(boot="b", capacity=m.Capacity(cpus=1, memory_bytes=1, pythons=("3.11.7",))),
            ),
            "gone": (subjects.node("n"), m.NodeGone(why="x")),
            "mine": (subject, m.EnvironmentBuilding(builder="me")),
            "other": (subject, m.EnvironmentBuilding(builder="other")),
            "ready": (subject, READY),
            "failed": (subject, m.EnvironmentFailed(reason="x")),
        }
        if what in facts:
            world.fact(facts[what][0], facts[what][1], now)
            log.append((facts[what], now))
        elif what == "drop":
            world.core.on_dropped(subject, now)
        elif what == "dead":
            world.core.on_probed("other", alive=False)
        elif what == "later":
            now += 7.0
        else:
            world.decide(now)
            wake_at = world.core.wake_at()
            assert wake_at is None or wake_at > now
    again = World()
    for (subject, fact), at in log:
        again.fact(subject, fact, at)
    digests = [environment_digest(request) for request in requests]
    assert [again.core.view(digest) for digest in digests] == [world.core.view(digest) for digest in digests]
