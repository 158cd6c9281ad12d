"""Laying out on a node, with a real blob store on disk, the real uv, and the packages six and click."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import uv

from events.blobs import Blobs
from events.identity import digest
from runtime.materialise import EnvironmentFailed, Materialiser, SourceFailed
from runtime.materialise.sources import TREES_MAX

MISSING = digest(b"nobody has this")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


class Node:
    """A node's folder, and what a laptop would have put in the blob store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "node"
        self.blobs = Blobs.at(f"file://{folder / 'blobs'}")
        self.materialiser = Materialiser(self.folder, self.blobs)
        self.attempts = folder / "attempts"
        self.attempts.mkdir()

    async def manifest(self, *files: dict[str, Any], links: dict[str, str] | None = None) -> str:
        described = {
            "version": 1,
            "commit": "",
            "files": files,
            "links": [{"path": path, "target": target} for path, target in (links or {}).items()],
        }
        return await self.blobs.put(json.dumps(described).encode())

    async def file(self, path: str, content: bytes, *, mode: int = 0o644, cut: int = 1 << 20) -> dict[str, Any]:
        parts = []
        for at in range(0, len(content), cut):
            piece = content[at : at + cut]
            parts.append([await self.blobs.put(piece), 0, len(piece)])
        return {"path": path, "mode": mode, "size": len(content), "digest": digest(content), "parts": parts}

    async def lock(self, *requirements: str, python: str = PYTHON) -> str:
        text = await asyncio.to_thread(hashed, requirements) if requirements else ""
        return await self.raw_lock(text, python)

    async def raw_lock(self, requirements: str, python: str = PYTHON) -> str:
        lock = {"version": 1, "python": python, "platform": "", "requirements": requirements}
        return await self.blobs.put(json.dumps(lock).encode())


def hashed(requirements: tuple[str, ...]) -> str:
    """Requirements with hashes, as the environments service solves them."""
    return subprocess.run(
        [uv.find_uv_bin(), "pip", "compile", "--generate-hashes", "--no-header", "--no-annotate", "-q", "-"],
        env={"UV_SYSTEM_CERTS": "1", **os.environ},
        input="\n".join(requirements),
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def said(root: Path, code: str) -> str:
    """What a program says in an environment."""
    ran = subprocess.run([root / "bin" / "python", "-c", code], capture_output=True, text=True, check=True)
    return ran.stdout.strip()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def everything_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# -- sources -----------------------------------------------------------------------------------------------------------


async def test_a_source_is_laid_out_as_it_was_captured(node: Node) -> None:
    pack = await node.blobs.put(b"print(1)\nprint(2)\n")
    source = await node.manifest(
        {"path": "a.py", "mode": 0o644, "size": 9, "digest": "", "parts": [[pack, 0, 9]]},
        {"path": "pkg/run.sh", "mode": 0o755, "size": 9, "digest": "", "parts": [[pack, 9, 9]]},
        await node.file("data/large.bin", bytes(range(256)) * 40, cut=1000),
        await node.file("empty", b""),
        links={"pkg/a": "../a.py", "data/latest": "large.bin"},
    )
    into = node.attempts / "1"
    await node.materialiser.source(source, into)
    assert (into / "a.py").read_bytes() == b"print(1)\n"
    assert (into / "pkg/run.sh").read_bytes() == b"print(2)\n"
    assert os.access(into / "pkg/run.sh", os.X_OK)
    assert not os.access(into / "a.py", os.X_OK)
    assert (into / "data/large.bin").read_bytes() == bytes(range(256)) * 40
    assert (into / "empty").read_bytes() == b""
    assert os.readlink(into / "pkg/a") == "../a.py"
    assert (into / "data/latest").read_bytes() == bytes(range(256)) * 40


async def test_each_attempt_has_a_source_of_its_own(node: Node) -> None:
    source = await node.manifest(await node.file("a.py", b"1"))
    await node.materialiser.source(source, node.attempts / "1")
    (node.attempts / "1" / "a.py").write_bytes(b"changed by the job")
    await node.materialiser.source(source, node.attempts / "2")
    assert (node.attempts / "2" / "a.py").read_bytes() == b"1"


async def test_what_was_laid_out_before_a_restart_is_left_alone(node: Node) -> None:
    source = await node.manifest(await node.file("a.py", b"1"))
    await node.materialiser.source(source, node.attempts / "1")
    (node.attempts / "1" / "a.py").write_bytes(b"changed by the job")
    await Materialiser(node.folder, node.blobs).source(source, node.attempts / "1")
    assert (node.attempts / "1" / "a.py").read_bytes() == b"changed by the job"
    assert everything_below(node.attempts) == {"1", "1/a.py"}


@pytest.mark.parametrize("path", ["../evil", "/evil", "a/../../evil", "a//b", "./a", "", "a/", "a\0b", "x" * 300])
async def test_a_path_that_leaves_the_source_is_refused(node: Node, path: str) -> None:
    source = await node.manifest(await node.file(path, b"x"))
    with pytest.raises(SourceFailed, match="not allowed"):
        await node.materialiser.source(source, node.attempts / "1")
    assert everything_below(node.attempts) == set()


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "sub/../../outside", "round/../../outside", "here/.."])
async def test_a_link_that_leads_out_of_the_source_is_refused(node: Node, target: str) -> None:
    source = await node.manifest(
        await node.file("sub/a.py", b"x"), links={"evil": target, "here": ".", "sub/round": ".."}
    )
    with pytest.raises(SourceFailed, match="'evil' leads out of the source"):
        await node.materialiser.source(source, node.attempts / "1")
    assert everything_below(node.attempts) == set()


