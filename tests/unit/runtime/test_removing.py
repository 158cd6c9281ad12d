"""Whatever a job has made can be removed."""

from __future__ import annotations

import os
from pathlib import Path

from runtime.removing import LIFTED, remove


def test_folders_in_folders_ten_thousand_deep_are_removed(tmp_path: Path) -> None:
    """Deeper than Python calls itself, and than a path may be long."""
    top = tmp_path / "top"
    top.mkdir()
    here = os.open(top, os.O_DIRECTORY)
    for _ in range(10_000):
        os.mkdir("a", dir_fd=here)
        below = os.open("a", os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
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
