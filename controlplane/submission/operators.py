"""The operators' door: changes of queues, teams and machines in, guarded facts out, each answered.

Whoever may publish on these subjects is an operator: the store's permissions say so, and for HTTP the gateway. A change
is judged against all queues and teams, so its fact is written in one round with `configured`, under a guard that stands
for all changes: any number of these may run side by side.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

import msgspec

from controlplane.frame import Tools
from controlplane.submission import answers, changes, configuring
from controlplane.submission.configuring import Jobs, Order, There
from controlplane.submission.following import Following
from controlplane.submission.machine_rules import MachineOrder
from controlplane.submission.machines import Machines
from controlplane.submission.reading import Findings
from controlplane.submission.spelled import names_asked, names_in
from events import messages as m
from events import streams, subjects
from events.bus import Asked, AskRefused, BusError, Conflict, Consumer, Delivery, Retry, Subscription
from events.ledger import Write
from events.wire import UNREADABLE

CONFLICT_TRIES: Final = 8
"""Others change queues at the same time: decide again, at most so often in one go."""
BUSY_S: Final = 0.5
ASK_S: Final = 2.0
GROUP: Final = "submission"
NO_TEAM: Final = "-"
"""In the subject of an answer about a machine."""


class Operators:
    """See the top of this file."""

    def __init__(self, tools: Tools, following: Following, counters: Counter[str]) -> None:
        self._tools = tools
        self._following = following
        self._counters = counters
        self._machines = Machines(tools, counters)
        self._one = asyncio.Lock()
        """Two of this process would only get into each other's way."""

    async def open(self) -> tuple[Consumer, list[Subscription]]:
        """Take changes in, from the stream and by request-reply."""
        bus = self._tools.bus
        consumer = await bus.consume(
            streams.REQUESTS.name,
            durable="submission_configure",
            subjects=subjects.CONFIGURE,
            handler=self.on_change,
        )
        asked = [await bus.answer(subject, self.on_asked_change, group=GROUP) for subject in subjects.ASK_CONFIGURE]
        return consumer, asked

    async def on_change(self, delivery: Delivery) -> None:
        names = names_in(delivery.subject)[1:]
        answer = answers.note(await self._changed(names, delivery.body))
        team = NO_TEAM if names[1] == "node" else names[2]
        await answers.tell(self._tools.bus, team, names[0], delivery.headers, answer)

    async def on_asked_change(self, asked: Asked) -> bytes:
        try:
            return msgspec.json.encode(answers.note(await self._changed(names_asked(asked.subject)[1:], asked.body)))
        except Retry as error:
            raise answers.later(error) from error

    async def _changed(self, names: list[str], body: bytes) -> m.Answer:
        """`names`: of the operator, and of what the change is about, as in the subject. Raises Retry, BusError."""
        if names[1] == "node":
            return await self._machines.change(MachineOrder(names[0], names[2], body))
        return await self._change(_order(names, body))

    async def _change(self, order: Order) -> m.Answer:
        """Raises Retry if others change things all the time, or nobody can say what a queue holds."""
        change, found = configuring.read(order, self._tools.config, self._following.queues)
        if change is None:
            self._counters["refused"] += 1
            return configuring.refused(found)
        there = await self._there(order, change)
        async with self._one:
            for _ in range(CONFLICT_TRIES):
                answer = await self._decide(order, change, there, found)
                if answer is not None:
                    return answer
        raise Retry(BUSY_S, "queues and teams are being changed all the time")

    async def _decide(self, order: Order, change: m.Change, there: There, before: Findings) -> m.Answer | None:
        """Once; None: something else was changed meanwhile."""
        found = before.copy()
        await self._catch_up(order)
        config = self._tools.config
        decision = configuring.decide(order, change, self._following.queues, config, there, found)
        if isinstance(decision, m.Answer):
            self._counters["repeated" if decision.verdict == "repeated" else "refused"] += 1
            return decision
        changed = m.Configured(by=order.operator, subject=order.subject)
        try:
            first = await self._tools.ledger.commit(
                [
                    Write(order.subject, decision.fact, decision.expect),
                    Write(subjects.CONFIGURATION, changed, decision.revision, replaces=True),
                ]
            )  # in this order: whoever has read that something was changed has read what
        except Conflict:
            return None
        await self._following.reached(first + 1)
        self._counters["configured"] += 1
        return configuring.applied(decision, first, found)

    async def _catch_up(self, order: Order) -> None:
        """Know every change that is in the ledger by now. Raises Retry, BusError."""
        for subject in (subjects.CONFIGURATION, order.subject):
            newest = await self._tools.ledger.last(subject)
            if newest is not None and not await self._following.reached(newest.sequence):
                raise Retry(BUSY_S, "this instance is behind the ledger")

    async def _there(self, order: Order, change: m.Change) -> There:
        """What scheduling has to say about a change. Raises Retry where nothing can be decided without."""
        if isinstance(change, m.DeleteQueue):
            return There(jobs=await self._jobs_of(order))
        if not {"guaranteed_gpus", "guaranteed_cpus"} & changes.named(change).keys():
            return There()
        return There(capacity=await self._capacity())

    async def _capacity(self) -> m.Capacity | None:
        """Of all nodes that are there; None: there is none, or nobody says."""
        try:
            said = await self._tools.bus.ask(subjects.ask("scheduling", "nodes"), timeout_s=ASK_S)
            nodes = msgspec.json.decode(said, type=m.NodesView).nodes
        except (BusError, AskRefused, *UNREADABLE):
            return None
        known = [node.capacity for node in nodes if node.state != "gone"]
        if not known:
            return None
        return m.Capacity(
            cpus=sum(each.cpus for each in known),
            memory_bytes=sum(each.memory_bytes for each in known),
            gpus=sum(each.gpus for each in known),
        )

    async def _jobs_of(self, order: Order) -> Jobs:
        """What a queue holds, as scheduling says. Raises Retry."""
        try:
            said = await self._tools.bus.ask(subjects.ask("scheduling", "queues"), timeout_s=ASK_S)
            view = msgspec.json.decode(said, type=m.QueuesView)
        except (BusError, AskRefused, *UNREADABLE) as error:
            raise Retry(BUSY_S, "scheduling does not say whether the queue has jobs") from error
        mine = (each for each in view.queues if (each.team, each.queue) == (order.team, order.queue))
        return next((Jobs(each.waiting, each.running) for each in mine), Jobs(0, 0))


def _order(names: list[str], body: bytes) -> Order:
    """From `<operator> queue <team> <queue>` or `<operator> team <team>`."""
    operator, _, team, *queue = names
    return Order(operator, team, queue[0] if queue else "", body)
