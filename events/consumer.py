"""A durable consumer: messages are handed to a handler and acknowledged when it returns.

Messages of one subject are handled one after another, in the order of delivery; different subjects at the same time.
A message that a handler cannot take comes again after a while; when it has failed `tries_max` times, or is Poison, it
goes to the dead letters with the reason and its own headers. Trouble of the bus itself is never the message's fault.
What is being handled (or waits for it) is reported in progress, so that it is not given to somebody else meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from events import dead, jetstream
from events.connection import Connection
from events.pull import Pull
from events.replies import Message
from events.wire import TOO_LARGE, AckInfo, BusError, Delivery, Poison, Refused, Retry, ack_info

LOG: Final = logging.getLogger("headrace.bus")

Handler = Callable[[Delivery], Awaitable[None]]
BatchHandler = Callable[[Sequence[Delivery]], Awaitable[None]]

BACKOFF_S: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Before the second, third, … try of a message whose handler failed; the last stands for all further ones."""
BUS_TROUBLE_S: Final = 1.0
UNBURIED_S: Final = 10.0
"""Before another try to bury a message. DEAD refuses when it is full, and the message stays where it is: until there
is room again, so many of them cost so little."""
RECOVER_S: Final = (0.05, 0.1, 0.3, 1.0, 2.0)
FAILURES_KEPT: Final = 10_000
DRAIN_S: Final = 20.0
"""How long a drain waits for handlers; what is still being handled then is cut off, and comes again."""
HANDLING_S_MAX: Final = 3600.0
"""A message handled for longer is no longer reported in progress: its handler hangs."""
ACK_PENDING_FACTOR: Final = 8
"""How many instances may share a durable before the server holds messages back."""


class _Held:
    """A message that was delivered and is not acknowledged yet."""

    __slots__ = ("delivery", "reply", "since_s")

    def __init__(self, delivery: Delivery, reply: str, since_s: float) -> None:
        self.delivery = delivery
        self.reply = reply
        self.since_s = since_s


