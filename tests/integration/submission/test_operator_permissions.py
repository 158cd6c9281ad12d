"""Who is an operator on NATS: the permissions in docs/operating.md, in force on a real server."""

from __future__ import annotations

import re
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from controlplane.submission.service import serve
from events import messages as m
from events import subjects
from events.bus import Bus, BusError, Outgoing
from events.ledger import Ledger
from tests.support.nats import NatsServer
from tests.support.serving import serving
from tests.support.submitting import CONFIG
from tests.support.terminal import REPOSITORY

PASSWORDS = {"ada": "ada-secret", "ops": "ops-secret"}
SET = b'{"type": "set_queue", "weight": 2}'
WRITTEN = re.compile(r"^authorization \{.*^\}$", re.MULTILINE | re.DOTALL)


class Guarded(NatsServer):
    """A server with the users of the documentation beside the one of the services."""

    def configuration(self) -> str:
        page = textwrap.dedent((REPOSITORY / "docs" / "operating.md").read_text().replace("\n    ", "\n"))
        found = WRITTEN.search(page)
        assert found is not None, "docs/operating.md shows no permissions"
        shown = found[0]
        for name, password in PASSWORDS.items():
            assert f"${name.upper()}" in shown
            shown = shown.replace(f"${name.upper()}", f'"{password}"')
        services = f'users = [ {{ user: {self.user}, password: "{self.password}" }}'
        shown = shown.replace("users = [", services, 1)
        return WRITTEN.sub("", super().configuration()) + shown + "\n"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = Guarded(tmp_path / "guarded")
    server.start()
    async with serving(serve, server, CONFIG, blobs=tmp_path / "blobs"):
        yield server
    server.stop()


async def connected(server: NatsServer, user: str) -> Bus:
    return await Bus.connect(server.url, user=user, password=PASSWORDS[user], name=user)


async def weight(server: NatsServer) -> float:
    bus = await Bus.connect(server.url, user=server.user, password=server.password, name="look")
    entry = await Ledger(bus, source="look").last(subjects.queue("vision", "night"))
    await bus.drain()
    assert entry is not None
    assert isinstance(entry.fact, m.QueueSet)
    return entry.fact.weight


async def test_an_operator_may_change_queues_and_a_user_may_submit(server: NatsServer) -> None:
    ops, ada = await connected(server, "ops"), await connected(server, "ada")
    asked = subjects.ask("submission", "configure", "ops", "queue", "vision", "night")
    assert msgspec.json.decode(await ops.ask(asked, SET), type=m.Answer).verdict == "applied"
    assert await weight(server) == 2.0
    submit = await ada.ask(subjects.ask("submission", "submit", "vision", "ada"), b'{"entrypoint": ["true"]}')
    assert msgspec.json.decode(submit, type=m.Answer).verdict == "accepted"
    await ada.publish(Outgoing(subjects.submit("vision", "ada"), b'{"entrypoint": ["true"]}', {}))
    await ops.publish(Outgoing(subjects.configure_team("ops", "vision"), b'{"type": "set_team", "weight": 3}', {}))
    await ops.drain()
    await ada.drain()


@pytest.mark.parametrize("name", ["ada", "ops"])
async def test_a_user_changes_no_queue_under_whatever_name(server: NatsServer, name: str) -> None:
    ada = await connected(server, "ada")
    asked = subjects.ask("submission", "configure", name, "queue", "vision", "night")
    with pytest.raises(BusError):
        await ada.ask(asked, SET, timeout_s=1.0)
    with pytest.raises(BusError):
        await ada.publish(Outgoing(subjects.configure_queue(name, "vision", "night"), SET, {}))
    with pytest.raises(BusError):
        await ada.ask(subjects.ask("submission", "submit", "speech", "bob"), b'{"entrypoint": ["true"]}', timeout_s=1.0)
    assert await weight(server) == 1.0
    await ada.drain()
