"""A policy file: what it says, and what a mistake in it says."""

from __future__ import annotations

import pytest

from controlplane.scheduling.decisions import Settings
from controlplane.whatif.policy import Policy, PolicyError, check_names, read
from events import messages as m

WHOLE = """
[queues."*"]
predictions = false
[queues."vision/default"]
policy = "sjf"
guard = "none"
[teams.vision]
weight = 2
[scheduling]
backfill_depth = 4
fair_half_life_s = 0
[nodes]
without = ["n3"]
more = {n1 = 2}
"""


def test_an_empty_file_changes_nothing() -> None:
    policy, now = read("", "p.toml"), m.QueueSet(by="ada", weight=3)
    assert policy == Policy()
    assert policy.queue("vision", "default", now) == now
    assert policy.settings(Settings()) == Settings()


def test_what_it_names_is_another_and_the_rest_stays() -> None:
    policy = read(WHOLE, "p.toml")
    now = m.QueueSet(by="ada", gpus_max=8)
    assert policy.queue("vision", "default", now) == m.QueueSet(
        by="ada", gpus_max=8, policy="sjf", guard=None, predictions=False
    )
    assert policy.queue("vision", "other", now) == m.QueueSet(by="ada", gpus_max=8, predictions=False)
    assert policy.team("vision", m.TeamSet(by="")) == m.TeamSet(by="", weight=2)
    assert policy.settings(Settings()) == Settings(backfill_depth=4, fair_half_life_s=0)
    assert (policy.without, policy.more) == (("n3",), {"n1": 2})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[queue]", "p.toml: no such key: queue; there are queues, teams, scheduling, nodes"),
        ("queues = 3", "p.toml: queues: must be a table, such as [queues]"),
        ("[queues.default]", 'p.toml: queues.default: a queue is named by its team and its name, such as [queues."vis'),
        ('[queues."a/b"]\npolicy = "best"', "p.toml: queues.a/b.policy: no policy `best` ("),
        ('[queues."a/b"]\nwait = 1', "p.toml: queues.a/b: no such key: wait; there are "),
        ('[queues."a/b"]\nweight = "x"', "p.toml: queues.a/b.weight: "),
        ("[teams.a]\npolicy = 1", "p.toml: teams.a: no such key: policy"),
        ("[scheduling]\nbackfill_depth = 1.5", "p.toml: scheduling.backfill_depth: a number from 0 to 10000, not 1.5"),
        ("[scheduling]\npacking = 1", "p.toml: scheduling.packing: one of best_fit, fgd, not 1"),
        ("[scheduling]\nlease_s = 1", "p.toml: scheduling: no such key: lease_s"),
        ("[nodes]\nadd = 1", "p.toml: nodes: no such key: add; there are without, more"),
        ("[nodes]\nwithout = 1", 'p.toml: nodes.without: must be a list of names, such as ["n1"]'),
        ("[nodes]\nmore = {n1 = -1}", "p.toml: nodes.more.n1: a number from 0 to 1000, not -1"),
        ("[", "p.toml: cannot be read: "),
    ],
)
def test_a_mistake_names_the_key_and_the_file(text: str, said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        read(text, "p.toml")
    assert str(caught.value).startswith(said)


def test_a_name_that_the_ledger_does_not_know_is_a_mistake() -> None:
    with pytest.raises(PolicyError, match=r"nodes.more: no n9 in the ledger; there are n1, n2"):
        check_names(read("[nodes]\nmore = {n9 = 1}", "p.toml"), set(), set(), {"n1", "n2"}, "p.toml")
