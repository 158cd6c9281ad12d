"""Constraints on the labels of nodes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import labels
from events import messages as m

CAPACITY = m.Capacity(cpus=1, memory_bytes=1, gpu_model="A100", labels={"zone": "a"})


@pytest.mark.parametrize(
    ("constraint", "met"),
    [
        ({}, True),
        ({"gpu": ("A100",)}, True),
        ({"gpu": ("H100", "A100")}, True),
        ({"gpu": ("H100",)}, False),
        ({"gpu": ("!A100",)}, False),
        ({"gpu": ("!H100",)}, True),
        ({"gpu": ("A100", "!A100")}, False),
        ({"zone": ("a",), "gpu": ("A100",)}, True),
        ({"zone": ("b",), "gpu": ("A100",)}, False),
        ({"rack": ("r1",)}, False),
        ({"rack": ("!r1",)}, True),
        ({"node": ("n1",)}, True),
        ({"node": ("!n1",)}, False),
    ],
)
def test_a_node_meets_what_its_labels_say(constraint: m.Constraint, met: bool) -> None:
    assert labels.is_met(labels.pairs(constraint), "n1", CAPACITY) is met


def test_a_label_of_its_own_goes_before_the_model_and_no_label_before_the_name() -> None:
    named = m.Capacity(cpus=1, memory_bytes=1, gpu_model="A100", labels={"gpu": "A100-80", "node": "other"})
    assert labels.of_node("n1", named, "gpu") == "A100-80"
    assert labels.of_node("n1", named, "node") == "n1"


VALUES = st.lists(st.sampled_from(("x", "y", "!x", "!y", "z")), min_size=1, max_size=3, unique=True).map(tuple)
CONSTRAINTS = st.dictionaries(st.sampled_from(("a", "b")), VALUES)


@given(CONSTRAINTS, CONSTRAINTS, st.sampled_from(("x", "y", "z", "")), st.sampled_from(("x", "y", "z", "")))
def test_both_is_met_where_each_is(first: m.Constraint, second: m.Constraint, a: str, b: str) -> None:
    node = m.Capacity(cpus=1, memory_bytes=1, labels={"a": a, "b": b})
    both = labels.both(first, second)
    met = both is not None and labels.is_met(labels.pairs(both), "n", node)
    assert met is all(labels.is_met(labels.pairs(each), "n", node) for each in (first, second))


def test_a_job_narrows_the_alternatives_of_its_tier_and_keeps_their_order() -> None:
    tier = ({"gpu": ("A100", "H100")}, {"gpu": ("V100",)})
    assert labels.alternatives(tier, {}) == tier
    assert labels.alternatives(tier, {"zone": ("a",)}) == tuple({**each, "zone": ("a",)} for each in tier)
    assert labels.alternatives(tier, {"gpu": ("H100", "V100")}) == ({"gpu": ("H100",)}, {"gpu": ("V100",)})
    assert labels.alternatives(tier, {"gpu": ("T4",)}) is None
    assert labels.alternatives((), {"zone": ("a",)}) == ({"zone": ("a",)},)


def test_how_alternatives_read() -> None:
    assert labels.text([{"zone": ("a",), "gpu": ("A100", "H100")}, {"gpu": ("V100",)}]) == (
        "gpu=A100,H100 zone=a, or else gpu=V100"
    )
    assert labels.text([labels.pairs({"gpu": ("!T4",)})]) == "gpu=!T4"
