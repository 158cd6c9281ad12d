"""Replies that somebody waits for, and tasks that somebody owns: each of them ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from events.wire import BusError, Unknown

Message = Any
"""nats-py's Msg: subject, reply, data, headers."""

SWEEP_S: Final = 0.1
"""How late an expired reply may be noticed; one timer serves all of them."""


class _Waiter(NamedTuple):
    future: asyncio.Future[Message]
    subject: str
    deadline: float


class Replies:
    """Replies that somebody waits for, each on an inbox of its own below one prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._waiting: dict[str, _Waiter] = {}
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def expect(self, subject: str, timeout_s: float) -> tuple[str, asyncio.Future[Message]]:
        """An inbox, and the future of what will arrive there. It always finishes, at the latest at its deadline."""
        loop = asyncio.get_running_loop()
        self._count += 1
        token = f"{self._count:x}"
        future: asyncio.Future[Message] = loop.create_future()
        future.add_done_callback(lambda _: self._waiting.pop(token, None))
        self._waiting[token] = _Waiter(future, subject, loop.time() + timeout_s)
        if self._timer is None:
            self._timer = loop.call_later(SWEEP_S, self._sweep)
        return self.prefix + token, future

    def arrived(self, message: Message) -> None:
        waiter = self._waiting.pop(message.subject[len(self.prefix) :], None)
        if waiter is not None and not waiter.future.done():
            waiter.future.set_result(message)

    def fail(self, error: Callable[[], BusError], subject: str | None = None) -> None:
        """Fail all that is waited for, or what went to one subject (compared without case)."""
        for waiter in list(self._waiting.values()):
            if (subject is None or waiter.subject.lower() == subject) and not waiter.future.done():
                waiter.future.set_exception(error())
                waiter.future.exception()  # a waiter that was cancelled meanwhile must not leave a warning

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for waiter in list(self._waiting.values()):
            if waiter.deadline <= now and not waiter.future.done():
                waiter.future.set_exception(Unknown(f"no answer to {waiter.subject} in time"))
                waiter.future.exception()
        self._timer = loop.call_later(SWEEP_S, self._sweep) if self._waiting else None


class Tasks:
    """Tasks that live as long as the connection; each is awaited or cancelled at its end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def cancel(self) -> None:
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
