"""Whatever a job has made can be removed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime import removing
from runtime.removing import LIFTED, remove
from tests.support.folders import deep


def test_folders_in_folders_ten_thousand_deep_are_removed(tmp_path: Path) -> None:
    """Deeper than Python calls itself, and than a path may be long."""
    os.close(deep(top := tmp_path / "top", 10_000))
    assert remove(top)
    assert list(tmp_path.iterdir()) == []


def test_odd_modes_links_and_names_are_removed_and_no_link_is_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    (kept / "within").mkdir(parents=True)
    top = tmp_path / "top"
    (top / "a" / "b").mkdir(parents=True)
    (top / f"{LIFTED}0").mkdir()
    (top / f"{LIFTED}0" / "x").write_text("a name that we use")
    (top / f"{LIFTED}1").write_text("another")
    (top / "link").symlink_to(kept)
    (top / "a" / "link").symlink_to(kept)
    os.mkfifo(top / "pipe")
    (top / "a" / "b" / "c").write_text("c")
    (top / "a" / "b").chmod(0)
    (top / "a").chmod(0)
    assert remove(top)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
    assert (kept / "within").is_dir()


def test_a_file_and_what_is_not_there_are_removed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert remove(tmp_path / "file")
    assert remove(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_exchanged_for_a_link_opens_nothing_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else, who may write where a dead user let all in, does it the moment after we have looked."""
    elsewhere, place = tmp_path / "elsewhere", tmp_path / "place"
    for folder in (elsewhere, place / "left"):
        folder.mkdir(parents=True)
        folder.chmod(0o500)
    parent = os.open(place, os.O_DIRECTORY)

    def then_exchanged(look: Callable[..., Any]) -> Callable[..., Any]:
        def looked(name: Any, *arguments: Any, **named: Any) -> Any:
            found = look(name, *arguments, **named)
            if name == "left":
                (place / "left").rename(place / "moved")
                (place / "left").symlink_to(elsewhere)
            return found

        return looked

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", then_exchanged(os.stat))
        patched.setattr(os, "open", then_exchanged(os.open))
        removing._open_up("left", parent)
    os.close(parent)
    assert (place / "left").is_symlink()
    assert elsewhere.stat().st_mode & 0o777 == 0o500
    assert (place / "moved").stat().st_mode & 0o777 == 0o700


def test_there_is_an_end_to_what_is_refilled_and_a_later_removal_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removing, "ROUNDS_MAX", 10)
    top = tmp_path / "top"
    (top / "/".join("a" * 15)).mkdir(parents=True)
    assert not remove(top)
    assert remove(top)
