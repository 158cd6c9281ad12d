"""Small pure parts of the gateway, and what guards every answer."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from typing import Any

import msgspec
import pytest

from controlplane.config import Configuration, Identity, Team
from controlplane.gateway.app import SLOW_S, Guard
from controlplane.gateway.auth import TOKEN_CHARACTERS_MAX, whose
from controlplane.gateway.cluster import MASK, fits, masked
from controlplane.gateway.service import listen
from controlplane.gateway.sse import Event
from events import messages as m

ADA, OPS = Identity(team="vision", user="ada"), Identity(team="vision", user="ops", operator=True)
TOKENS = {hashlib.sha256(token.encode()).hexdigest(): who for token, who in (("one", ADA), ("two", OPS))}


def test_a_token_is_known_by_its_hash() -> None:
    assert (whose("one", TOKENS), whose("two", TOKENS), whose("One", TOKENS)) == (ADA, OPS, None)
    assert whose(next(iter(TOKENS)), TOKENS) is None
    assert whose("x" * (TOKEN_CHARACTERS_MAX + 1), TOKENS) is None


def node(state: Any = "ready", *, cpus: float = 8, gpus: int = 0, cannot_start: str = "") -> m.NodeView:
    has = m.Capacity(cpus=8, memory_bytes=100, cannot_start=cannot_start)
    free = m.Allocation(node="n", cpus=cpus, memory_bytes=100, gpus=tuple(range(gpus)))
    return m.NodeView(node="n", state=state, capacity=has, free=free)


@pytest.mark.parametrize(
    ("wanted", "nodes", "number"),
    [
        (m.Resources(cpus=1, memory_bytes=10), [node()], 8),
        (m.Resources(cpus=1, memory_bytes=30), [node(), node()], 6),
        (m.Resources(cpus=1, memory_bytes=1, gpus=2), [node(gpus=5), node()], 2),
        (m.Resources(cpus=1, memory_bytes=1), [node("suspected"), node("cordoned")], 0),
        (m.Resources(cpus=1, memory_bytes=1), [node(cannot_start="its disk is full")], 0),
        (m.Resources(cpus=8, memory_bytes=1, nodes=2), [node(), node(), node(cpus=1)], 1),
        (m.Resources(cpus=1, memory_bytes=1), [], 0),
    ],
)
def test_how_often_a_tier_fits(wanted: m.Resources, nodes: list[m.NodeView], number: int) -> None:
    tier = m.Tier(name="t", resources=wanted)
    assert fits(tier, m.NodesView(term=1, nodes=tuple(nodes))) == number
    assert fits(tier, None) is None


def test_a_tier_fits_where_it_may_be() -> None:
    one = m.Resources(cpus=4, memory_bytes=1)
    nodes = (node(), msgspec.structs.replace(node(), node="other"))
    for on, number in ((({"node": ("n",)},), 2), (({"node": ("!n",)}, {"node": ("n",)}), 4), (({"gpu": ("x",)},), 0)):
        assert fits(m.Tier(name="t", resources=one, on=on), m.NodesView(term=1, nodes=nodes)) == number


def test_parts_fit_beside_others() -> None:
    third = m.Resources(cpus=1, memory_bytes=1, gpus=1, gpu_milli=300)
    shared = msgspec.structs.replace(node(gpus=1), shared={3: 700, 4: 200})
    assert fits(m.Tier(name="t", resources=third), m.NodesView(term=1, nodes=(shared,))) == 5


def test_a_configuration_is_shown_without_what_is_secret_or_of_others() -> None:
    config = Configuration(
        nats_password="hush",
        otlp_secret="hush2",
        nats_url="nats://me:hush@host:4222",
        teams={"vision": Team(), "speech": Team()},
        tokens=TOKENS | {"f" * 64: Identity(team="speech", user="bob")},
    )
    for who, teams, tokens in ((ADA, 1, 2), (OPS, 2, 3)):
        shown = masked(config, who)
        text = msgspec.json.encode(shown).decode()
        assert "hush" not in text
        assert not any(digest in text for digest in TOKENS)
        assert (len(shown["teams"]), len(shown["tokens"]), shown["nats_url"]) == (teams, tokens, f"{MASK}@host:4222")


def test_an_event_is_one_block_of_lines_whatever_is_in_it() -> None:
    encoded = Event("chunk", {"data": b"a\n\nb", "text": "x\r\ny\u2028"}, "1-2").encode().decode()
    name, event_id, data, *rest = encoded.split("\n")
    assert (name, event_id, rest) == ("event: chunk", "id: 1-2", ["", ""])
    assert json.loads(data.removeprefix("data: ")) == {"data": "YQoKYg==", "text": "x\r\ny\u2028"}


@pytest.mark.looptime
async def test_a_reader_that_takes_nothing_is_let_go_and_one_that_waits_long_between_events_is_not() -> None:
    loop = asyncio.get_running_loop()
    sent: list[Any] = []

    async def app(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"private")]})
        await asyncio.sleep(10 * SLOW_S)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise AssertionError("the reader took it after all")

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    scope: Any = {"type": "http", "path": "/"}
    receive: Any = None
    await Guard(app)(scope, receive, send)
    assert loop.time() >= 11 * SLOW_S
    headers = dict(sent[0]["headers"])
    assert headers[b"cache-control"] == b"private"
    assert headers[b"x-content-type-options"] == b"nosniff"


def test_the_listener_tells_asyncio_that_it_is_tcp_so_that_answers_are_not_held_back() -> None:
    listener = listen("127.0.0.1", 0)
    assert listener.proto == socket.IPPROTO_TCP
    listener.close()
