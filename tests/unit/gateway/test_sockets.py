"""WebSockets at the door: what is answered before one is open, and that nobody but the application says goodbye."""

from __future__ import annotations

from typing import Any

from controlplane.http import Abrupt, Bounded, Denied

SCOPE: dict[str, Any] = {"type": "websocket", "path": "/x", "headers": []}


async def sent_by(app: Any, scope: dict[str, Any] = SCOPE) -> list[dict[str, Any]]:
    """What comes out of an application."""
    messages: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    await app(scope, receive, send)
    return messages


def says(*messages: dict[str, Any]) -> Any:
    async def app(_: Any, __: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


CLOSE = {"type": "websocket.close", "code": 4404, "reason": "there is no job x"}
ACCEPT = {"type": "websocket.accept"}


async def test_a_refusal_before_a_socket_is_open_is_an_answer_of_http() -> None:
    start, body = await sent_by(Denied(says(CLOSE)))
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 404)
    assert (body["type"], body["body"]) == ("websocket.http.response.body", b"there is no job x")


async def test_a_failure_of_an_open_socket_is_no_goodbye() -> None:
    assert await sent_by(Denied(says(ACCEPT, CLOSE))) == [ACCEPT]


async def test_a_goodbye_of_the_applications_own_goes_through() -> None:
    goodbye = {"type": "websocket.close", "code": 1000}
    assert await sent_by(Denied(says(ACCEPT, goodbye))) == [ACCEPT, goodbye]


async def test_a_socket_that_finds_no_place_is_told_to_come_again() -> None:
    bounded = Bounded(says(ACCEPT), places=0)
    start, _ = await sent_by(bounded)
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 503)
    assert dict(start["headers"])[b"retry-after"]
    assert bounded.counts["unavailable"] == 1


class Transport:
    aborted = False

    def abort(self) -> None:
        self.aborted = True


def test_a_server_that_ends_and_a_reader_that_is_silent_are_cut_off_without_a_goodbye() -> None:
    for end in (Abrupt.shutdown, Abrupt.keepalive_timeout):
        protocol = Abrupt.__new__(Abrupt)
        transport = Transport()
        protocol.transport = transport  # type: ignore[assignment]
        end(protocol)
        assert transport.aborted
