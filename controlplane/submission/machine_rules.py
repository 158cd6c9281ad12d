"""What becomes of an operator's request about a machine: pure, values in, values out.

Such a request is judged by the facts about that node alone, and its fact is guarded by the newest of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from controlplane.submission import reading
from controlplane.submission.reading import Findings, quoted
from events import messages as m
from events import subjects
from events.entries import Entry

WHY_CHARACTERS_MAX: Final = 500
GPUS_MAX: Final = 1024
"""Of one node, as `controlplane.scheduling.reports` has it."""
AHEAD_S_MAX: Final = 10 * 366 * 86_400.0
"""How far ahead a maintenance may be."""


class MachineOrder(NamedTuple):
    """A request about a machine as it came in."""

    operator: str
    node: str
    body: bytes

    @property
    def subject(self) -> str:
        """Raises BadName."""
        return subjects.node(self.node)


class MachineChange(NamedTuple):
    """Write this fact, expecting `expect` on the node's subject."""

    fact: m.NodeFact
    expect: int


class Machine(NamedTuple):
    """What was said of a machine last."""

    is_there: bool = False
    gone: m.NodeGone | None = None
    cordoned: m.NodeCordoned | None = None
    draining: m.NodeDraining | None = None
    maintenance: m.NodeMaintenance | None = None
    faults: tuple[m.GpuFault, ...] = ()
    """Of its GPUs."""


def read(order: MachineOrder) -> tuple[m.NodeChange | None, Findings]:
    """What a request says; None if it will be refused whatever there is."""
    found = Findings()
    raw = reading.read_object(order.body, found)
    if found.problems and not raw:
        return None, found
    kind = reading.check_type(raw, tuple(_KINDS), found)
    if kind is None:
        return None, found
    wanted = _KINDS[kind]
    known = wanted.__struct_fields__
    for name in raw:
        if name not in known and name != "type":
            found.problem(reading.join("$", name), f"no field {quoted(name)} here", reading.did_you_mean(name, known))
    change = wanted(**{name: _field(name, raw[name], found) for name in known if name in raw})
    return (None if found.problems else change), found


def decide(
    order: MachineOrder, change: m.NodeChange, history: Sequence[Entry], now: float, found: Findings
) -> MachineChange | m.Answer:
    """By the facts about the node."""
    machine = _machine(history)
    if not machine.is_there:
        found.problem("$.node", f"no node {quoted(order.node)}", "headrace nodes lists what there is")
    elif machine.gone is not None and not isinstance(change, m.GiveUpNode):
        said = reading.shown(machine.gone.why)
        found.problem("$", f"node {quoted(order.node)} is gone: {said}", "it joins again when it is heard of")
    if isinstance(change, m.MaintainNode):
        change = _span(change, now, found)
    if isinstance(change, m.RepairNode):
        change = _repair(change, machine, found)
    if found.problems:
        return refused(found)
    fact = _fact(change, order.operator)
    if _says_nothing_new(fact, machine):
        return m.Answer(verdict="repeated", sequence=history[-1].sequence, warnings=found.warnings)
    return MachineChange(fact, history[-1].sequence)


def refused(found: Findings) -> m.Answer:
    return m.Answer(verdict="refused", problems=found.problems, warnings=found.warnings)


def _machine(history: Sequence[Entry]) -> Machine:
    machine = Machine()
    for told in history:
        match told.fact:
            case m.NodeJoined():
                machine = machine._replace(is_there=True, gone=None)
            case m.NodeGone() as gone:
                machine = machine._replace(gone=gone)
            case m.NodeCordoned() as cordoned:
                machine = machine._replace(cordoned=cordoned)
            case m.NodeDraining() as draining:
                machine = machine._replace(draining=draining)
            case m.NodeUncordoned():
                machine = machine._replace(cordoned=None, draining=None)
            case m.NodeMaintenance() as maintenance:
                machine = machine._replace(maintenance=maintenance if _is_span(maintenance) else None)
            case m.NodeGpus(faults=faults):
                machine = machine._replace(faults=faults)
            case m.NodeGpusRepaired(gpus=gpus):
                machine = machine._replace(faults=tuple(fault for fault in machine.faults if fault.gpu not in gpus))
    return machine


def _is_span(span: m.NodeMaintenance | m.MaintainNode) -> bool:
    return span.ends_at > span.begins_at


