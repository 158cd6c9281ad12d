"""Blobs are named by their content; nothing that is not a digest becomes part of a path."""

from __future__ import annotations

from pathlib import Path

import pytest

from events.blobs import BlobDamaged, BlobMissing, Blobs, is_digest
from events.identity import digest


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs.at(f"file://{tmp_path}/blobs")


async def test_a_blob_comes_back_by_its_digest(blobs: Blobs) -> None:
    name = await blobs.put(b"content")
    assert name == digest(b"content")
    assert await blobs.get(name) == b"content"
    assert await blobs.has(name)
    assert await blobs.put(b"content") == name


async def test_a_blob_that_is_not_there_is_missing(blobs: Blobs) -> None:
    name = digest(b"never kept")
    assert not await blobs.has(name)
    with pytest.raises(BlobMissing):
        await blobs.get(name)


async def test_a_blob_that_was_changed_on_disk_is_damaged(blobs: Blobs, tmp_path: Path) -> None:
    name = await blobs.put(b"content")
    file = next(path for path in (tmp_path / "blobs").rglob("*") if path.is_file())
    file.write_bytes(b"c0ntent")
    with pytest.raises(BlobDamaged):
        await blobs.get(name)


@pytest.mark.parametrize(
    "name", ["", "sha256:", "sha256:" + "G" * 64, "sha256:" + "a" * 63, "../../etc/passwd", "sha256:" + "a" * 64 + "\n"]
)
async def test_a_name_that_is_no_digest_is_missing_and_touches_no_path(blobs: Blobs, name: str) -> None:
    assert not is_digest(name)
    with pytest.raises(BlobMissing):
        await blobs.get(name)


async def test_a_named_blob_is_replaced_listed_in_order_and_deleted(blobs: Blobs) -> None:
    for sequence in (20, 10, 30):
        await blobs.write(f"snapshots/s/{sequence}", str(sequence).encode())
    await blobs.write("snapshots/s/10", b"again")
    assert await blobs.names("snapshots/s") == ["snapshots/s/10", "snapshots/s/20", "snapshots/s/30"]
    assert await blobs.read("snapshots/s/10") == b"again"
    await blobs.delete("snapshots/s/10")
    await blobs.delete("snapshots/s/10")
    with pytest.raises(BlobMissing):
        await blobs.read("snapshots/s/10")


async def test_there_are_no_names_where_nothing_was_written(blobs: Blobs) -> None:
    assert await blobs.names("snapshots/nobody") == []
