"""What bounds an attempt: a control group where one can be made here, and what is left where none can."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime import bounds, cgroups, exit_record
from runtime.exit_record import Record
from runtime.supervised import Standing, Supervised, standing
from tests.support.attempts import Job, Node, gone, line_in, lives, oom_score_of, supervisor_of

MIB = 1024**2
HOG = "import time\nheld = []\nwhile True: held.append(bytearray(8_000_000)); time.sleep(0.01)"
BOMB = (
    "import os, time\n"
    "while True:\n"
    "    try:\n"
    "        if os.fork() == 0: time.sleep(1000); os._exit(0)\n"
    "    except OSError as error:\n"
    "        print(error.errno, flush=True); time.sleep(1000)\n"
)


@pytest.fixture
async def grouped(node: Node) -> AsyncIterator[Node]:
    if node.launcher.place is None:
        pytest.skip("no control group can be made here")
    yield node
    assert node.launcher.place.names() == [], "a group was left behind"


class Ungrouped:
    """A node on which no control group can be made."""

    def __init__(self, node: Node) -> None:
        self.node = node

    async def python(self, code: str, **fields: object) -> Job:
        return self.start(self.node.lay_out("python", "-c", code, **fields))

    async def sh(self, code: str, **fields: object) -> Job:
        return self.start(self.node.lay_out("sh", "-c", code, **fields))

    def start(self, name: str) -> Job:
        folder = str(self.node.folder / "attempts" / name)
        lock = exit_record.take_lock(folder)
        code = f"from runtime import supervisor; supervisor.supervise({folder!r}, {lock}, None, None)"
        os.set_inheritable(lock, True)
        os.posix_spawn(sys.executable, [sys.executable, "-c", code], {"PYTHONPATH": str(Path(__file__).parents[3])})
        os.close(lock)
        return Job(Supervised(Path(folder)))


@pytest.fixture(params=["group", "no group"])
async def either(node: Node, request: pytest.FixtureRequest) -> Node | Ungrouped:
    if request.param == "no group":
        return Ungrouped(node)
    if node.launcher.place is None:
        pytest.skip("no control group can be made here")
    return node


async def test_a_memory_hog_ends_with_what_it_used_of_what_it_had(either: Node | Ungrouped) -> None:
    record = await (await either.python(HOG, memory_bytes=200 * MIB)).end()
    assert record.cause == "out_of_memory"
    used, _, limit = record.message.removeprefix("used ").partition(" MiB of ")
    assert limit == "200 MiB"
    assert float(used) >= 190
    assert record.memory_bytes_max >= 190 * MIB


async def test_a_hog_that_is_a_child_of_the_entrypoint_says_so_too(either: Node | Ungrouped) -> None:
    job = await either.sh(f"python -c '{HOG}'; exit 9", memory_bytes=200 * MIB)
    record = await job.end()
    assert (record.cause, record.message.endswith("of 200 MiB")) == ("out_of_memory", True)


async def test_a_hog_that_its_parent_does_not_miss_ends_the_attempt_too(either: Node | Ungrouped) -> None:
    job = await either.sh(f"python -c '{HOG}'; exec sleep 1000", memory_bytes=200 * MIB)
    record = await job.end()
    assert (record.cause, record.message.endswith("of 200 MiB")) == ("out_of_memory", True)


async def test_memory_that_processes_share_counts_once(node: Node) -> None:
    """Forked workers that only read what their parent holds are no reason to end anybody."""
    code = (
        "import os, time\n"
        "held = bytearray(b'x') * 150_000_000\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0: time.sleep(2.5); os._exit(0)\n"
        "for _ in range(3): os.wait()\n"
    )
    record = await (await Ungrouped(node).python(code, memory_bytes=300 * MIB)).end()
    assert (record.cause, record.exit_code) == ("exited", 0)


async def test_within_its_limit_a_job_is_left_alone(either: Node | Ungrouped) -> None:
    record = await (await either.python("x = bytearray(100_000_000)", memory_bytes=200 * MIB)).end()
    assert (record.cause, record.exit_code) == ("exited", 0)
    assert record.memory_bytes_max > 100_000_000


async def test_a_fork_bomb_is_refused_by_the_kernel_and_ends_whole(grouped: Node) -> None:
    job = await grouped.python(BOMB, pids_max=300)
    assert await line_in(job.folder / "stdout") == "11"
    group = grouped.group_of(job)
    assert group is not None
    assert len(group.members()) == 300
    job.supervised.stop("stopped", "cancelled", grace_s=0.1)
    record = await job.end()
    assert (record.cause, group.members()) == ("stopped", [])


async def test_a_bomb_that_forks_on_while_it_is_killed_ends_too(grouped: Node) -> None:
    code = "import os\nprint('up', flush=True)\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    job = await grouped.python(code, pids_max=300)
    await line_in(job.folder / "stdout")
    job.supervised.stop("stopped", "cancelled", grace_s=0.1)
    assert (await job.end()).cause == "stopped"


async def test_what_cannot_be_counted_by_the_kernel_is_counted_by_the_supervisor(node: Node) -> None:
    """RLIMIT_NPROC is none for root; for anybody else the bomb would only be refused."""
    if os.getuid() != 0:
        pytest.skip("only root is not held by RLIMIT_NPROC")
    record = await (await Ungrouped(node).python(BOMB, pids_max=300)).end()
    assert (record.cause, record.signal) == ("signalled", signal.SIGTERM)
    assert "processes" in record.message


async def test_the_supervisor_is_outside_and_the_last_to_be_taken(grouped: Node) -> None:
    job = await grouped.sh("exec sleep 1000")
    status = await job.until("running")
    group = grouped.group_of(job)
    assert group is not None
    assert group.members() == [status.pid]
    assert oom_score_of(supervisor_of(status.pid)) <= 0 < oom_score_of(status.pid)
    job.supervised.stop("stopped", "cancelled")
    await job.end()


async def test_what_a_lost_supervisor_leaves_is_found_without_its_mark(grouped: Node) -> None:
    job = await grouped.sh("setsid env -i sleep 1000 & echo $!; wait")
    child = int(await line_in(job.folder / "stdout"))
    status = await job.until("running")
    supervisor = supervisor_of(status.pid)
    os.kill(supervisor, signal.SIGKILL)
    await gone(supervisor)
    await gone(status.pid)
    job.leave()
    assert standing(job.folder) is Standing.VANISHED
    assert lives(child)
    assert bounds.sweep("HEADRACE_SCRATCH=none", grouped.group_of(job), wait_s=5) == 0
    assert not lives(child)


async def test_a_group_that_cannot_be_made_is_no_reason_not_to_run(grouped: Node) -> None:
    name = grouped.lay_out("sh", "-c", "exit 4")
    group = grouped.launcher.place.group(name)
    group.make(memory_bytes=0, pids_max=0)  # the name is taken
    record: Record = await (await grouped.launcher.launch(name)).watch(lambda status: None)
    assert record.exit_code == 4
    assert group.remove()


async def test_a_launcher_removes_what_one_in_another_place_left(grouped: Node) -> None:
    place = grouped.launcher.place
    assert place is not None
    other = cgroups.Place(place.kind, tuple(f"{folder}-before" for folder in place.folders))
    for folder in other.folders:
        os.mkdir(folder)
    other.group("j-9.1").make(memory_bytes=0, pids_max=0)
    await grouped.launcher.retire()
    (grouped.folder / cgroups.CHOSEN).write_text(json.dumps(other._asdict()))
    await grouped.launcher.ensure()
    assert grouped.launcher.place == place
    assert other.names() == []
    with pytest.raises(FileNotFoundError):
        os.rmdir(other.folders[0])


async def test_an_empty_folder_that_another_launcher_took_away_is_made_again(grouped: Node) -> None:
    place = grouped.launcher.place
    assert place is not None
    place.remove()
    job = await grouped.sh("exec sleep 1000")
    status = await job.until("running")
    assert place.group(job.folder.name).members() == [status.pid]
    job.supervised.stop("stopped", "cancelled")
    await job.end()


async def test_a_group_that_is_killed_is_closed_to_new_processes(grouped: Node) -> None:
    place = grouped.launcher.place
    assert place is not None
    if place.kind != "cgroup1":
        pytest.skip("version 2 kills all at once")
    group = place.group("j-9.1")
    group.make(memory_bytes=0, pids_max=0)
    group.kill()
    inside = f"open('{place.folders[1]}/j-9.1/tasks', 'w').write('0')"
    code = f"import os\n{inside}\ntry: os.fork()\nexcept BlockingIOError: print('refused')"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert (await process.communicate())[0] == b"refused\n"
    assert group.remove()
