"""A range that cannot be used is refused where the settings are read, with the file, the field and the fix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.settings import SettingsError, load


def test_a_range_that_is_none_names_file_field_and_fix(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"node": "n", "folder": "f", "nats_url": "u", "blobs_url": "b", "attempt_uids": "7"}))
    with pytest.raises(SettingsError) as refused:
        load(file)
    assert str(refused.value).startswith(f"{file}: attempt_uids: '7' is not a range of user ids, such as 200000-265535")
