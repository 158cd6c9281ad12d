"""On which nodes a job may be: constraints on their labels, and alternatives in order of preference. Pure.

A constraint names, for each label, the values that will do; `!value` is one that will not. A node has the labels that
its operator gave it, `node`, which is its name, and `gpu`, the model of its GPUs, where it is known. Several
alternatives are tried in order: `gpu=A100`, or else `gpu=V100`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from events import messages as m

NODE: Final = "node"
GPU: Final = "gpu"

Pairs = tuple[tuple[str, tuple[str, ...]], ...]
"""A constraint that can be a key: labels in order, each with its values."""


def pairs(constraint: m.Constraint) -> Pairs:
    return tuple(sorted((label, tuple(sorted(set(values)))) for label, values in constraint.items()))


def of_node(node: str, capacity: m.Capacity, label: str) -> str:
    """What a node has under a label; empty: it has none of that name."""
    if label == NODE:
        return node
    return capacity.labels.get(label, "") or (capacity.gpu_model if label == GPU else "")


def is_met(constraint: Pairs, node: str, capacity: m.Capacity) -> bool:
    """Whether the node has all that is asked for. What has no such label has no value that is refused."""
    for label, values in constraint:
        has = of_node(node, capacity, label)
        if "!" + has in values or not (has in values or all(value.startswith("!") for value in values)):
            return False
    return True


def is_any_met(alternatives: Sequence[Pairs], node: str, capacity: m.Capacity) -> bool:
    """Whether the node will do; without alternatives any does."""
    return not alternatives or any(is_met(each, node, capacity) for each in alternatives)


def both(first: m.Constraint, second: m.Constraint) -> m.Constraint | None:
    """What meets both; None: nothing can."""
    merged = {}
    for label in (*first, *(label for label in second if label not in first)):
        several = [each[label] for each in (first, second) if label in each]
        refused = [value for values in several for value in values if value.startswith("!")]
        wanted = [_wanted(values) for values in several if _wanted(values)]
        possible = [value for value in (wanted[0] if wanted else ()) if all(value in each for each in wanted)]
        possible = [value for value in possible if "!" + value not in refused]
        if wanted and not possible:
            return None
        merged[label] = tuple(possible) if wanted else tuple(dict.fromkeys(refused))
    return merged


def alternatives(of_tier: Sequence[m.Constraint], own: m.Constraint) -> tuple[m.Constraint, ...] | None:
    """Of a tier's alternatives, in their order, those in which a job's own constraint can be met; None: in none."""
    if not own:
        return tuple(of_tier)
    met = tuple(merged for each in (of_tier or ({},)) if (merged := both(each, own)) is not None)
    return met or None


def values_of(label: str, alternatives: Sequence[Pairs]) -> tuple[str, ...]:
    """The only values of a label that will do in any of the alternatives, in order; empty: others will, too."""
    found = [_wanted(dict(each).get(label, ())) for each in alternatives]
    return tuple(sorted({value for values in found for value in values})) if all(found) else ()


def text(alternatives: Sequence[Mapping[str, Sequence[str]] | Pairs]) -> str:
    """For a person: `gpu=A100,H100 zone=a, or else gpu=V100`."""
    said = []
    for each in alternatives:
        constraint = dict(each)
        said.append(" ".join(f"{label}={','.join(values)}" for label, values in sorted(constraint.items())))
    return ", or else ".join(filter(None, said))


def _wanted(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(value for value in values if not value.startswith("!"))
