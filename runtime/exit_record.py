"""What a supervisor is told and what it leaves behind: `spec.json`, `exit.json`, the lock, and the lease.

Standard library only: the launcher and the supervisors import this, and they are to stay small and never break.

An attempt's folder:

    spec.json     what to run; written by the runner before it asks for the launch
    lock          held (flock) by the launcher, then by the supervisor, for as long as the supervisor lives
    control.sock  where the supervisor listens
    stdout stderr the output, append-only
    exit.json     how it ended; there at once and whole or not at all

Who lives can be told for certain: no `lock` – never launched; `exit.json` – ended; `lock` held – running; else the
supervisor vanished.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from typing import Any, Final, NamedTuple

SPEC: Final = "spec.json"
EXIT: Final = "exit.json"
LOCK: Final = "lock"
CONTROL: Final = "control.sock"
STREAMS: Final = ("stdout", "stderr")

SPEC_BYTES_MAX: Final = 4 * 1024 * 1024
"""An environment may be large, but execve itself takes about 2 MiB."""
RECORD_BYTES_MAX: Final = 16 * 1024
"""Reserved on disk when the attempt starts, so that a full disk cannot keep its end from being recorded."""
SIGNATURE_BYTES: Final = 16
OUTPUT_BYTES_MAX: Final = 1024**3
"""Kept of each stream, unless the spec says otherwise."""


class Spec(NamedTuple):
    """What to run. `env` is the whole environment; `cwd` is absolute."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    time_limit_s: float | None = None
    grace_s: float = 30.0
    output_bytes_max: int = OUTPUT_BYTES_MAX
    memory_bytes: int = 0
    """Of all its processes together; 0: no limit."""
    pids_max: int = 0
    """Processes and threads; 0: `runtime.bounds` says how many."""
    lease_file: str = ""
    lease_s: float = 0.0
    """0: the attempt lives however long the node is cut off."""
    uid: int = 0
    """The user, and the group of the same number, that the program runs as. 0: the supervisor's own."""


class Record(NamedTuple):
    """How an attempt ended: the fields of `events.messages.AttemptEnd`, without that package."""

    cause: str
    ended_at: float
    started_at: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""
    cpu_s: float = 0.0
    memory_bytes_max: int = 0
    output_bytes: dict[str, int] = {}  # noqa: RUF012 - never changed
    exited_at: float | None = None


class Damaged(Exception):
    """A file of ours does not hold what it should; the message names it."""


def read_spec(folder: str) -> Spec:
    """The spec of an attempt. Raises Damaged, OSError."""
    raw = _read_json(os.path.join(folder, SPEC), SPEC_BYTES_MAX)
    try:
        spec = Spec(**raw)
    except TypeError as error:
        raise Damaged(f"{folder}/{SPEC}: {error}") from error
    if not spec.argv:
        raise Damaged(f"{folder}/{SPEC}: argv: is empty")
    return spec._replace(argv=tuple(spec.argv))


def write_spec(folder: str, spec: Spec) -> None:
    """Write `spec.json`, readable by its owner only: the environment may hold secrets."""
    write_whole(os.path.join(folder, SPEC), json.dumps(spec._asdict()).encode())


def read_record(folder: str) -> Record | None:
    """The exit record of an attempt; None as long as there is none. Raises Damaged."""
    try:
        raw = _read_json(os.path.join(folder, EXIT), RECORD_BYTES_MAX)
    except FileNotFoundError:
        return None
    try:
        return Record(**raw)
    except TypeError as error:
        raise Damaged(f"{folder}/{EXIT}: {error}") from error


def reserve_record(folder: str) -> int:
    """Set aside the space of the exit record; gives the open file for `write_record`. Raises OSError."""
    reserved = os.open(os.path.join(folder, EXIT + ".new"), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.posix_fallocate(reserved, 0, RECORD_BYTES_MAX)
    except OSError:
        os.close(reserved)
        raise
    return reserved


def write_record(folder: str, record: Record, reserved: int | None = None) -> None:
    """Leave the exit record, on disk before it is seen. The space comes from `reserve_record` if that was called."""
    if reserved is None:
        reserved = reserve_record(folder)
    content = json.dumps(record._asdict()).encode()
    if len(content) > RECORD_BYTES_MAX:  # only a message can be long
        content = json.dumps(record._replace(message=record.message[:1000])._asdict()).encode()
    os.pwrite(reserved, content, 0)
    os.ftruncate(reserved, len(content))
    os.fsync(reserved)
    os.close(reserved)
    os.rename(os.path.join(folder, EXIT + ".new"), os.path.join(folder, EXIT))
    parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(parent)
    os.close(parent)


def take_lock(folder: str) -> int:
    """Become the one who runs this attempt, now and for ever: gives the locked file. Raises FileExistsError.

    The lock appears already held (it is made under another name and linked), so that nobody ever sees it free.
    """
    temporary = os.path.join(folder, f"{LOCK}.{os.getpid()}")
    lock = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.link(temporary, os.path.join(folder, LOCK))
    except OSError:
        os.close(lock)
        raise
    finally:
        os.unlink(temporary)
    return lock


def was_launched(folder: str) -> bool:
    """Whether a supervisor was ever given this attempt."""
    return os.path.exists(os.path.join(folder, LOCK))


def sign_lock(lock: int) -> None:
    """Write into a lock that is held who holds it. Always as long as before: a full disk takes it over an older one."""
    os.pwrite(lock, b"%-*d" % (SIGNATURE_BYTES, os.getpid()), 0)


def holder(lock_file: str) -> int:
    """The process that holds a lock and has signed it; 0: none."""
    if not _is_locked(lock_file):
        return 0
    try:
        with open(lock_file, "rb") as file:
            signed = file.read(SIGNATURE_BYTES).strip()
    except OSError:
        return 0
    return int(signed) if signed.isdigit() else 0


def is_held(folder: str) -> bool:
    """Whether a supervisor holds this attempt's lock right now: the certain sign that it lives."""
    return _is_locked(os.path.join(folder, LOCK))


def _is_locked(lock_file: str) -> bool:
    try:
        lock = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def boot_clock() -> float:
    """Seconds since the node was booted, those it slept included: what leases are counted in."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def renew_lease(path: str, cleared_at: float) -> None:
    """Note when (`boot_clock`) the node was last known to be cleared. The supervisors read it.

    Always as long as before and in place: a disk that has become full still takes it.
    """
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(file, b"%032.6f" % cleared_at, 0)
    finally:
        os.close(file)


def lease_cleared_at(path: str) -> float | None:
    """What `renew_lease` noted last; None if nothing usable is there."""
    try:
        with open(path, "rb") as file:
            return float(file.read(64))
    except (OSError, ValueError):
        return None


def _read_json(path: str, bytes_max: int) -> dict[str, Any]:
    with open(path, "rb") as file:
        content = file.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise Damaged(f"{path}: larger than {bytes_max} bytes")
    try:
        raw = json.loads(content)
    except ValueError as error:
        raise Damaged(f"{path}: {error}") from error
    if not isinstance(raw, dict):
        raise Damaged(f"{path}: not an object")
    return raw


def write_whole(path: str, content: bytes) -> None:
    """A file that its owner alone can read, at once or not at all. Raises OSError."""
    temporary = f"{path}.{os.getpid()}"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)
    os.rename(temporary, path)
