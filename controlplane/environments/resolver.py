"""From a request to a lock, by uv: the one wrapper over it on this side.

The roots are uv's input, the laptop's versions stand in its output file: uv keeps those that work on the target, and
moves on from those that do not. First nothing may be built, so that no `setup.py` of a stranger runs; only if a package
has no wheel at all is it tried once more with builds, where the operator allows that.

A lock names versions and hashes, and no index: where the packages come from is the business of each machine.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import uv

from controlplane.environments import explain, requests
from controlplane.environments.core import Target

SOLVE_S_MAX: Final = 300.0
"""Of one run of uv. 244 pins take some seconds; the rest is for slow indexes and for builds."""
LOG_CHARACTERS_MAX: Final = 512 * 1024
LOCK_VERSION: Final = 1


class Solved(NamedTuple):
    lock: bytes
    """Canonical JSON: {"version", "python", "platform", "requirements"}."""
    packages: int
    log: str


class Unsolvable(NamedTuple):
    """No lock fits, and trying again would not help."""

    reason: str
    log: str


class Interrupted(NamedTuple):
    """No lock for a passing reason: the index could not be reached."""

    reason: str
    log: str


Outcome = Solved | Unsolvable | Interrupted


class _Ran(NamedTuple):
    status: int | None
    """None: over its time."""
    stderr: str


class Resolver:
    """Solves requests. `cache` is uv's, kept over restarts; `builds` whether packages without wheels may be built."""

    def __init__(self, *, cache: Path, builds: bool, environ: Mapping[str, str], command: tuple[str, ...] = ()) -> None:
        self._command = command or (uv.find_uv_bin(),)
        self._cache = cache
        self._builds = builds
        self._environ = _environment(environ)

    async def solve(self, target: Target) -> Outcome:
        """The lock for a target, or why there is none. A cancelled solve leaves no process behind."""
        with tempfile.TemporaryDirectory(prefix="headrace-solve-") as folder:
            (Path(folder) / "roots.in").write_text("".join(f"{line}\n" for line in target.request.roots))
            log: list[str] = []
            ran = await self._run(target, Path(folder), log, builds=False)
            if ran.status not in {0, None} and self._builds and explain.needs_a_build(ran.stderr):
                ran = await self._run(target, Path(folder), log, builds=True)
            said = "\n".join(log)[-LOG_CHARACTERS_MAX:]
            if ran.status == 0:
                return _solved(target, (Path(folder) / "lock.txt").read_text(), said)
            if ran.status is None:
                return Unsolvable(f"solving took longer than {SOLVE_S_MAX:.0f} s", said)
            if explain.is_passing(ran.stderr):
                return Interrupted(explain.passing(ran.stderr), said)
            return Unsolvable(explain.reason(ran.stderr, python=target.python, platform=target.platform), said)

    async def _run(self, target: Target, folder: Path, log: list[str], *, builds: bool) -> _Ran:
        (folder / "lock.txt").write_text("".join(f"{line}\n" for line in requests.usable(target.request.preferences)))
        arguments = ["pip", "compile", "roots.in", "-o", "lock.txt", "--python-version", target.python]
        arguments += ["--python-platform", target.platform, "--generate-hashes", "--no-header", "--no-annotate"]
        arguments += ["--quiet", "--cache-dir", str(self._cache)]
        arguments += [] if builds else ["--no-build", "--python", sys.executable]
        begun = time.monotonic()
        ran = await _process([*self._command, *arguments], folder, self._environ)
        log.append(f"$ uv {' '.join(arguments)}\n{ran.stderr.strip()}")
        end = "over its time" if ran.status is None else f"exit {ran.status}"
        log.append(f"# {end}, {time.monotonic() - begun:.2f} s\n")
        return ran


def _solved(target: Target, requirements: str, log: str) -> Outcome:
    pins = [line for line in requirements.splitlines() if line and not line.startswith((" ", "#"))]
    strange = [line for line in pins if "==" not in line or "://" in line]
    if strange:
        return Unsolvable(f"the solution names something that is no version: {strange[0][:200]}", log)
    content = {
        "version": LOCK_VERSION,
        "python": target.python,
        "platform": target.platform,
        "requirements": requirements,
    }
    lock = msgspec.json.encode(content, order="sorted")
    return Solved(lock, len(pins), f"{log}\n{requirements}"[-LOG_CHARACTERS_MAX:])


async def _process(arguments: list[str], folder: Path, environ: Mapping[str, str]) -> _Ran:
    process = await asyncio.create_subprocess_exec(
        *arguments,
        cwd=folder,
        env=environ,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(SOLVE_S_MAX):
            _, stderr = await process.communicate()
        return _Ran(process.returncode, stderr.decode(errors="replace"))
    except TimeoutError:
        return _Ran(None, "")
    finally:
        if process.returncode is None:
            _kill_group(process.pid)
            await process.wait()


def _kill_group(pid: int) -> None:
    """End uv and what it builds with; it leads a session of its own."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


_PASSED_ON: Final = frozenset(
    {"PATH", "HOME", "LANG", "TMPDIR", "NETRC", "SSL_CERT_FILE", "SSL_CERT_DIR"}
    | {f"{scheme}_PROXY" for scheme in ("HTTP", "HTTPS", "ALL", "NO")}
)


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What uv, and whatever it builds, gets to see: how to reach the index, and none of the service's own secrets.

    A company's own CA, in the system's store, counts.
    """
    passed = {name: value for name, value in environ.items() if name.upper() in _PASSED_ON or name.startswith("UV_")}
    return {"UV_SYSTEM_CERTS": "1"} | passed | {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}
