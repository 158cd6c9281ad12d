"""What the pool's tests have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.apiserver import ApiServer


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    server = ApiServer()
    await server.start()
    yield server
    await server.stop()
