"""The docs are true: what is generated is current, and every setting is mentioned."""

from __future__ import annotations

import runpy
from pathlib import Path

import msgspec

from controlplane.config import Configuration

ROOT = Path(__file__).resolve().parents[2]


def test_diagram_of_states_is_current() -> None:
    page = ROOT / "docs" / "concepts" / "road.md"
    generate = runpy.run_path(str(ROOT / "scripts" / "diagram.py"))["page"]
    assert page.read_text() == generate(page.read_text()), "run python scripts/diagram.py"


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs" / "operating.md").read_text()
    missing = [field.name for field in msgspec.structs.fields(Configuration) if f"`{field.name}`" not in page]
    assert missing == []