async def test_nothing_is_written_through_a_link(node: Node, tmp_path: Path) -> None:
    source = await node.manifest(await node.file("here/evil", b"x"), links={"here": "elsewhere"})
    with pytest.raises(SourceFailed, match="as a folder and as a file or link"):
        await node.materialiser.source(source, node.attempts / "1")


async def test_a_part_that_is_missing_is_named(node: Node) -> None:
    source = await node.manifest({"path": "a", "mode": 0o644, "size": 1, "digest": "", "parts": [[MISSING, 0, 1]]})
    with pytest.raises(SourceFailed, match=f"not in the blob store: {MISSING}"):
        await node.materialiser.source(source, node.attempts / "1")
    with pytest.raises(SourceFailed, match="not in the blob store"):
        await node.materialiser.source(MISSING, node.attempts / "1")
    assert everything_below(node.folder / "sources") == set()


async def test_a_part_outside_of_its_chunk_is_refused(node: Node) -> None:
    chunk = await node.blobs.put(b"four")
    source = await node.manifest({"path": "a", "mode": 0o644, "size": 9, "digest": "", "parts": [[chunk, 0, 9]]})
    with pytest.raises(SourceFailed, match="wants more of"):
        await node.materialiser.source(source, node.attempts / "1")


async def test_sources_that_were_long_not_used_are_removed(node: Node) -> None:
    for number in range(TREES_MAX + 3):
        source = await node.manifest(await node.file("a.py", str(number).encode()))
        await node.materialiser.source(source, node.attempts / str(number))
    assert len(list((node.folder / "sources").iterdir())) == TREES_MAX
    assert (node.attempts / "0" / "a.py").read_bytes() == b"0"


# -- environments ------------------------------------------------------------------------------------------------------


async def test_an_environment_has_its_packages_compiled(node: Node) -> None:
    root = await node.materialiser.environment(await node.lock("six==1.17.0", "click"))
    version, cached = said(root, "import click, six; print(six.__version__, six.__cached__)").split()
    assert version == "1.17.0"
    assert cached.removeprefix(f"{root}/") in everything_below(root)


async def test_a_package_is_compiled_once_for_all_environments(node: Node) -> None:
    one = await node.materialiser.environment(await node.lock("click"))
    two = await node.materialiser.environment(await node.lock("click", "six"))
    compiled = [path for path in everything_below(one) if "/click/" in path and path.endswith(".pyc")]
    modules = [path for path in everything_below(one) if "/click/" in path and path.endswith(".py")]
    assert len(compiled) == len(modules) > 10
    assert all((one / path).samefile(two / path) for path in compiled)


async def test_an_environment_is_found_again_in_a_moment(node: Node) -> None:
    lock = await node.lock("six")
    root = await node.materialiser.environment(lock)
    again = Materialiser(node.folder, node.blobs)
    begun = time.perf_counter()
    assert await again.environment(lock) == root
    assert time.perf_counter() - begun < 0.005


async def test_of_many_who_want_an_environment_at_once_one_builds_it(node: Node) -> None:
    lock = await node.lock("six")
    others = [node.materialiser, node.materialiser, Materialiser(node.folder, node.blobs)]  # as in another process
    roots = await asyncio.gather(*(each.environment(lock) for each in others))
    assert len(set(roots)) == 1
    assert [path.name for path in (node.folder / "environments").iterdir()] == [roots[0].name]
    assert said(roots[0], "import six; print('there')") == "there"


async def test_an_environment_without_packages_is_an_interpreter(node: Node) -> None:
    root = await node.materialiser.environment(await node.lock())
    assert said(root, "import sys; print(sys.prefix)") == str(root)


async def test_a_package_with_another_hash_is_not_installed(node: Node) -> None:
    lock = await node.raw_lock(f"six==1.17.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(EnvironmentFailed, match=r"(?si)could not install.*hash"):
        await node.materialiser.environment(lock)
    assert list((node.folder / "environments").iterdir()) == []


async def test_a_python_that_the_node_lacks_is_named_with_those_it_has(node: Node) -> None:
    lock = await node.lock(python="3.2")
    with pytest.raises(EnvironmentFailed, match=rf"no Python 3\.2 \(it has: .*{PYTHON}\."):
        await node.materialiser.environment(lock)


async def test_a_lock_can_name_packages_and_nothing_else(node: Node) -> None:
    lock = await node.raw_lock("--find-links /somewhere\nsix==1.17.0\n")
    with pytest.raises(EnvironmentFailed, match="may not have"):
        await node.materialiser.environment(lock)


async def test_a_build_that_is_given_up_leaves_nothing(node: Node) -> None:
    lock = await node.lock("click")
    task = asyncio.create_task(node.materialiser.environment(lock))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list((node.folder / "environments").iterdir()) == []


async def test_an_interpreter_is_a_program_and_no_shim(node: Node) -> None:
    found = await node.materialiser.interpreter(PYTHON)
    assert found is not None
    assert found.read_bytes()[:4] == b"\x7fELF"
    assert await node.materialiser.interpreter("3.2") is None
    assert await node.materialiser.interpreter("; rm -rf /") is None
