"""Several instances that decide on changes of queues, each behind the ledger by as much as chance has it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.config import Configuration, Team
from controlplane.submission import configuring
from controlplane.submission.configuring import Change, Order, There
from controlplane.submission.queues import Queues
from events import messages as m
from events import subjects
from events.entries import Entry

CONFIG = Configuration(teams={"red": Team(queues=("a", "b")), "blue": Team(queues=("a",))})
CAPACITY = m.Capacity(cpus=8.0, memory_bytes=1, gpus=8)
INSTANCES = 3


class Ledger:
    """Facts, and the guards that the store keeps."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.last: dict[str, int] = {}

    def write(self, *facts: tuple[str, m.Fact, int]) -> bool:
        """A round: all of it if every guard holds, else nothing."""
        if any(self.last.get(subject, 0) != expect for subject, _, expect in facts):
            return False
        for subject, fact, _ in facts:
            self.entries.append(Entry(len(self.entries) + 1, subject, fact, at=1000.0))
            self.last[subject] = len(self.entries)
        return True


class Instance:
    """One submission: what it has read of the ledger so far."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.read = 0
        self.queues = Queues()

    def follow(self, facts: int) -> None:
        for entry in self.ledger.entries[self.read : self.read + facts]:
            self.queues.apply(entry)
            self.read += 1

    def change(self, order: Order) -> Change | None:
        """What it decides, if the ledger takes it."""
        asked, found = configuring.read(order, CONFIG, self.queues)
        assert asked is not None, found.problems
        decision = configuring.decide(order, asked, self.queues, CONFIG, There(capacity=CAPACITY), found)
        if not isinstance(decision, Change):
            return None
        configured = m.Configured(by="ops", subject=order.subject)
        taken = self.ledger.write(
            (order.subject, decision.fact, decision.expect), (subjects.CONFIGURATION, configured, decision.revision)
        )
        return decision if taken else None


FIELDS = st.fixed_dictionaries(
    {}, optional={"guaranteed_gpus": st.integers(0, 8), "weight": st.integers(1, 3), "paused": st.booleans()}
)
CHANGES = st.one_of(
    st.tuples(st.sampled_from(["set_queue", "create_queue"]), st.sampled_from("abc"), FIELDS),
    st.tuples(st.just("delete_queue"), st.sampled_from("abc"), st.just({})),
    st.tuples(st.just("set_team"), st.just(""), st.fixed_dictionaries({"guaranteed_gpus": st.integers(0, 8)})),
)
STEPS = st.tuples(st.integers(0, INSTANCES - 1), st.integers(0, 6), st.sampled_from(["red", "blue"]), CHANGES)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_however_far_instances_are_behind_what_they_write_holds_together(
    steps: list[tuple[int, int, str, tuple[str, str, dict[str, Any]]]],
) -> None:
    ledger = Ledger()
    for team, settings_ in CONFIG.teams.items():
        for name in settings_.queues:
            ledger.write((subjects.queue(team, name), m.QueueSet(by="configuration"), 0))
    instances = [Instance(ledger) for _ in range(INSTANCES)]
    for each in instances:
        each.follow(len(ledger.entries))
    said: dict[tuple[str, str, str], Any] = {}
    for number, facts, team, (kind, queue, fields) in steps:
        instances[number].follow(facts)
        order = Order("ops", team, queue, json.dumps({"type": kind} | fields).encode())
        taken = instances[number].change(order)
        if taken is not None and kind != "set_queue":
            said = {key: value for key, value in said.items() if key[:2] != (team, queue)}
        if taken is not None:
            said |= {(team, queue, name): value for name, value in fields.items()}
        _judge(ledger, said)


def _judge(ledger: Ledger, said: dict[tuple[str, str, str], Any]) -> None:
    """By somebody who has read all."""
    all_seeing = Instance(ledger)
    all_seeing.follow(len(ledger.entries))
    queues = all_seeing.queues
    total = 0
    for team in CONFIG.teams:
        there = queues.of(team)
        assert there, f"the last queue of {team} is gone"
        own, of_queues = queues.team(team)[1].guaranteed_gpus, sum(each.guaranteed_gpus for each in there.values())
        assert not own or of_queues <= own
        total += own or of_queues
    assert total <= CAPACITY.gpus
    for (team, queue, name), value in said.items():
        found = queues.known(team, queue).settings if queue else queues.team(team)[1]
        assert getattr(found, name) == value, f"what was asked of {team}/{queue} is lost: {name}"
