"""What jobs do with their output, by real processes: all of it is kept, or cut at the cap where a line says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.attempts import Node

MIB = 1024**2


def content(folder: Path, stream: str = "stdout") -> bytes:
    return (folder / stream).read_bytes()


@pytest.mark.parametrize(
    "written",
    [b"y" * 50_000_000 + b"\n", b"no newline at all", b"a\0b\xff\xfe\xc3(\n" * 1000, b"\x1b[31m\x00", b"\n" * 100_000],
    ids=["a line of 50 MB", "no newline", "NUL and invalid UTF-8", "escapes", "empty lines"],
)
async def test_output_is_kept_byte_for_byte(node: Node, tmp_path: Path, written: bytes) -> None:
    (tmp_path / "written").write_bytes(written)
    job = await node.sh(f"cat {tmp_path}/written; cat {tmp_path}/written >&2")
    record = await job.end()
    assert record.output_bytes == {"stdout": len(written), "stderr": len(written)}
    assert content(job.folder) == content(job.folder, "stderr") == written


async def test_what_is_far_over_the_cap_is_read_on_and_never_stalls_the_job(node: Node) -> None:
    code = "import os\nfor _ in range(4096): os.write(1, b'x' * 65536)\nprint('done', file=open('end', 'w'))"
    job = await node.python(code, output_bytes_max=MIB)
    record = await job.end()
    assert (record.exit_code, (job.folder / "scratch" / "end").read_text()) == (0, "done\n")
    assert content(job.folder) == b"x" * MIB + b"\n[headrace: output cut at 1048576 bytes]\n"


async def test_a_flood_on_one_stream_does_not_keep_back_the_other(node: Node) -> None:
    """Nor the stop: the flood would go on for ever."""
    code = (
        "import os\n"
        "if os.fork() == 0:\n"
        "    while True: os.write(1, b'x' * 65536)\n"
        "for number in range(2000): os.write(2, b'%d\\n' % number)\n"
    )
    job = await node.python(code, output_bytes_max=MIB, grace_s=0.1)
    record = await job.end()
    assert record.exit_code == 0
    assert content(job.folder, "stderr") == b"".join(b"%d\n" % number for number in range(2000))


async def test_what_a_child_writes_after_the_entrypoints_end_is_kept(node: Node) -> None:
    child = "(trap '' TERM; touch ready; sleep 0.3; echo late) &"
    job = await node.sh(f"{child} while [ ! -e ready ]; do sleep 0.01; done; echo first", grace_s=5)
    record = await job.end()
    assert (record.exit_code, content(job.folder)) == (0, b"first\nlate\n")


async def test_a_closed_stream_is_no_end_of_the_other(node: Node) -> None:
    job = await node.sh("exec >&-; sleep 0.2; echo still here >&2; exit 5")
    record = await job.end()
    assert (record.exit_code, content(job.folder, "stderr")) == (5, b"still here\n")


async def test_a_pipe_that_a_stranger_holds_open_does_not_hold_up_the_end(node: Node) -> None:
    """It was handed over a socket to a process that is none of ours: this one."""
    job = await node.sh("echo $$; read line < go; exit 6")
    os.mkfifo(job.folder / "scratch" / "go")
    status = await job.until("running")
    held = os.open(f"/proc/{status.pid}/fd/1", os.O_WRONLY)
    try:
        (job.folder / "scratch" / "go").write_text("go\n")
        assert (await job.end()).exit_code == 6
    finally:
        os.close(held)
