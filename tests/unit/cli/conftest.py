"""A fake gateway with one job, and a terminal that is pointed at it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_gateway import FakeGateway
from tests.support.terminal import Terminal


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    fake = FakeGateway().start()
    yield fake
    fake.stop()


@pytest.fixture
def terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, gateway: FakeGateway
) -> Terminal:
    place = Terminal(monkeypatch, capfd, tmp_path)
    place.use(gateway.url)
    return place
