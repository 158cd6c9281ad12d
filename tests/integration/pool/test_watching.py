"""Watches as Kubernetes may answer them, by a script: in order, cut off, too old, silent, and by another's page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import kmock as k
import pytest
from kubernetes.aio.client import Configuration

from controlplane.pool import api as kubernetes
from controlplane.pool import watching
from controlplane.pool.api import Api, Event, Forbidden, Malformed, Object, Unreachable
from controlplane.pool.watching import Watching

PATH = "/api/v1/nodes"
WAIT_S = 10.0


def a_node(name: str, version: int) -> Object:
    return {"kind": "Node", "metadata": {"name": name, "resourceVersion": str(version)}}


def a_list(*nodes: Object, version: int) -> Object:
    return {"kind": "NodeList", "metadata": {"resourceVersion": str(version)}, "items": list(nodes)}


def event(what: str, thing: Object) -> bytes:
    return json.dumps({"type": what, "object": thing}).encode() + b"\n"


def bookmark(version: int) -> bytes:
    return event("BOOKMARK", {"kind": "Node", "metadata": {"resourceVersion": str(version)}})


def a_status(code: int, message: str) -> bytes:
    return json.dumps({"kind": "Status", "code": code, "message": message}).encode()


GONE = event("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"})


class Seen:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.failures: list[str] = []
        self._news = asyncio.Event()

    async def listed(self, items: list[Object]) -> None:
        self._add("list " + ",".join(one["metadata"]["name"] for one in items))

    def happened(self, event: Event) -> None:
        self._add(f"{event.type} {event.object['metadata']['name']}")

    def failing(self, why: str) -> None:
        if why:
            self.failures.append(why)
            self._news.set()

    def _add(self, what: str) -> None:
        self.told.append(what)
        self._news.set()

    async def until(self, *told: str) -> None:
        async with asyncio.timeout(WAIT_S):
            while tuple(self.told[: len(told)]) != told:
                self._news.clear()
                await self._news.wait()

    async def until_failing(self, count: int = 1) -> None:
        async with asyncio.timeout(WAIT_S):
            while len(self.failures) < count:
                self._news.clear()
                await self._news.wait()


class Script:
    """What the server answers: to each list the next of `lists`, to each watch the next of `watches`; then it hangs."""

    def __init__(self, server: k.RawHandler, lists: list[Any], watches: list[Any]) -> None:
        self.lists, self.watches = iter(lists), iter(watches)
        self.asked: list[str] = []
        """By version of each watch; `list`."""
        server[f"get {PATH}"] << self._answer

    def _answer(self, request: k.Request) -> Any:
        if "watch" in request.params:
            self.asked.append(request.params["resourceVersion"])
            return next(self.watches, (b"", ...))
        self.asked.append("list")
        return next(self.lists)


@pytest.fixture
async def api(kmock: k.RawHandler) -> AsyncIterator[Api]:
    configuration = Configuration()
    configuration.host = str(kmock.url).rstrip("/")
    api = Api(configuration)
    yield api
    await api.close()


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are there, and short."""
    monkeypatch.setattr(watching, "PAUSE_S_MIN", 0.01)
    monkeypatch.setattr(watching, "PAUSE_S_MAX", 0.05)


async def watched(api: Api, seen: Seen, silence_s: float = 60.0) -> asyncio.Task[None]:
    return asyncio.create_task(Watching(api, PATH, {}, seen, lambda: 0.0, silence_s=silence_s).run())


@pytest.fixture
async def watch(api: Api, seen: Seen, at_once: None) -> AsyncIterator[Any]:
    tasks: list[asyncio.Task[None]] = []

    async def begin(silence_s: float = 60.0) -> None:
        tasks.append(await watched(api, seen, silence_s))

    yield begin
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_events_come_in_order_and_a_watch_that_ends_goes_on_from_the_last(
    kmock: Any, seen: Seen, watch: Any
) -> None:
    script = Script(
        kmock,
        [a_list(a_node("a", 5), version=7)],
        [
            (event("ADDED", a_node("b", 8)), event("MODIFIED", a_node("a", 9)), bookmark(12)),
            (event("DELETED", a_node("b", 13)),),
        ],
    )
    await watch()
    await seen.until("list a", "ADDED b", "MODIFIED a", "DELETED b")
    assert script.asked[:3] == ["list", "7", "12"], "a bookmark says from where"


