"""What a laptop captures is what a node lays out: the two sides of the manifest, which share no code."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from events.blobs import Blobs
from headrace.capture import Source, source
from runtime.materialise.sources import Sources


async def keep(captured: Source, blobs: Blobs) -> None:
    for chunk in captured.chunks:
        assert await blobs.put(captured.read(chunk)) == chunk
    assert await blobs.put(captured.manifest) == captured.digest


def contents(root: Path) -> dict[str, tuple[str, bytes | str, bool]]:
    found: dict[str, tuple[str, bytes | str, bool]] = {}
    for here, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != ".git"]
        for name in (*names, *folders):
            place = Path(here, name)
            path = place.relative_to(root).as_posix()
            if place.is_symlink():
                found[path] = ("link", os.readlink(place), False)
            elif place.is_file():
                found[path] = ("file", place.read_bytes(), os.access(place, os.X_OK))
    return found


def a_repository(root: Path) -> Path:
    files = {
        "train.py": b"print(1)\n",
        "conf/ünïcode name.yaml": b"a: 1\n",
        "data/big.bin": os.urandom(9 * 1024 * 1024),
        "data/empty": b"",
        "run.sh": b"#!/bin/sh\n",
        **{f"many/m{number}.py": b"x = %d\n" % number for number in range(200)},
    }
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    (root / "run.sh").chmod(0o755)
    (root / "latest").symlink_to("data/big.bin")
    (root / "folder").symlink_to("many")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root


async def test_a_repository_on_the_laptop_is_the_same_tree_on_the_node(tmp_path: Path) -> None:
    root = a_repository(tmp_path / "project")
    captured = source(root, cache=tmp_path / "cache", bytes_max=10**9)
    blobs = Blobs.at(f"file://{tmp_path}/blobs")
    await keep(captured, blobs)
    await Sources(tmp_path / "sources", blobs).lay_out(captured.digest, tmp_path / "attempt")
    assert contents(tmp_path / "attempt") == contents(root)
