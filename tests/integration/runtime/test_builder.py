"""What a package runs while it is built: as a user of the range, who sees nothing of the node's."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from events.blobs import Blobs
from runtime.materialise import processes, strays
from runtime.users import end_all
from tests.support.attempts import gone, lives
from tests.support.strangers import UIDS, as_in_the_pod, needs_root, reachable_folder, reachable_python

pytestmark = needs_root

BACKEND = """
import json, os, subprocess, sys, zipfile

TAGS = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"

def build_wheel(folder, settings=None, metadata=None):
    found = {"uid": os.getuid(), "environ": sorted(os.environ), "read": []}
    for path in json.loads(SECRETS):
        try:
            found["read"].append(open(path).read())
        except OSError:
            pass
    waits = [sys.executable, "-c", "import time; time.sleep(600)"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    left = [subprocess.Popen(waits, start_new_session=True, stdin=subprocess.DEVNULL, **each) for each in ({}, quiet)]
    found["left"] = [process.pid for process in left]
    name = "stranger-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr("stranger.py", f"FOUND = {found!r}\\n")
        wheel.writestr("stranger-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: stranger\\nVersion: 1.0\\n")
        wheel.writestr("stranger-1.0.dist-info/WHEEL", TAGS)
        wheel.writestr("stranger-1.0.dist-info/RECORD", "")
    return name
"""
MAKE = """
import asyncio, os, sys
from pathlib import Path
from events.blobs import Blobs
from runtime.materialise import Materialiser
from runtime.node_folder import NodeFolder
from runtime.users import Users
folder, blobs, lock, uids = sys.argv[1:]
builder = Users(uids).builder
NodeFolder(Path(folder)).prepare(builder=builder)
made = Materialiser(Path(folder), Blobs.at(blobs), builder=builder)
print(asyncio.run(made.environment(lock)), flush=True)
os._exit(0)  # what is tested is done; threads of the blob store may still end
"""


def an_sdist(folder: Path, secrets: list[Path]) -> Path:
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "stranger"\nversion = "1.0"\n',
        "backend.py": f"SECRETS = {json.dumps(list(map(str, secrets)))!r}\n{BACKEND}",
        "PKG-INFO": "Metadata-Version: 2.2\nName: stranger\nVersion: 1.0\n",
    }
    place = folder / "stranger-1.0.tar.gz"
    with tarfile.open(place, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"stranger-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return place


def assert_not_for_jobs_to_write(root: Path, owners: set[int]) -> None:
    found = {entry: entry.lstat() for entry in root.rglob("*") if not entry.is_symlink()}
    assert {each.st_uid for each in found.values()} <= owners
    assert [str(path.relative_to(root)) for path, each in found.items() if each.st_mode & 0o022] == []


async def said(*command: str, env: dict[str, str] | None = None) -> str:
    """What a program prints."""
    ran = await asyncio.to_thread(subprocess.run, command, env=env, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return str(ran.stdout).strip()


async def test_the_code_of_a_package_reads_nothing_of_ours_and_what_it_leaves_running_is_ended() -> None:
    with reachable_folder() as folder:
        python, path = reachable_python(folder)
        secret = folder / "node" / "runner.lock"
        secret.parent.mkdir(mode=0o700)
        secret.write_text("ours")
        secret.chmod(0o600)
        sdist = an_sdist(folder, [secret])
        digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
        lock = json.dumps(
            {
                "version": 1,
                "python": ".".join(map(str, sys.version_info[:2])),
                "platform": "",
                "requirements": f"stranger @ {sdist.as_uri()} --hash=sha256:{digest}\n",
            }
        ).encode()
        name = hashlib.sha256(lock).hexdigest()
        blobs = folder / "blobs"
        environ = os.environ | {
            "PYTHONPATH": path,
            "RAY_AUTH_TOKEN": "t",
            "AWS_SECRET_ACCESS_KEY": "k",
            "UV_OFFLINE": "1",
        }
        await Blobs.at(blobs.as_uri()).put(lock)
        command = [*as_in_the_pod(), python, "-c", MAKE, str(secret.parent), blobs.as_uri(), f"sha256:{name}", UIDS]
        root = Path(await said(*command, env=environ))
        say = "import json, stranger; print(json.dumps(stranger.FOUND))"
        found = json.loads(await said(str(root / "bin" / "python"), "-c", say))
        assert found["uid"] == int(UIDS.partition("-")[0])
        assert found["read"] == []
        assert {"RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY"} & set(found["environ"]) == set()
        assert not any(map(lives, found["left"]))
        assert_not_for_jobs_to_write(root, {0, found["uid"]})


async def test_what_a_build_has_put_away_from_itself_is_a_stray_when_the_build_is_over() -> None:
    uid = 303_000
    code = "(sleep 600 & echo $!); sleep 600 & echo $!; wait; read line"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    program = subprocess.Popen(["sh", "-c", code], user=uid, group=uid, extra_groups=(), cwd="/", **pipes)  # noqa: ASYNC220
    try:
        helper, build = (int(program.stdout.readline()) for _ in range(2))
        assert strays.left(uid, program.pid) == []
        os.kill(build, signal.SIGKILL)
        await gone(build)
        assert strays.left(uid, program.pid) == [helper]
    finally:
        await end_all(uid)
        program.wait()


async def test_a_program_is_over_when_it_has_ended_though_others_hold_its_pipes() -> None:
    begun_at = time.monotonic()
    ran = await processes.run("sh", "-c", "sleep 600 & echo $!", time_s_max=120)
    left = int(ran.stdout)
    try:
        assert ran.status == 0
        assert lives(left)
        assert time.monotonic() - begun_at < 60
    finally:
        os.kill(left, signal.SIGKILL)
