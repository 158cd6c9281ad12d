"""What lies on a disk or in a stream may be damaged: text that is not UTF-8, for which msgspec has no error of its own,
is unreadable as anything else is."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from controlplane.gateway import archive
from events import messages as m
from runtime.attempt import LAUNCH, Attempt
from runtime.settings import SettingsError, load
from tests.support.archiving import a_specification

DAMAGED = [b'{"node": "\xff", "user": "\xff"}', b'{"node": ', b'{"x": ' + b"[" * 100_000]
IDS = ["no UTF-8", "cut off", "too deep"]


@pytest.mark.parametrize("content", DAMAGED, ids=IDS)
def test_damaged_settings_of_a_runner_are_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_bytes(content)
    with pytest.raises(SettingsError, match=r"settings\.json"):
        load(tmp_path / "settings.json")


@pytest.mark.parametrize("content", DAMAGED, ids=IDS)
def test_a_damaged_launch_was_never_launched(content: bytes, tmp_path: Path) -> None:
    (tmp_path / LAUNCH).write_bytes(content)
    assert Attempt.found(tmp_path, tools=None) is None  # type: ignore[arg-type]


def test_a_damaged_fact_in_the_archive_hides_no_other() -> None:
    accepted = msgspec.json.encode(m.Accepted(specification=a_specification(1)))
    facts = [m.ArchivedFact(sequence=1, at=1.0, fact=msgspec.Raw(accepted))]
    facts += [m.ArchivedFact(sequence=2, at=2.0, fact=msgspec.Raw(b'{"type": "held", "by": "\xff"}'))]
    record = archive.record(m.ArchivedJob(team="vision", job="j-abcdefghij23", facts=tuple(facts)))
    assert record is not None
    assert record.life.state.value == "queued"
