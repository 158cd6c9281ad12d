"""The file of hosts: what it says, and mistakes that name the field."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.hosts import Host, HostsError, parse, read


def test_every_host_is_found_by_its_name() -> None:
    text = '[[hosts]]\nname = "a"\n[[hosts]]\nname = "b.example"\ncordon = "new disks"\n'
    assert parse(text) == {"a": Host(name="a"), "b.example": Host(name="b.example", cordon="new disks")}


def test_a_file_that_is_being_written_is_no_pool_without_machines() -> None:
    with pytest.raises(HostsError, match="names no host"):
        parse("")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[[hosts]\nname = 1", ["line 1"]),
        ("[[hosts]]\nnmae = 'a'", ["nmae", "hosts[0]", "cordon"]),
        ("[[hosts]]\nname = 'a'\ncordon = true", ["hosts[0].cordon", "str"]),
        ("[[hosts]]\nname = ' '", ["hosts[0].name", "hr.node"]),
        ("[[hosts]]\nname = 'a'\n[[hosts]]\nname = 'a'", ["hosts[1].name", "a is there twice"]),
        ("[[hosts]]\nname = 'a'\ncordon = 'x'\ndrain = 'y'", ["hosts[0]", "either"]),
        ("host = []", ["host", "[[hosts]]"]),
    ],
)
def test_a_mistake_names_the_field_and_what_is_right(text: str, names: list[str]) -> None:
    with pytest.raises(HostsError) as caught:
        parse(text)
    assert [name for name in names if name not in str(caught.value)] == []


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostsError, match=r"hosts\.toml: No such file"):
        read(tmp_path / "hosts.toml")
    (tmp_path / "hosts.toml").write_bytes(b"\xff")
    with pytest.raises(HostsError, match=r"hosts\.toml: is not UTF-8"):
        read(tmp_path / "hosts.toml")