def _span(change: m.MaintainNode, now: float, found: Findings) -> m.MaintainNode:
    if change == m.MaintainNode():
        return change  # there is none any more
    if not _is_span(change):
        found.problem("$.ends_at", "must be later than `begins_at`", "give neither to take a maintenance back")
    elif change.ends_at <= now:
        found.problem("$.ends_at", "is over already", "moments are seconds since the epoch, in UTC")
    elif change.ends_at > now + AHEAD_S_MAX:
        found.problem("$.ends_at", "is more than ten years ahead", "moments are seconds since the epoch, in UTC")
    return change


def _repair(change: m.RepairNode, machine: Machine, found: Findings) -> m.RepairNode:
    """With the GPUs that it is about: of those that it names, or of all, the ones that are out of use."""
    asked = [fault for fault in machine.faults if not change.gpus or fault.gpu in change.gpus]
    for fault in asked:
        if fault.stands:
            said = reading.shown(fault.why)
            hint = "it comes back by itself when the node does not see that any more: reset it, or restart the machine"
            found.problem("$.gpus", f"the node still says of GPU {fault.gpu}: {said}", hint)
    return msgspec.structs.replace(change, gpus=tuple(sorted({fault.gpu for fault in asked})))


def _fact(change: m.NodeChange, by: str) -> m.NodeFact:
    match change:
        case m.CordonNode(why=why):
            return m.NodeCordoned(by=by, why=why)
        case m.UncordonNode():
            return m.NodeUncordoned(by=by)
        case m.DrainNode(why=why, stop=stop):
            return m.NodeDraining(by=by, why=why, stop=stop)
        case m.MaintainNode(begins_at=begins_at, ends_at=ends_at, why=why):
            return m.NodeMaintenance(by=by, begins_at=begins_at, ends_at=ends_at, why=why)
        case m.RepairNode(gpus=gpus, why=why):
            return m.NodeGpusRepaired(by=by, gpus=gpus, why=why)
        case m.GiveUpNode(why=why):
            said = f"given up by {by}" + (f": {why}" if why else "")
            return m.NodeGone(by=by, why=said)


def _says_nothing_new(fact: m.NodeFact, machine: Machine) -> bool:
    """Whether the machine already is as this fact would make it."""
    match fact:
        case m.NodeCordoned(by=by, why=why):
            mark = machine.cordoned
            return mark is not None and by == mark.by and why in ("", mark.why)
        case m.NodeUncordoned():
            return machine.cordoned is None and machine.draining is None
        case m.NodeDraining(why=why, stop=stop):
            last = machine.draining
            return last is not None and why in ("", last.why) and stop == last.stop
        case m.NodeMaintenance(begins_at=begins_at, ends_at=ends_at, why=why):
            mine = machine.maintenance
            if mine is None or not _is_span(fact):
                return mine is None and not _is_span(fact)
            return (begins_at, ends_at, why) == (mine.begins_at, mine.ends_at, mine.why)
        case m.NodeGpusRepaired(gpus=gpus):
            return not gpus
        case m.NodeGone():
            return machine.gone is not None
        case _:
            return False


def _field(name: str, value: Any, found: Findings) -> Any:
    path = f"$.{name}"
    if name == "why":
        return reading.text(value, path, found, characters_max=WHY_CHARACTERS_MAX)
    if name == "gpus":
        return _gpus(value, path, found)
    if name == "stop":
        return reading.boolean(value, path, found)
    moment = reading.number(value, path, found, low=0, high=2**36, unit=" seconds since the epoch")
    return 0.0 if moment is None else moment


def _gpus(value: Any, path: str, found: Findings) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > GPUS_MAX:
        found.problem(path, f"must be a list of indices, of at most {GPUS_MAX}", "such as [3]")
        return ()
    indices = [reading.integer(one, f"{path}[{at}]", found, low=0, high=GPUS_MAX - 1) for at, one in enumerate(value)]
    return tuple(index for index in indices if index is not None)


_KINDS: Final[dict[str, type[m.NodeChange]]] = {
    "cordon_node": m.CordonNode,
    "uncordon_node": m.UncordonNode,
    "drain_node": m.DrainNode,
    "maintain_node": m.MaintainNode,
    "give_up_node": m.GiveUpNode,
    "repair_node": m.RepairNode,
}
