"""Runs uv and interpreters: with a time limit, bounded output, and no process left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import uv as uv_wheel

from runtime.materialise import strays
from runtime.users import as_user, end_all

OUTPUT_BYTES_MAX: Final = 4 * 1024**2
NOT_PASSED_ON: Final = frozenset(
    {"VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"}
)
"""What speaks of this process and not of the network: it would change what is built, or leave out the bytecode."""
STRANGERS_SEE: Final = frozenset(
    {
        *("PATH", "LANG", "TZ", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "CC", "CXX", "CFLAGS", "CUDA_HOME"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    }
)
"""What a process of another user is given of this one's environment, and whatever begins with UV_."""
STARTED_NOT: Final = 127
REST_S_MAX: Final = 2.0
"""For what a program that has ended said last, where something else holds its pipes."""


class Ran(NamedTuple):
    """How a program ended. `status` is None if it was over its time."""

    status: int | None
    stdout: str
    stderr: str


def uv() -> str:
    """The uv binary that is installed beside us."""
    return uv_wheel.find_uv_bin()


async def run(
    *arguments: str, time_s_max: float, folder: Path | None = None, env: Mapping[str, str] = {}, uid: int = 0
) -> Ran:
    """Run a program to its end. It has this process's environment (so uv knows its index and proxies), and `env`.

    Its end is that of the program itself: what it has started may hold its pipes for ever.

    `uid`: as which user; 0: as we are. Another one is given the little that it needs, and every process of it ends with
    the program, or with the build that left it there.
    """
    environ = {name: value for name, value in os.environ.items() if _is_passed_on(name, uid)} | dict(env)
    try:
        process, listener = await asyncio.get_running_loop().subprocess_exec(
            _Listener,
            *arguments,
            cwd=folder,
            env=environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            **as_user(uid),
        )
    except OSError as error:
        return Ran(STARTED_NOT, "", f"{arguments[0]}: {error.strerror}")
    try:
        async with asyncio.timeout(time_s_max):
            if uid:
                await strays.end_until(listener.exited, uid=uid, program=process.get_pid())
            await listener.exited.wait()
    except TimeoutError:
        return Ran(None, "", f"{Path(arguments[0]).name} took longer than {time_s_max:.0f} s")
    finally:
        await _end(process, listener, uid)
    return Ran(process.get_returncode(), listener.said(1), listener.said(2))


class _Listener(asyncio.SubprocessProtocol):
    """Hears a program: the end of what it says is kept; all of it is read, so that the program never waits."""

    def __init__(self) -> None:
        self.exited = asyncio.Event()
        self.silent = asyncio.Event()
        """Nobody holds its pipes any more."""
        self._said = {1: bytearray(), 2: bytearray()}

    def said(self, stream: int) -> str:
        return self._said[stream].decode(errors="replace")

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._said[fd] += data
        del self._said[fd][:-OUTPUT_BYTES_MAX]

    def process_exited(self) -> None:
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.silent.set()


def _is_passed_on(name: str, uid: int) -> bool:
    if uid and name not in STRANGERS_SEE and not name.startswith("UV_"):
        return False
    return name not in NOT_PASSED_ON


async def _end(process: asyncio.SubprocessTransport, listener: _Listener, uid: int) -> None:
    """Kill it and its children, if it still lives (uv builds in processes of its own), and all that is this user's."""
    if not listener.exited.is_set():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.get_pid(), signal.SIGKILL)
        await listener.exited.wait()
    if uid:
        await end_all(uid)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REST_S_MAX):
            await listener.silent.wait()
    process.close()
