"""Where control groups are looked for, from what /proc says."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime import cgroups

V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw\n"
    "35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "40 31 0:37 {root} /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids\n"
)
V2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"


def candidates(proc: Path, mountinfo: str, groups: str) -> list[tuple[str, ...]]:
    (proc / "mountinfo").write_text(mountinfo)
    (proc / "cgroup").write_text(groups)
    found = cgroups.candidates("/n", str(proc))
    return [(place.kind, *(folder.rpartition("/")[0] for folder in place.folders)) for place in found]


@pytest.mark.parametrize(
    ("mountinfo", "groups", "found"),
    [
        (V2, "0::/app.slice/a.scope\n", [("cgroup2", "/sys/fs/cgroup/app.slice/a.scope")]),
        (V2, "0::/\n", [("cgroup2", "/sys/fs/cgroup")]),
        (
            V1.format(root="/"),
            "5:memory:/x/y\n4:pids:/\n0::/\n",
            [("cgroup1", "/sys/fs/cgroup/memory/x/y", "/sys/fs/cgroup/pids")],
        ),
        (
            V1.format(root="/docker/1a"),  # a container that sees its own part only
            "5:memory:/docker/1a\n4:pids:/docker/1a\n",
            [("cgroup1", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids")],
        ),
        (V1.format(root="/"), "5:memory:/\n", []),  # not without pids
        ("", "", []),
    ],
)
def test_groups_are_looked_for_below_our_own(
    tmp_path: Path, mountinfo: str, groups: str, found: list[tuple[str, ...]]
) -> None:
    assert candidates(tmp_path, mountinfo, groups) == found


def test_two_nodes_of_a_machine_have_folders_of_their_own() -> None:
    first, second = (cgroups.candidates(folder) for folder in ("/n/1", "/n/2"))
    assert not set(first) & set(second)


@pytest.mark.parametrize("content", ["", "null", "[]", '{"kind": "cgroup1"}', '{"kind": 1, "folders": 2}', "\x00"])
def test_a_note_that_cannot_be_read_means_no_groups(tmp_path: Path, content: str) -> None:
    (tmp_path / cgroups.CHOSEN).write_text(content)
    assert cgroups.read_chosen(str(tmp_path)) is None
