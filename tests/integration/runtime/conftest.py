"""A node folder with a launcher of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.end_all import end_all
from tests.support.attempts import Node


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path / "node")
    await node.launcher.ensure()
    yield node
    await end_all(node.folder)  # what a test that fails leaves would be in the way of the next one
