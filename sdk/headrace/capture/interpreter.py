"""The user's own interpreter: which one an entrypoint means, and what is installed in it.

That is the `python` on the user's PATH, not the one that runs this command line. It is asked by running `probe.py` in
it (some 0.2 s), and the answer is kept until one of its folders changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from headrace.capture.errors import CaptureError
from headrace.capture.requirement import is_version

PROBE_S_MAX: Final = 60.0
"""A first run over thousands of packages on a cold network drive."""
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024


@dataclass(frozen=True)
class Distribution:
    """One installed package."""

    name: str
    version: str
    modules: frozenset[str]
    """Filled only where another distribution has a module of the same top-level name."""
    scripts: dict[str, str]
    local: Path | None = None
    """Where its source is, when it was installed from a folder or file of this machine."""
    editable: bool = False
    elsewhere: str = ""
    """The address it came from, when that was no index: a repository, an archive."""

    @property
    def pin(self) -> str:
        """`name==version`, without a local suffix such as `+cpu`, which no index has. A version that no resolver can
        read is left out."""
        version = self.version.partition("+")[0]
        return f"{self.name}=={version}" if is_version(version) else self.name


@dataclass(frozen=True)
class Interpreter:
    """An interpreter and its packages."""

    command: str
    version: tuple[int, int, int]
    stdlib: frozenset[str]
    distributions: dict[str, Distribution]
    """By normalised name."""
    _tops: dict[str, tuple[Distribution, ...]] = field(default_factory=dict, repr=False)

    @property
    def python(self) -> str:
        return f"{self.version[0]}.{self.version[1]}"

    def owners(self, dotted: str) -> tuple[Distribution, ...]:
        """The distributions that provide a dotted name: one, none, or several that all hold that very module.

        Where several share the top-level name (`google`), the longest part of the name that somebody owns decides.
        """
        parts = dotted.split(".")
        candidates = self._tops.get(parts[0], ())
        if len(candidates) < 2:
            return candidates
        for length in range(len(parts), 0, -1):
            prefix = ".".join(parts[:length])
            if found := tuple(each for each in candidates if prefix in each.modules):
                return found
        return ()

    def shares(self, top: str) -> bool:
        """Whether several distributions have modules below a top-level name."""
        return len(self._tops.get(top, ())) > 1

    def script(self, name: str) -> tuple[Distribution, str] | None:
        """The distribution that installed a command, and the module that the command runs."""
        for each in self.distributions.values():
            if name in each.scripts:
                return each, each.scripts[name].partition(":")[0].strip()
        return None


def normalised(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def find(command: str, folder: Path) -> str | None:
    """The path of an interpreter as the user's shell would find it; None if there is none."""
    if os.sep in command or "/" in command:
        path = (folder / command).absolute()
        return str(path) if path.is_file() else None
    names = (command, "python3", "python") if command in {"python", "python3"} else (command,)
    return next(filter(None, map(shutil.which, names)), None)


def ask(command: str, folder: Path, cache: Path) -> Interpreter:
    """What is installed in an interpreter. Raises CaptureError if it cannot be run."""
    executable = command
    if "shims" in Path(command).parts:  # pyenv and the like: what it stands for depends on the folder
        executable = _run(command, "import sys; print(sys.executable)", folder).decode().strip() or command
    file = cache / "interpreters" / (hashlib.sha256(executable.encode()).hexdigest()[:24] + ".json")
    content = _load(file)
    if content is None:
        answer = _run(executable, (Path(__file__).parent / "probe.py").read_text(encoding="utf-8"), folder)
        try:
            content = json.loads(answer)
        except ValueError as error:
            raise CaptureError(f"{command} did not say what is installed in it", _OTHER_PYTHON) from error
        _save(file, answer)
    return _interpreter(command, content)


def _run(command: str, code: str, folder: Path) -> bytes:
    environ = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONSTARTUP"}}
    try:
        done = subprocess.run(
            [command, "-c", code],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_S_MAX,
            env=environ,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CaptureError(f"{command} cannot be run: {error}", _OTHER_PYTHON) from error
    if done.returncode != 0:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["it failed"])[-1]
        raise CaptureError(f"{command} cannot say what is installed in it: {last}", _OTHER_PYTHON)
    return done.stdout[:ANSWER_BYTES_MAX]


_OTHER_PYTHON: Final = "activate the environment that you run this with, or list the packages in a requirements.txt"


def _load(file: Path) -> dict[str, Any] | None:
    """The answer of last time, if no folder that it came from changed since."""
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
        fresh = all(os.stat(path).st_mtime_ns == stamp for path, stamp in content["stamps"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return content if fresh else None


def _save(file: Path, answer: bytes) -> None:
    beside = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(answer)
        os.replace(beside, file)
    except OSError:
        beside.unlink(missing_ok=True)


def _interpreter(command: str, content: dict[str, Any]) -> Interpreter:
    distributions: dict[str, Distribution] = {}
    tops: dict[str, list[Distribution]] = {}
    for raw in content["distributions"]:
        distribution = _distribution(raw)
        distributions[normalised(distribution.name)] = distribution
        for top in raw["tops"]:
            tops.setdefault(top, []).append(distribution)
    major, minor, patch = content["version"]
    return Interpreter(
        command,
        (major, minor, patch),
        frozenset(content["stdlib"]) | sys.stdlib_module_names,
        distributions,
        {top: tuple(owners) for top, owners in tops.items()},
    )


def _distribution(raw: dict[str, Any]) -> Distribution:
    origin = raw["origin"] or {"url": "", "editable": False, "vcs": False}
    url, local = str(origin["url"]), None
    if url.startswith("file:") and not origin["vcs"]:
        local = Path(url2pathname(urlsplit(url).path))
    return Distribution(
        name=raw["name"],
        version=raw["version"],
        modules=frozenset(raw["modules"]),
        scripts=raw["scripts"],
        local=local,
        editable=bool(origin["editable"]),
        elsewhere="" if local else url,
    )
