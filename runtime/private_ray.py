"""`kind: ray` on a node: the entrypoint within a private Ray cluster, and what its end says of it.

The cluster belongs to the attempt like everything else that it starts: its processes are descendants of the supervisor
and in its control group, its files are in the scratch folder. What starts it is `headrace.private_ray`, with the job's
own interpreter, from the copy of that package that every job has on its PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from events.messages import AttemptEnd, Launch
from events.wire import UNREADABLE
from runtime.exit_record import Spec

TOKEN: Final = "HEADRACE_RAY_TOKEN"
FAILURE: Final = "private_ray.json"
"""In the scratch folder. A job can write it, and so give itself any reason to end that it likes."""
FAILURE_BYTES_MAX: Final = 8192
MESSAGE_CHARACTERS_MAX: Final = 2000

_BOOT: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); from headrace.private_ray.main import main; main(sys.argv[2:])"
)
"""With `-I`: neither the folder that the job runs in nor its PYTHONPATH can put itself before ours."""


class Failure(msgspec.Struct, frozen=True):
    """What `headrace.private_ray` leaves when there was no cluster, or none any more."""

    cause: Literal["start_failed", "meeting_failed", "exited"]
    message: str


def new_token(launch: Launch) -> str:
    """For a meeting of this attempt: what its cluster asks of whoever wants in. Empty: it has no cluster."""
    return secrets.token_hex(32) if launch.kind == "ray" else ""


def within(spec: Spec, launch: Launch, *, host: str) -> Spec:
    """The same program within a cluster. `host`: at which the other nodes reach this one."""
    allocation, gang = launch.allocation, launch.gang
    order: dict[str, Any] = {
        "cpus": allocation.cpus,
        "memory_bytes": allocation.memory_bytes,
        "gpus": len(allocation.gpus),
        "host": host,
    }
    env = dict(spec.env)
    if gang is not None and gang.meeting is not None:
        order |= {"rank": gang.rank, "size": gang.size, "head": f"{gang.meeting.address}:{gang.meeting.port}"}
        env[TOKEN] = gang.meeting.token
    ours, _, _ = env["PYTHONPATH"].partition(os.pathsep)
    binaries, _, _ = env["PATH"].partition(os.pathsep)
    python = shutil.which("python", path=binaries) or shutil.which("python3", path=binaries) or "python3"
    return spec._replace(argv=(python, "-I", "-c", _BOOT, ours, json.dumps(order), *spec.argv), env=env)


def seen(end: AttemptEnd, folder: Path) -> AttemptEnd:
    """The end of such an attempt, with what its cluster has to say of it."""
    failure = _read(folder / "scratch" / FAILURE) if end.cause == "exited" and end.exit_code else None
    if failure is None:
        return end
    message = failure.message[:MESSAGE_CHARACTERS_MAX]
    if failure.cause == "exited":
        return msgspec.structs.replace(end, message=message)
    return msgspec.structs.replace(
        end, cause=failure.cause, message=message, exit_code=None, started_at=None, exited_at=None
    )


def _read(path: Path) -> Failure | None:
    """What stands there: a regular file, no link, of a size that such a word has."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            return None
        return msgspec.json.decode(os.pread(opened, FAILURE_BYTES_MAX, 0), type=Failure)
    except (OSError, *UNREADABLE):
        return None
    finally:
        os.close(opened)
