"""What becomes of changes of queues and teams, on the pure core."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.config import Configuration, Team
from controlplane.submission import changes, configuring
from controlplane.submission.configuring import Change, Jobs, Order, There
from controlplane.submission.queues import Queues
from events import messages as m
from events import subjects
from events.entries import Entry
from tests.support.malformed_changes import MALFORMED_CHANGES, Malformed
from tests.support.structs import values
from tests.support.submitting import CONFIG


def a_capacity(gpus: int) -> m.Capacity:
    return m.Capacity(cpus=8.0 * gpus, memory_bytes=1, gpus=gpus)


class World:
    """Queues and teams of an installation, and a ledger that lives in memory."""

    def __init__(self, config: Configuration = CONFIG, *, gpus: int | None = 16) -> None:
        self.config = config
        self.queues = Queues()
        self.sequence = 0
        for name, team in config.teams.items():
            for queue in team.queues:
                self.write(subjects.queue(name, queue), m.QueueSet(by="configuration"))
        self.capacity = None if gpus is None else a_capacity(gpus)

    def write(self, subject: str, fact: m.Fact) -> None:
        self.sequence += 1
        self.queues.apply(Entry(self.sequence, subject, fact, at=1000.0))

    def ask(
        self, kind: str, queue: str = "night", *, team: str = "vision", jobs: Jobs | None = None, **fields: Any
    ) -> Change | m.Answer:
        """What is decided; a change is written."""
        body = json.dumps({"type": kind} | fields).encode()
        order = Order("ops", team, "" if kind == "set_team" else queue, body)
        change, found = configuring.read(order, self.config, self.queues)
        if change is None:
            return configuring.refused(found)
        there = There(jobs or Jobs(0, 0), self.capacity)
        decision = configuring.decide(order, change, self.queues, self.config, there, found)
        if isinstance(decision, Change):
            self.warnings = found.warnings
            assert decision.expect in (0, self.newest(order))
            assert decision.revision == self.queues.revision
            self.write(subjects.CONFIGURATION, m.Configured(by="ops", subject=order.subject))
            self.write(order.subject, decision.fact)
        return decision

    def newest(self, order: Order) -> int:
        if not order.queue:
            return self.queues.team(order.team)[0]
        return self.queues.known(order.team, order.queue).sequence

    def settings(self, queue: str = "night", team: str = "vision") -> m.QueueSet:
        found = self.queues.known(team, queue).settings
        assert found is not None
        return found


def changed(decision: Change | m.Answer) -> m.Fact:
    assert isinstance(decision, Change), decision
    return decision.fact


def refused(decision: Change | m.Answer) -> list[tuple[str, str]]:
    assert isinstance(decision, m.Answer), decision
    assert decision.verdict == "refused"
    return [(problem.path, f"{problem.message} | {problem.hint}") for problem in decision.problems]


def repeated(decision: Change | m.Answer) -> bool:
    return isinstance(decision, m.Answer) and decision.verdict == "repeated"


@pytest.mark.parametrize("case", MALFORMED_CHANGES, ids=lambda case: case.what)
def test_a_malformed_change_is_refused_with_every_path_and_a_hint(case: Malformed) -> None:
    world = World()
    order = Order("ops", "vision", case.queue, case.body)
    change, found = configuring.read(order, CONFIG, world.queues)
    if change is not None:
        configuring.decide(order, change, world.queues, CONFIG, There(), found)
    told = {problem.path: f"{problem.message} {problem.hint}" for problem in found.problems}
    assert set(told) == set(case.problems)
    for path, piece in case.problems.items():
        assert piece in told[path]


def test_a_set_changes_what_it_names_and_nothing_else() -> None:
    world = World()
    world.ask("set_queue", weight=2, tiers=["gpu1"], time_limit_s_max=60)
    fact = changed(world.ask("set_queue", running_max=3, tiers=[], time_limit_s_max=None))
    assert fact == m.QueueSet(by="ops", weight=2.0, running_max=3)


def test_every_setting_of_a_queue_can_be_set() -> None:
    names = set(m.QueueSet.__struct_fields__) - {"by"}
    assert set(m.QueueSettings.__struct_fields__) == set(changes.QUEUE_FIELDS) == names
    assert set(changes.TEAM_FIELDS) == set(m.TeamSet.__struct_fields__) - {"by"}


def test_a_created_queue_has_defaults_for_what_is_not_named() -> None:
    world = World()
    assert changed(world.ask("create_queue", "big", weight=3)) == m.QueueSet(by="ops", weight=3.0)
    assert list(world.queues.of("vision")) == ["big", "default", "night"]


def test_a_queue_that_is_there_is_not_created_again_with_other_settings() -> None:
    world = World()
    world.ask("create_queue", "big", weight=3)
    assert repeated(world.ask("create_queue", "big", weight=3))
    ((path, told),) = refused(world.ask("create_queue", "big", weight=4))
    assert path == "$"
    assert "is there already | change it: headrace queues set big" in told
    assert changed(world.ask("create_queue", "big", running_max=1, replace=True)) == m.QueueSet(by="ops", running_max=1)


def test_a_deleted_queue_can_be_created_again() -> None:
    world = World()
    assert changed(world.ask("delete_queue")) == m.QueueRemoved(by="ops")
    assert list(world.queues.of("vision")) == ["default"]
    assert repeated(world.ask("delete_queue"))
    assert changed(world.ask("create_queue")) == m.QueueSet(by="ops")


def test_the_same_setting_again_changes_nothing_whoever_asks() -> None:
    world = World()
    assert repeated(world.ask("set_queue", weight=1))
    world.ask("set_queue", paused=True)
    before = world.sequence
    answer = world.ask("set_queue", paused=True)
    assert isinstance(answer, m.Answer)
    assert answer.settings == world.settings()
    assert (answer.sequence, world.sequence) == (before, before)


@pytest.mark.parametrize("kind", ["set_queue", "delete_queue"])
def test_a_queue_that_is_not_there_is_named_with_what_may_have_been_meant(kind: str) -> None:
    assert refused(World().ask(kind, "nigth")) == [
        ("$.queue", "no queue `nigth` in team `vision` | did you mean `night`?")
    ]


def test_an_unknown_team_is_named_with_what_may_have_been_meant() -> None:
    assert refused(World().ask("set_team", team="vison", weight=2)) == [
        ("$.team", "no team `vison` | did you mean `vision`?")
    ]


@pytest.mark.parametrize("name", ["a/b", " a", "a\n", "x" * 129, "\x00"])
def test_a_queue_gets_no_name_that_a_person_could_not_write(name: str) -> None:
    assert refused(World().ask("create_queue", name))[0][0] == "$.queue"


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        (Jobs(3, 2), "in queue `night` 3 jobs wait and 2 jobs run | headrace queues drain night"),
        (Jobs(1, 0), "in queue `night` 1 job waits and no jobs run"),
        (Jobs(0, 1), "in queue `night` no jobs wait and 1 job runs"),
    ],
)
def test_a_queue_with_jobs_is_not_deleted(jobs: Jobs, words: str) -> None:
    world = World()
    ((path, told),) = refused(world.ask("delete_queue", jobs=jobs))
    assert path == "$"
    assert words in told
    assert "night" in world.queues.of("vision")


def test_the_last_queue_of_a_team_is_not_deleted() -> None:
    world = World()
    assert refused(world.ask("delete_queue", "secret", team="speech")) == [
        ("$", "`secret` is the last queue of team `speech` | create another one first")
    ]


# -- guarantees --------------------------------------------------------------------------------------------------------


def red_and_blue(**more: Any) -> World:
    config = Configuration(teams={"red": Team(queues=("default", "big")), "blue": Team()})
    world = World(config, **more)
    assert changed(world.ask("set_queue", "default", team="red", guaranteed_gpus=4))
    assert changed(world.ask("set_queue", "big", team="red", guaranteed_gpus=8))
    return world


def test_more_than_the_nodes_have_is_not_guaranteed_and_the_refusal_shows_the_sum() -> None:
    world = red_and_blue()
    ((path, told),) = refused(world.ask("set_queue", "default", team="blue", guaranteed_gpus=6))
    assert path == "$.guaranteed_gpus"
    assert told.startswith("guaranteed: red/big 8 + red/default 4 + blue/default 6 = 18 GPUs; the nodes have 16 |")
    assert changed(world.ask("set_queue", "default", team="blue", guaranteed_gpus=4))


def test_cpus_are_summed_up_like_gpus() -> None:
    world = red_and_blue()
    assert changed(world.ask("set_queue", "default", team="blue", guaranteed_cpus=128))
    ((path, told),) = refused(world.ask("set_queue", "big", team="red", guaranteed_cpus=0.5))
    assert path == "$.guaranteed_cpus"
    assert "red/big 0.5 + blue/default 128 = 128.5 CPUs; the nodes have 128" in told


def test_queues_of_a_team_with_a_guarantee_of_its_own_are_summed_up_against_that() -> None:
    world = red_and_blue()
    assert changed(world.ask("set_team", team="red", guaranteed_gpus=12))
    ((_, told),) = refused(world.ask("set_queue", "big", team="red", guaranteed_gpus=9))
    assert "guaranteed: big 9 + default 4 = 13 GPUs; team `red` is guaranteed 12" in told
    ((_, told),) = refused(world.ask("set_team", team="red", guaranteed_gpus=10))
    assert "guaranteed: big 8 + default 4 = 12 GPUs; team `red` is guaranteed 10" in told


def test_a_team_s_own_guarantee_is_what_counts_beside_other_teams() -> None:
    world = red_and_blue()
    assert changed(world.ask("set_team", team="red", guaranteed_gpus=14))
    ((_, told),) = refused(world.ask("set_queue", "default", team="blue", guaranteed_gpus=3))
    assert "guaranteed: red 14 + blue/default 3 = 17 GPUs; the nodes have 16" in told


def test_more_than_its_team_may_hold_is_not_guaranteed_to_a_queue() -> None:
    world = red_and_blue()
    ((_, told),) = refused(world.ask("set_team", team="red", gpus_max=10))
    assert "guaranteed: big 8 + default 4 = 12 GPUs; team `red` may hold 10 at most" in told


def test_a_sum_that_is_too_large_already_does_not_stand_in_the_way_of_other_changes() -> None:
    world = red_and_blue()
    world.capacity = a_capacity(8)
    assert changed(world.ask("set_queue", "big", team="red", paused=True))
    assert changed(world.ask("set_queue", "big", team="red", guaranteed_gpus=7))
    assert refused(world.ask("set_queue", "big", team="red", guaranteed_gpus=8))


def test_a_team_that_is_over_its_guarantee_already_may_be_changed_otherwise() -> None:
    world = red_and_blue()
    world.write(subjects.team("red"), m.TeamSet(by="an older version", guaranteed_gpus=10))
    assert changed(world.ask("set_queue", "big", team="red", guaranteed_gpus=7))
    assert refused(world.ask("set_queue", "big", team="red", guaranteed_gpus=8))


def test_a_team_that_the_configuration_does_not_name_any_more_can_be_seen_in_sums_and_be_cleared_away() -> None:
    world = red_and_blue()
    world.config = Configuration(teams={"blue": Team()})
    ((_, told),) = refused(world.ask("set_queue", "default", team="blue", guaranteed_gpus=6))
    assert "guaranteed: blue/default 6 + red/big 8 + red/default 4 = 18 GPUs; the nodes have 16" in told
    assert refused(world.ask("create_queue", "more", team="red"))[0][0] == "$.team"
    assert changed(world.ask("set_queue", "big", team="red", guaranteed_gpus=0, tiers=["gpu8"]))
    assert changed(world.ask("set_team", team="red", weight=2))
    for queue in ("big", "default"):
        assert changed(world.ask("delete_queue", queue, team="red"))
    assert changed(world.ask("set_queue", "default", team="blue", guaranteed_gpus=16))


def test_a_team_keeps_what_is_not_named_unless_it_is_replaced() -> None:
    world = World()
    world.ask("set_team", weight=2, gpus_max=8)
    assert changed(world.ask("set_team", running_max=3)) == m.TeamSet(by="ops", weight=2.0, gpus_max=8, running_max=3)
    assert changed(world.ask("set_team", weight=3, replace=True)) == m.TeamSet(by="ops", weight=3.0)


def test_without_any_node_a_guarantee_is_taken_with_a_warning() -> None:
    world = World(gpus=None)
    assert changed(world.ask("set_queue", guaranteed_gpus=4))
    assert [warning.path for warning in world.warnings] == ["$.guaranteed_gpus"]


def test_a_limit_of_each_user_above_that_of_all_is_taken_with_a_warning() -> None:
    world = World()
    assert changed(world.ask("set_queue", running_max=3, user_running_max=4, user_gpus_max=5))
    assert [(warning.path, warning.message) for warning in world.warnings] == [
        ("$.user_running_max", "4 has no effect: all users together have 3 at most")
    ]
    assert changed(world.ask("set_queue", user_running_max=3))
    assert world.warnings == ()


def test_a_long_sum_is_cut_short() -> None:
    config = Configuration(teams={"red": Team(queues=tuple(f"q{n:02}" for n in range(40)))})
    world = World(config, gpus=40)
    for n in range(40):
        assert changed(world.ask("set_queue", f"q{n:02}", team="red", guaranteed_gpus=1))
    ((_, told),) = refused(world.ask("set_queue", "q00", team="red", guaranteed_gpus=2))
    assert "guaranteed: q00 2 + q01 1" in told.replace("red/", "")
    assert "+ 28 others 28 = 41 GPUs; the nodes have 40" in told


# -- whatever is asked -------------------------------------------------------------------------------------------------

AMOUNTS = st.integers(0, 6)
STEPS = st.one_of(
    st.tuples(st.just("set_team"), st.just(""), st.fixed_dictionaries({}, optional={
        "guaranteed_gpus": AMOUNTS, "gpus_max": st.none() | AMOUNTS, "replace": st.booleans(),
    })),
    st.tuples(st.sampled_from(["set_queue", "create_queue"]), st.sampled_from("abc"), st.fixed_dictionaries(
        {}, optional={"guaranteed_gpus": AMOUNTS, "gpus_max": st.none() | AMOUNTS},
    )),
    st.tuples(st.just("delete_queue"), st.sampled_from("abc"), st.just({})),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["red", "blue"]), STEPS), max_size=25))
def test_whatever_operators_ask_for_what_is_guaranteed_can_be_kept(
    asked: list[tuple[str, tuple[str, str, dict[str, Any]]]],
) -> None:
    world = World(Configuration(teams={"red": Team(queues=("a",)), "blue": Team(queues=("a",))}), gpus=8)
    for team, (kind, queue, fields) in asked:
        world.ask(kind, queue, team=team, **fields)
        total = 0
        for name in ("red", "blue"):
            of_team, queues = world.queues.team(name)[1], world.queues.of(name)
            assert queues, "the last one is gone"
            total_of_queues = sum(each.guaranteed_gpus for each in queues.values())
            assert not of_team.guaranteed_gpus or total_of_queues <= of_team.guaranteed_gpus
            assert of_team.gpus_max is None or (of_team.guaranteed_gpus or total_of_queues) <= of_team.gpus_max
            assert all(each.gpus_max is None or each.guaranteed_gpus <= each.gpus_max for each in queues.values())
            total += of_team.guaranteed_gpus or total_of_queues
        assert total <= 8


@given(values(m.Change))
def test_whatever_a_change_says_it_is_answered_and_can_be_read_back(change: m.Change) -> None:
    world = World()
    queue = "" if isinstance(change, m.SetTeam) else "night"
    order = Order("ops", "vision", queue, msgspec.json.encode(change))
    read, found = configuring.read(order, CONFIG, world.queues)
    if read is None:
        assert found.problems
        return
    decision = configuring.decide(order, read, world.queues, CONFIG, There(), found)
    fact = decision.fact if isinstance(decision, Change) else None
    assert fact is None or msgspec.json.decode(msgspec.json.encode(fact), type=m.AnyFact) == fact
    assert fact is not None or isinstance(decision, m.Answer)
