"""A stream as bytes, and back: sequences, times, headers and all. What a backup is made of.

JetStream's own snapshot (`$JS.API.STREAM.SNAPSHOT`): every guard and every term is a sequence, so copying messages one
by one would not do. https://docs.nats.io/reference/reference-protocols/nats_api_reference
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from events import jetstream
from events.connection import Connection
from events.replies import Message
from events.wire import Refused, Unknown

CHUNK_BYTES: Final = 128 * 1024
CHUNK_S_MAX: Final = 30.0
"""Between two chunks; a server that says nothing for longer is taken for gone."""


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """What JetStream says about a stream at the moment it was copied; it wants it back with the bytes."""

    config: dict[str, Any]
    state: dict[str, Any]

    @property
    def last_sequence(self) -> int:
        return int(self.state["last_seq"])


async def save(connection: Connection, stream: str, write: Callable[[bytes], object]) -> Copied:
    """A stream as it is now, to `write`, chunk by chunk. Raises Refused, Unknown."""
    arrived: asyncio.Queue[Message] = asyncio.Queue()
    inbox = connection.inbox()
    subscription = await connection.subscribe(inbox, arrived.put_nowait)
    try:
        request = {"deliver_subject": inbox, "no_consumers": True, "chunk_size": CHUNK_BYTES}
        answer = await jetstream.api(connection, f"STREAM.SNAPSHOT.{stream}", request)
        while True:
            async with asyncio.timeout(CHUNK_S_MAX):
                message = await arrived.get()
            if not message.data:
                break
            write(message.data)
            if message.reply:  # the next ones come when these are taken
                await connection.publish(message.reply, b"")
    except TimeoutError:
        raise Unknown(f"the copy of {stream} stopped half-way") from None
    finally:
        await subscription.close()
    status = str(message.headers.get("Status", "204")) if message.headers else "204"
    if status not in ("204", "200"):
        raise Refused(int(status), f"{stream} could not be copied: {message.headers.get('Description', '')}")
    return Copied(config=answer["config"], state=answer["state"])


async def restore(connection: Connection, stream: str, copied: Copied, chunks: Iterable[bytes]) -> None:
    """Make a stream from its bytes. Raises Refused if there is one of that name, Unknown."""
    request = {"config": copied.config, "state": copied.state}
    target = (await jetstream.api(connection, f"STREAM.RESTORE.{stream}", request))["deliver_subject"]
    for chunk in chunks:
        await connection.request(target, chunk, timeout_s=CHUNK_S_MAX)
    done = msgspec.json.decode((await connection.request(target, b"", timeout_s=CHUNK_S_MAX)).data)
    if "error" in done:
        raise Refused(int(done["error"].get("err_code", 500)), f"{stream}: {done['error'].get('description', '')}")


async def remove(connection: Connection, stream: str) -> None:
    """Delete a stream with all that it holds; again is nothing. Raises Refused, Unknown."""
    try:
        await jetstream.api(connection, f"STREAM.DELETE.{stream}")
    except Refused as error:
        if error.code != jetstream.NO_STREAM:
            raise