async def test_an_event_may_come_in_pieces(kmock: Any, seen: Seen, watch: Any) -> None:
    whole = event("ADDED", a_node("b", 8)) + event("ADDED", a_node("c", 9))
    Script(kmock, [a_list(version=7)], [(whole[:20], whole[20:70], whole[70:], ...)])
    await watch()
    await seen.until("list ", "ADDED b", "ADDED c")


@pytest.mark.parametrize("as_status", [False, True])
async def test_what_is_not_kept_any_more_is_listed_anew(kmock: Any, seen: Seen, watch: Any, as_status: bool) -> None:
    if as_status:
        kmock[f"get {PATH}", k.params(resourceVersion="7")] << 410 << a_status(410, "too old resource version")
    script = Script(kmock, [a_list(a_node("a", 5), version=7), a_list(a_node("b", 20), version=21)], [(GONE,)])
    await watch()
    await seen.until("list a", "list b")
    assert script.asked[:2] == (["list", "list"] if as_status else ["list", "7"])


async def test_silence_lists_anew(kmock: Any, seen: Seen, watch: Any) -> None:
    """A server that was restored from a backup knows nothing of a version of its future, and says nothing."""
    Script(kmock, [a_list(a_node("a", 500), version=700), a_list(a_node("a", 3), version=4)], [(b"", ...)])
    await watch(silence_s=0.3)
    await seen.until("list a", "list a")


async def test_bookmarks_are_no_silence(kmock: Any, seen: Seen, watch: Any) -> None:
    marks = tuple(part for number in range(8, 14) for part in (bookmark(number), lambda: asyncio.sleep(0.15)))
    script = Script(kmock, [a_list(version=7)], [(*marks, event("ADDED", a_node("b", 20)), ...)])
    await watch(silence_s=0.5)
    await seen.until("list ", "ADDED b")
    assert script.asked == ["list", "7"]


async def test_a_page_is_told_and_asked_again(kmock: Any, seen: Seen, watch: Any) -> None:
    page = b"<html><body>502 Bad Gateway</body></html>"
    Script(kmock, [page, a_list(a_node("a", 5), version=7)], [(page,), (event("ADDED", a_node("b", 8)), ...)])
    await watch()
    await seen.until("list a", "ADDED b")
    assert all("Bad Gateway" in why for why in seen.failures)
    assert len(seen.failures) == 2


async def test_an_event_without_an_end_is_not_kept_for_ever(
    kmock: Any, seen: Seen, watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "EVENT_BYTES_MAX", 10_000)
    script = Script(
        kmock, [a_list(version=7), a_list(version=8)], [(b"x" * 20_000, ...), (event("ADDED", a_node("b", 9)), ...)]
    )
    await watch()
    await seen.until("list ", "list ", "ADDED b")
    assert script.asked[:4] == ["list", "7", "list", "8"], "the same event would come again and again"
    assert "of more than 10000 bytes" in seen.failures[0]


async def test_an_answer_that_is_too_large_is_given_up(kmock: Any, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "ANSWER_BYTES_MAX", 10_000)
    Script(kmock, [a_list(*(a_node(f"n{number}", 1) for number in range(500)), version=7)], [])
    with pytest.raises(Malformed, match="of more than 10000 bytes"):
        await api.list(PATH, {})


async def test_a_refusal_is_told_in_the_words_of_kubernetes(kmock: Any, api: Api) -> None:
    kmock[f"get {PATH}"] << 403 << a_status(403, "nodes is forbidden: User cannot list resource")
    with pytest.raises(Forbidden, match="403 nodes is forbidden"):
        await api.list(PATH, {})


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    configuration = Configuration()
    configuration.host = "http://127.0.0.1:1"
    api = Api(configuration)
    try:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1"):
            await api.get(PATH)
    finally:
        await api.close()
