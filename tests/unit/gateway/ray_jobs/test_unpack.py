"""A package of Ray's client as a source: what comes out of a good one, and that no bad one comes through."""

from __future__ import annotations

import contextlib
import io
import json
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray._private.runtime_env.packaging import create_package

from controlplane.gateway.ray_jobs import unpack
from controlplane.gateway.ray_jobs.unpack import BadPackage, Unpacking
from events.identity import digest
from headrace.capture import snapshot
from runtime.materialise import manifest

LIMIT = 64 * 1024**2


def package(*entries: tuple[str | zipfile.ZipInfo, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return file.getvalue()


def entry(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def unpacked(content: bytes, *, bytes_max: int = LIMIT) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest, and the chunks by their digests."""
    unpacking = Unpacking(io.BytesIO(content), bytes_max=bytes_max)
    chunks = {digest(chunk): chunk for chunk in unpacking.chunks()}
    manifest.read(unpacking.manifest)  # as a node does
    return json.loads(unpacking.manifest), chunks


def files(content: bytes) -> dict[str, bytes]:
    """What a node would lay out."""
    described, chunks = unpacked(content)
    return {
        file["path"]: b"".join(chunks[chunk][at : at + length] for chunk, at, length in file["parts"])
        for file in described["files"]
    }


def test_a_package_as_rays_client_makes_it_comes_out_as_it_went_in(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    (folder / "inner" / "empty").mkdir(parents=True)
    sent = {"train.py": b"print(1)\n", "inner/ä b.txt": b"x" * 1000, "none": b"", "large": bytes(range(256)) * 70_000}
    for name, content in sent.items():
        (folder / name).write_bytes(content)
    (folder / "train.py").chmod(0o755)
    create_package(str(folder), tmp_path / "x.zip", include_gitignore=True)
    content = (tmp_path / "x.zip").read_bytes()
    assert files(content) == sent
    modes = {file["path"]: file["mode"] for file in unpacked(content)[0]["files"]}
    assert (modes["train.py"], modes["none"]) == (0o755, 0o644)


def test_a_package_has_the_chunks_and_the_digest_that_a_laptop_would_send(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    for number in range(60):
        place = folder / f"p{number % 7}" / f"m{number}.py"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(f"{number}\n".encode() * number * 997)
    (folder / "large.bin").write_bytes(b"ab" * 9_000_000)
    captured = snapshot.source(folder, cache=tmp_path / "cache", bytes_max=LIMIT)
    create_package(str(folder), tmp_path / "x.zip", include_gitignore=True)
    unpacking = Unpacking(io.BytesIO((tmp_path / "x.zip").read_bytes()), bytes_max=LIMIT)
    assert {digest(chunk) for chunk in unpacking.chunks()} == set(captured.chunks)
    assert digest(unpacking.manifest) == captured.digest


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "too short"),
        (b"x" * 1000, "does not end as one"),
        (package(("a", b"1"))[:-1], "does not end as one"),
        (package(("a", b"1")) + b"more", "does not end as one"),
        (b"#!/bin/sh\n" + package(("a", b"1")), "not where it should be"),
        (package(("../a", b"1")), "not allowed"),
        (package(("a/../../b", b"1")), "not allowed"),
        (package(("/etc/passwd", b"1")), "not allowed"),
        (package(("a\\b", b"1")), "not allowed"),
        (package(("./a", b"1")), "not allowed"),
        (package(("a//b", b"1")), "not allowed"),
        (package(("..", b"1")), "not allowed"),
        (package(("../x/", b"")), "not allowed"),
        (package(("/", b"")), "not allowed"),
        (package(("n" * 300, b"1")), "not allowed"),
        (package(("/".join(["n" * 200] * 12), b"1")), "not allowed"),
        (package((entry("link", stat.S_IFLNK | 0o777), b"/etc/passwd")), "no regular file"),
        (package((entry("pipe", stat.S_IFIFO | 0o644), b"")), "no regular file"),
        (package((entry("disk", stat.S_IFBLK | 0o644), b"")), "no regular file"),
        (package(("a", b"1"), ("a/b", b"2")), "as a folder and as a file"),
        (package(("a", b"1" * 100), how=zipfile.ZIP_BZIP2), "packed in a way"),
        (package(("a", b"1" * 100), how=zipfile.ZIP_LZMA), "packed in a way"),
    ],
)
def test_a_hostile_package_is_refused_with_a_reason(content: bytes, word: str) -> None:
    with pytest.raises(BadPackage) as refused:
        unpacked(content)
    assert word in refused.value.message


def test_a_path_that_comes_twice_is_refused() -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = package(("a", b"1"), ("a", b"2"))
    with pytest.raises(BadPackage, match="twice"):
        unpacked(twice)


def test_a_name_with_a_zero_byte_is_refused() -> None:
    with pytest.raises(BadPackage, match="not allowed"):
        unpacked(package(("train.pyXsh", b"1")).replace(b"train.pyXsh", b"train.py\0sh"))


def test_an_encrypted_file_is_refused() -> None:
    content = bytearray(package(("a", b"1")))
    content[content.index(b"PK\1\2") + 8] |= 1
    with pytest.raises(BadPackage, match="encrypted"):
        unpacked(bytes(content))


def test_a_bomb_is_refused_before_a_byte_of_it_is_inflated() -> None:
    bomb = package(*((f"f{number}", bytes(1024**2)) for number in range(100)))
    assert len(bomb) < 200_000
    with pytest.raises(BadPackage, match="100 MiB unpacked"):
        Unpacking(io.BytesIO(bomb), bytes_max=LIMIT)


def _with_size(content: bytes, size: int) -> bytes:
    """A package whose list of files gives its one file this size."""
    at = content.index(b"PK\1\2") + 24
    return content[:at] + struct.pack("<L", size) + content[at + 4 :]


@pytest.mark.parametrize("size", [10, 5000, 2**31])
def test_a_file_that_is_not_as_large_as_it_says_is_refused(size: int) -> None:
    lying = _with_size(package(("a", bytes(3000))), size)
    with pytest.raises(BadPackage):
        unpacked(lying, bytes_max=2**32)


def test_a_file_gives_no_more_than_its_list_says() -> None:
    lying = _with_size(package(("a", bytes(50 * 1024**2))), 1000)
    seen: list[bytes] = []
    with pytest.raises(BadPackage):
        seen.extend(Unpacking(io.BytesIO(lying), bytes_max=LIMIT).chunks())
    assert sum(map(len, seen)) <= 1000


@pytest.mark.parametrize("at", [31, 40])  # how its content is packed, and its content
def test_damaged_content_is_refused(at: int) -> None:
    content = bytearray(package(("a", b"some text that is long enough" * 40)))
    content[at] |= 0xFE
    with pytest.raises(BadPackage, match="damaged"):
        unpacked(bytes(content))


def test_a_list_of_files_that_is_too_long_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    content = package(*((f"f{number}", b"") for number in range(100)))
    monkeypatch.setattr(unpack, "DIRECTORY_BYTES_MAX", 4000)
    monkeypatch.setattr(unpack, "ZipFile", None)
    with pytest.raises(BadPackage, match="too many files"):
        Unpacking(io.BytesIO(content), bytes_max=LIMIT)


def test_a_package_of_the_64_bit_form_is_refused() -> None:
    content = package(("a", b"1"))
    locator = b"PK\6\7" + bytes(16)
    with pytest.raises(BadPackage, match="too many files"):
        unpacked(content[:-22] + locator + content[-22:])


def _flip(content: bytes, at: int, value: int) -> bytes:
    return content[: at % len(content)] + bytes([value]) + content[at % len(content) + 1 :]


_GOOD = package(("a.py", b"print(1)\n" * 30), ("b/c.txt", b"x" * 200), ("b/d", b""), (entry("e", 0o100755), b"#!"))
_CUT: Callable[[bytes, int], bytes] = lambda content, at: content[: at % len(content)] + content[-22:]  # noqa: E731


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
def test_a_damaged_package_is_a_source_that_a_node_takes_or_is_refused(
    flips: list[tuple[int, int]], is_cut: bool
) -> None:
    content = _GOOD
    for at, value in flips:
        content = _flip(content, at, value)
    if is_cut:
        content = _CUT(content, flips[0][0])
    with contextlib.suppress(BadPackage):
        unpacked(content)
