"""`/v1/admin/dead`: what could not be processed, looked at, played again or dropped. For operators alone."""

from __future__ import annotations

import base64
from typing import Annotated, Final

import msgspec
from litestar import delete, get, post
from litestar.params import FromPath, QueryParameter

from controlplane.gateway.auth import operators_only
from controlplane.gateway.context import Gateway, Here
from controlplane.gateway.failures import Failure
from events import dead, subjects
from events import messages as m
from events.bus import Delivery
from events.streams import DEAD

LIMIT_MAX: Final = 500
PAGE_BYTES_MAX: Final = 8 * 1024**2
"""Of letters read for one page: a list of large ones is shorter."""
SEQUENCE_MAX: Final = 2**63 - 1


class DeadPage(msgspec.Struct, frozen=True, kw_only=True):
    """Oldest first. `next`: give it as `after` for the next page; 0 on the last one. `total`: how many there are."""

    letters: list[m.DeadLetter]
    next: int = 0
    total: int = 0


class DeadMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A letter with the message in it: as text where it is UTF-8, else in base 64."""

    letter: m.DeadLetter
    headers: dict[str, str]
    text: str | None = None
    base64: str | None = None


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was published again. `gone`: it was taken from DEAD; False: somebody else had taken it meanwhile."""

    letter: m.DeadLetter
    stored_at: int
    gone: bool


@get("/v1/admin/dead", guards=[operators_only])
async def list_dead(
    gateway: Here,
    limit: Annotated[int, QueryParameter(ge=1, le=LIMIT_MAX)] = 100,
    after: Annotated[int, QueryParameter(ge=0, le=SEQUENCE_MAX)] = 0,
) -> DeadPage:
    """Dead letters of all teams, the oldest first."""
    bus = gateway.tools.bus
    found = await bus.page(DEAD.name, subjects.DEAD, after=after, count=limit, bytes_max=PAGE_BYTES_MAX)
    return DeadPage(
        letters=[dead.read(delivery) for delivery in found],
        next=found[-1].sequence if found and found[-1].sequence < await bus.last_sequence(DEAD.name) else 0,
        total=(await bus.usage(DEAD.name)).messages,
    )


@get("/v1/admin/dead/{sequence:int}", guards=[operators_only])
async def show_dead(gateway: Here, sequence: FromPath[int]) -> DeadMessage:
    """One dead letter, with the headers and the body of the message."""
    delivery = await _letter(gateway, sequence)
    try:
        text, coded = delivery.body.decode(), None
    except UnicodeDecodeError:
        text, coded = None, base64.b64encode(delivery.body).decode()
    return DeadMessage(letter=dead.read(delivery), headers=dict(delivery.headers), text=text, base64=coded)


@post("/v1/admin/dead/{sequence:int}/replay", status_code=200, guards=[operators_only])
async def replay_dead(gateway: Here, sequence: FromPath[int]) -> Replayed:
    """Publish the message again where it came from, under its own id; then take it from DEAD."""
    delivery = await _letter(gateway, sequence)
    try:
        message = dead.replayed(delivery)
    except dead.NoReplay as error:
        raise Failure(409, f"letter {sequence} cannot be replayed: {error}", "drop it, and send it anew") from error
    stored_at = await gateway.tools.bus.publish(message)
    gone = await gateway.tools.bus.remove(DEAD.name, sequence)
    return Replayed(letter=dead.read(delivery), stored_at=stored_at, gone=gone)


@delete("/v1/admin/dead/{sequence:int}", status_code=200, guards=[operators_only])
async def drop_dead(gateway: Here, sequence: FromPath[int]) -> m.DeadLetter:
    """Take a letter from DEAD for good."""
    letter = dead.read(await _letter(gateway, sequence))
    await gateway.tools.bus.remove(DEAD.name, sequence)
    return letter


async def _letter(gateway: Gateway, sequence: int) -> Delivery:
    delivery = await gateway.tools.bus.message(DEAD.name, sequence) if 0 < sequence <= SEQUENCE_MAX else None
    if delivery is None:
        raise Failure(404, f"no dead letter {sequence}", "GET /v1/admin/dead lists what there is")
    return delivery
