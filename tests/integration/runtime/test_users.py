"""Attempts as users of their own: a real runner as root, and jobs that look around."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from events.bus import Bus
from events.messages import GangPart
from runtime import ipc
from runtime.supervised import LauncherClient
from tests.support.attempts import END_S_MAX, gone, line_in, lives
from tests.support.leader import Leader, a_launch
from tests.support.nats import NatsServer
from tests.support.runner_process import RunnerProcess
from tests.support.strangers import (
    FIRST,
    OTHERS,
    UIDS,
    as_in_the_pod,
    needs_root,
    reachable_folder,
    reachable_python,
)
from tests.support.user_world import Ground, World, a_world

pytestmark = needs_root

STATUS = """
import json, os
lines = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
names = "Uid Gid Groups CapInh CapPrm CapEff CapAmb NoNewPrivs".split()
told = {name: lines[name].split() for name in names}
told |= {name: os.environ.get(name) for name in ("HOME", "USER", "LOGNAME")}
open(os.path.expanduser("~/made"), "w").close()
open(os.environ["TMPDIR"] + "/made", "w").close()
print("by name", file=open("/dev/stdout", "w"))
print(json.dumps(told), file=open("told", "w"))
"""
LOOKS = """
import os
others = [name for name in os.listdir("/proc") if name.isdigit() and os.stat(f"/proc/{name}").st_uid != os.getuid()]
print(*others, file=open("others", "w"))
"""
MAKES_IPC = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
made = {"shm": libc.shmget(0, 4096, 0o1000), "msg": libc.msgget(0, 0o1777), "sem": libc.semget(0, 3, 0o1600)}
assert min(made.values()) >= 0
assert libc.mq_open(b"/hr-left-behind", os.O_CREAT | os.O_RDWR, 0o600, None) >= 0
print(os.getuid(), *(f"{kind}:{number}" for kind, number in made.items()), file=open("made", "w"))
"""
WITH_QUEUES = (
    "unshare",
    "-m",
    "sh",
    "-c",
    'mkdir -p /dev/mqueue && mount -t mqueue none /dev/mqueue && exec "$0" "$@"',
)
"""As in a container: that the file system of POSIX queues is there."""
WAITS = "import os, signal; print(os.getpid(), file=open('pid', 'w'), flush=True); signal.pause()"


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    """A folder that everybody may pass, an interpreter in it, and its PYTHONPATH."""
    with reachable_folder() as folder:
        yield (folder, *reachable_python(folder))


@pytest.fixture
async def world(bus: Bus, nats: NatsServer, ground: Ground) -> AsyncIterator[World]:
    async with a_world(nats, bus, ground, command=as_in_the_pod(no_new_privs=False)) as world:
        yield world


