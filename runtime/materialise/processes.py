"""Runs uv and interpreters: with a time limit, bounded output, and no process left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import uv as uv_wheel

from runtime.users import as_user

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

    `uid`: as which user; 0: as we are. Another one is given the little that it needs.
    """
    environ = {name: value for name, value in os.environ.items() if _is_passed_on(name, uid)} | dict(env)
    try:
        process = await asyncio.create_subprocess_exec(
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
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(time_s_max):
            stdout, stderr = await asyncio.gather(_tail(process.stdout), _tail(process.stderr))
            return Ran(await process.wait(), stdout, stderr)
    except TimeoutError:
        return Ran(None, "", f"{Path(arguments[0]).name} took longer than {time_s_max:.0f} s")
    finally:
        await _end(process)


def _is_passed_on(name: str, uid: int) -> bool:
    if uid and name not in STRANGERS_SEE and not name.startswith("UV_"):
        return False
    return name not in NOT_PASSED_ON


async def _tail(stream: asyncio.StreamReader) -> str:
    """The end of what a program says; all of it is read, so that the program never waits."""
    content = bytearray()
    while piece := await stream.read(65536):
        content += piece
        del content[:-OUTPUT_BYTES_MAX]
    return content.decode(errors="replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill it and its children, if it still lives: uv builds in processes of its own."""
    if process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        await process.wait()