class Consumer:
    """See the top of this file. Made by `Bus.consume` and `Bus.consume_batches`; ended by `drain`."""

    def __init__(
        self,
        connection: Connection,
        publish: dead.Publish,
        *,
        stream: str,
        durable: str,
        filters: Sequence[str],
        window: int,
        ack_wait_s: float,
        tries_max: int,
    ) -> None:
        self._connection = connection
        self._publish = publish
        self._stream = stream
        self._durable = durable
        self._filters = tuple(filters)
        self._window = window
        self._ack_wait_s = ack_wait_s
        self._tries_max = tries_max
        self._held: dict[int, _Held] = {}
        self._failures: OrderedDict[int, int] = OrderedDict()
        self._lanes: dict[str, deque[_Held]] = {}
        self._handler: Handler | None = None
        self._batches: asyncio.Queue[_Held] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._trouble = asyncio.Event()
        self._draining = False
        self._returned: list[_Held] = []
        """Not begun when the drain began, or arrived after: they are somebody else's."""
        self._keepers: list[asyncio.Task[None]] = []
        self._workers: set[asyncio.Task[None]] = set()
        self._pull = Pull(
            connection,
            stream=stream,
            consumer=durable,
            window=window,
            on_message=self._arrived,
            on_lost=lambda _: self._trouble.set(),
            drains=True,
        )
        self.handled = 0
        self.retried = 0
        """Times that a message was put back, for whatever reason."""
        self.dead = 0
        """Messages given to the dead letters since the start."""

    # -- life ----------------------------------------------------------------------------------------------------------

    async def start(self, handler: Handler) -> None:
        self._handler = handler
        await self._begin()

    async def start_batches(self, handler: BatchHandler, *, batch: int, linger_s: float) -> None:
        self._batches = asyncio.Queue()
        await self._begin()
        self._keepers.append(self._connection.tasks.spawn(self._work_batches(handler, batch, linger_s)))

    async def _begin(self) -> None:
        await self._ensure()
        await self._pull.start()
        self._connection.on_reconnected.append(self._trouble.set)
        spawn = self._connection.tasks.spawn
        self._keepers += [spawn(self._keep_pulling()), spawn(self._keep_in_progress())]

    async def drain(self) -> None:
        """Take nothing in any more, finish and acknowledge what is being handled, hand the rest back."""
        if self._draining:
            return
        self._draining = True
        for lane in self._lanes.values():
            while len(lane) > 1:  # the first one is being handled
                self._returned.append(lane.pop())
        if self._trouble.set in self._connection.on_reconnected:
            self._connection.on_reconnected.remove(self._trouble.set)
        await self._pull.drain()  # before they are handed back, or they would come here again
        for held in self._returned:
            await self._finish(held, b"-NAK")
        try:
            async with asyncio.timeout(DRAIN_S):
                await self._idle.wait()
        except TimeoutError:
            LOG.warning("consumer %s of %s drained with %d unfinished", self._durable, self._stream, len(self._held))
        tasks = [*self._keepers, *self._workers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ensure(self) -> None:
        config: dict[str, Any] = {
            "durable_name": self._durable,
            "ack_policy": "explicit",
            "ack_wait": int(self._ack_wait_s * 1e9),
            "max_deliver": -1,
            "deliver_policy": "all",
            "replay_policy": "instant",
            "max_ack_pending": max(1000, self._window * ACK_PENDING_FACTOR),
        }
        config |= {"filter_subjects": list(self._filters)} if self._filters else {}
        request = {"stream_name": self._stream, "config": config, "action": ""}
        await jetstream.api(self._connection, f"CONSUMER.CREATE.{self._stream}.{self._durable}", request)

    async def _keep_pulling(self) -> None:
        """After trouble (reconnected, consumer gone, silence): make the consumer exist again and pull again."""
        while True:
            await self._trouble.wait()
            self._trouble.clear()
            for pause_s in (*RECOVER_S, RECOVER_S[-1]):
                try:
                    await self._ensure()
                except BusError as error:
                    LOG.warning("consumer %s of %s: %s", self._durable, self._stream, error)
                    await asyncio.sleep(pause_s)
                    self._trouble.set()
                else:
                    self._trouble.clear()
                    self._pull.restart()
                    break

    async def _keep_in_progress(self) -> None:
        loop = asyncio.get_running_loop()
        period_s = self._ack_wait_s / 3
        while True:
            await asyncio.sleep(period_s)
            for held in list(self._held.values()):
                if period_s / 2 < loop.time() - held.since_s < HANDLING_S_MAX:
                    await self._say(held, b"+WPI")

    # -- one message ---------------------------------------------------------------------------------------------------

    def _arrived(self, message: Message) -> None:
        info = ack_info(message.reply)
        if info is None:
            self._pull.release()
            return
        known = self._held.get(info.sequence)
        if known is not None:  # delivered again while it is still here: answer the newest delivery, handle it once
            known.reply = message.reply
            self._pull.release()
            return
        held = self._hold(message, info)
        if self._draining:
            self._returned.append(held)
            return
        if self._batches is not None:
            self._batches.put_nowait(held)
            return
        lane = self._lanes.get(message.subject)
        if lane is None:
            lane = self._lanes[message.subject] = deque((held,))
            worker = self._connection.tasks.spawn(self._work(message.subject, lane))
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        else:
            lane.append(held)

    def _hold(self, message: Message, info: AckInfo) -> _Held:
        delivery = Delivery(
            message.subject, message.data, message.headers, sequence=info.sequence, at=info.at, delivered=info.delivered
        )
        held = _Held(delivery, message.reply, asyncio.get_running_loop().time())
        delivery._progress = lambda: self._say(held, b"+WPI")
        self._held[info.sequence] = held
        self._idle.clear()
        return held

    async def _work(self, subject: str, lane: deque[_Held]) -> None:
        """Handle the messages of one subject, one after another, until none waits."""
        try:
            while lane:
                await self._handle(lane[0])
                lane.popleft()
        finally:
            del self._lanes[subject]

    async def _handle(self, held: _Held) -> None:
        assert self._handler is not None
        with held.delivery.at_work():
            try:
                await self._handler(held.delivery)
            except Exception as error:  # noqa: BLE001  whatever a handler raises is about its message, not our end
                await self._failed(held, error)
            else:
                self.handled += 1
                await self._finish(held, b"+ACK")

    async def _failed(self, held: _Held, error: Exception) -> None:
        delivery = held.delivery
        if isinstance(error, Retry):
            await self._again(held, error.after_s)
            return
        if isinstance(error, BusError) and not (isinstance(error, Refused) and error.code == TOO_LARGE):
            LOG.warning("%s; again in %s s", error, BUS_TROUBLE_S)
            await self._again(held, BUS_TROUBLE_S)
            return
        failures = self._failures.pop(delivery.sequence, 0) + 1
        if isinstance(error, Poison):
            await self._bury(held, error.reason, failures)
            return
        reason = f"{type(error).__name__}: {error}"
        if failures >= self._tries_max:
            LOG.error("failed %d times: %s", failures, reason, exc_info=error)
            await self._bury(held, reason, failures)
            return
        self._failures[delivery.sequence] = failures
        if len(self._failures) > FAILURES_KEPT:
            self._failures.popitem(last=False)
        LOG.warning("failed (try %d of %d)", failures, self._tries_max, exc_info=error)
        await self._again(held, BACKOFF_S[min(failures, len(BACKOFF_S)) - 1])

    async def _again(self, held: _Held, after_s: float) -> None:
        self.retried += 1
        await self._finish(held, b'-NAK {"delay": %d}' % int(max(after_s, 0.001) * 1e9))

    async def _bury(self, held: _Held, reason: str, failures: int) -> None:
        """To the dead letters; only when it is safe there is it taken from its stream."""
        delivery = held.delivery
        try:
            await dead.bury(self._publish, delivery, stream=self._stream, reason=reason, tries=failures)
        except BusError as error:
            LOG.warning("no dead letter: %s", error)
            self._failures[delivery.sequence] = failures - 1
            await self._again(held, UNBURIED_S)
            return
        self.dead += 1
        LOG.error("dead letter: %s", reason)
        await self._finish(held, b"+TERM")

    async def _finish(self, held: _Held, verdict: bytes) -> None:
        """Say what became of a message, and let go of it. If that is lost, the message comes again."""
        await self._say(held, verdict)
        del self._held[held.delivery.sequence]
        if not verdict.startswith(b"-NAK"):
            self._failures.pop(held.delivery.sequence, None)
        if not self._held:
            self._idle.set()
        self._pull.release()

    async def _say(self, held: _Held, verdict: bytes) -> None:
        if not self._connection.is_up:
            return
        try:
            await self._connection.publish(held.reply, verdict)
        except BusError as error:
            with held.delivery.at_work():
                LOG.info("could not answer for it: %s", error)

    # -- batches -------------------------------------------------------------------------------------------------------

    async def _work_batches(self, handler: BatchHandler, batch: int, linger_s: float) -> None:
        assert self._batches is not None
        while True:
            taken = [await self._batches.get()]
            try:
                async with asyncio.timeout(linger_s):
                    while len(taken) < batch:
                        taken.append(await self._batches.get())
            except TimeoutError:
                pass
            await self._handle_batch(handler, taken)

    async def _handle_batch(self, handler: BatchHandler, taken: list[_Held]) -> None:
        """All at once; if that fails, one by one, so that only the guilty message is tried again."""
        try:
            await handler([held.delivery for held in taken])
        except Exception as error:  # noqa: BLE001  as in `_handle`
            if len(taken) == 1:
                with taken[0].delivery.at_work():
                    await self._failed(taken[0], error)
                return
            for held in taken:
                await self._handle_batch(handler, [held])
        else:
            self.handled += len(taken)
            for held in taken:
                await self._finish(held, b"+ACK")