async def test_an_attempt_is_a_user_alone_with_nothing_and_a_home(world: World) -> None:
    ref = await world.run("j-a", STATUS)
    told = json.loads((world.node.job(ref) / "told").read_text())
    (uid,) = set(told["Uid"])
    assert int(uid) - FIRST in range(1, 64)
    assert set(told["Gid"]) == {uid}
    assert told["Groups"] == []
    assert {told[name][0] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert told["NoNewPrivs"] == ["1"]
    assert told["HOME"] == str(world.node.attempt(ref) / "home")
    assert told["USER"] == told["LOGNAME"] == "ada"
    assert "by name" in world.output(ref)


async def test_where_the_node_may_no_process_of_others_is_shown(nats: NatsServer, bus: Bus, ground: Ground) -> None:
    """Not even their command lines, which are everybody's to read: with them the address of Ray is hidden."""
    async with a_world(nats, bus, ground, command=()) as world:
        ref = await world.run("j-a", LOOKS)
        assert (world.node.job(ref) / "others").read_text().split() == []


async def test_it_dies_with_its_supervisor_and_what_it_left_is_swept_by_its_user(world: World) -> None:
    """Also what has cleared its environment: no mark is needed to find it."""
    code = (
        "import os, subprocess, sys\n"
        "wait = [sys.executable, '-c', 'import signal; signal.pause()']\n"
        "child = subprocess.Popen(wait, env={}, start_new_session=True)\n"
        "print(os.getpid(), os.getppid(), child.pid, file=open('pids', 'w'), flush=True)\n"
        "child.wait()"
    )
    ref = await world.start("j-a", code)
    entrypoint, supervisor, child = map(int, (await line_in(world.node.job(ref) / "pids")).split())
    os.kill(supervisor, signal.SIGKILL)
    assert (await world.leader.end_of(ref)).cause == "supervisor_lost"
    await gone(entrypoint)
    assert not lives(child)


async def test_a_later_attempt_is_another_user_and_has_what_the_job_kept(world: World) -> None:
    wrote = await world.run(
        "j-a",
        "import os\n"
        "os.makedirs('a/b'); open('a/b/c', 'w').write('kept'); os.chmod('a', 0o700)\n"
        "os.link('a/b/c', 'again'); os.symlink('/etc/passwd', 'link'); os.chmod('.', 0o777)",
    )
    job = world.node.job(wrote)
    first = job.lstat().st_gid
    assert (job.lstat().st_uid, stat.S_IMODE(job.lstat().st_mode)) == (0, 0o700), "sealed"
    ref = await world.run(
        "j-a",
        "import os\n"
        "assert open('a/b/c').read() == open('again').read() == 'kept'\n"
        "open('a/b/c', 'a').write(' on'); print(os.getuid(), file=open('uid', 'w'))",
        attempt=2,
    )
    second = int((job / "uid").read_text())
    assert second != first
    assert (job / "a/b/c").read_text() == "kept on"
    assert os.stat("/etc/passwd").st_uid == 0
    assert ref.attempt == 2


async def test_folders_deeper_than_python_calls_itself_and_files_elsewhere_go_with_the_attempt(world: World) -> None:
    world.leader.records = True
    ref = await world.start(
        "j-a",
        "import os\n"
        "open('/dev/shm/left-behind', 'w').close(); os.mkdir('/tmp/left-behind'); os.mkdir('/tmp/left-behind/a')\n"
        "os.chdir(os.environ['HEADRACE_SCRATCH'])\n"
        "for _ in range(3000): os.mkdir('a'); os.chdir('a')\n"
        "os.chmod('.', 0)",
    )
    assert (await world.leader.end_of(ref)).exit_code == 0
    again = await world.run("j-b", "import os; assert not os.path.exists('/dev/shm/left-behind')")
    left = [world.node.attempt(ref), Path("/tmp/left-behind"), Path("/dev/shm/left-behind"), world.node.attempt(again)]
    async with asyncio.timeout(END_S_MAX):
        while any(map(os.path.lexists, left)):  # noqa: ASYNC110  nothing announces that a folder is gone
            await asyncio.sleep(0.02)


async def test_what_no_process_holds_goes_with_the_attempt(nats: NatsServer, bus: Bus, ground: Ground) -> None:
    """What System V made, and POSIX queues: the next who is this user would find them, and own them."""
    there = () if os.path.ismount("/dev/mqueue") else WITH_QUEUES  # noqa: ASYNC240
    async with a_world(nats, bus, ground, command=(*there, *as_in_the_pod())) as world:
        ref = await world.run("j-a", MAKES_IPC)
        uid, *made = (await line_in(world.node.job(ref) / "made")).split()
        assert [word.partition(":")[0] for word in made] == ["shm", "msg", "sem"]
        assert set(made) == set(ipc.left_by(int(uid)))
        world.leader.records = True
        async with asyncio.timeout(END_S_MAX):
            while world.node.attempt(ref).exists():  # noqa: ASYNC110  nothing announces that a folder is gone
                await asyncio.sleep(0.02)
        assert ipc.left_by(int(uid)) == []
        assert ctypes.CDLL(None).mq_unlink(b"/hr-left-behind") == -1, "it was still there"
    if there:
        os.rmdir("/dev/mqueue")


async def test_a_new_runner_gives_no_user_twice_and_ends_what_it_finds(world: World) -> None:
    ref = await world.start("j-a", WAITS)
    pid = int(await line_in(world.node.job(ref) / "pid"))
    await world.leader.until_running(ref)
    await world.runner.kill()
    await world.runner.start()
    other = await world.start("j-b", WAITS)
    another = int(await line_in(world.node.job(other) / "pid"))
    assert os.stat(f"/proc/{pid}").st_uid != os.stat(f"/proc/{another}").st_uid
    await world.leader.want_no_more(ref)
    assert (await world.leader.end_of(ref)).cause == "stopped"
    assert not lives(pid)


async def test_an_attempt_that_was_never_launched_leaves_nothing_to_whoever_is_its_user_next(world: World) -> None:
    ref = await world.start("j-gang", "pass", gang=GangPart(rank=1, size=2))
    await world.leader.until(lambda: getattr(world.leader.reported(ref), "state", "") == "ready")
    job = world.node.job(ref)
    user = job.lstat().st_uid
    assert user > FIRST
    await world.runner.kill()
    await world.leader.want_no_more(ref)
    await world.runner.start()
    said = len(world.leader.exchanges)
    await world.leader.until(lambda: len(world.leader.exchanges) > said)
    assert not world.node.attempt(ref).exists()
    found = job.lstat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, user, 0o700)


async def test_a_second_runner_with_other_users_gives_nothing_away_before_it_is_refused(
    world: World, nats: NatsServer, ground: tuple[Path, str, str]
) -> None:
    _, python, path = ground
    second = RunnerProcess(
        world.node.path.parent,
        nats,
        attempt_uids=OTHERS,
        command=(*as_in_the_pod(no_new_privs=False), python),
        env={"PYTHONPATH": path},
    )
    await second.start(stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(END_S_MAX):
        _, complaint = await second.process.communicate()
    assert b"another runner works in" in complaint
    assert world.node.cache.lstat().st_uid == FIRST


async def test_a_node_that_lacks_what_it_needs_says_so_and_starts_nothing(
    bus: Bus, nats: NatsServer, ground: tuple[Path, str, str], tmp_path: Path
) -> None:
    folder, python, path = ground
    leader = Leader(bus)
    await leader.listen()
    command = (*as_in_the_pod("SETUID", "CHOWN"), python)
    runner = RunnerProcess(folder / tmp_path.name, nats, attempt_uids=UIDS, command=command, env={"PYTHONPATH": path})
    await runner.start()
    try:
        await leader.until(lambda: bool(leader.exchanges))
        why = f"attempt_uids = {UIDS} cannot be used: the node lacks the capabilities CHOWN, SETUID"
        assert leader.exchanges[-1].capacity.cannot_start == f"{why}; see docs/kubernetes.md"
        launch = a_launch("j-a", "")
        await leader.want(launch)
        end = await leader.end_of(launch.ref)
        assert (end.cause, end.started_at) == ("environment_failed", None)
        assert why in end.message
    finally:
        await runner.kill()
        await LauncherClient(runner.node.path).retire()
