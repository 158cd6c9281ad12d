"""The folders of a node, and what is set out there once for all jobs."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from events import subjects
from events.messages import AttemptRef
from runtime import ownership

LOG: Final = logging.getLogger("headrace.runner")


class NodeFolder(NamedTuple):
    """Where everything of a node is: `docs/concepts/node.md`."""

    path: Path

    @property
    def attempts(self) -> Path:
        return self.path / "attempts"

    @property
    def pythonpath(self) -> Path:
        """Holds the package `headrace` and nothing else: every job has it on its PYTHONPATH."""
        return self.path / "pythonpath"

    @property
    def lease(self) -> Path:
        return self.path / "lease"

    @property
    def closing(self) -> Path:
        """Is there while nothing more may start here, and says why (`runtime.pod`)."""
        return self.path / "closing"

    @property
    def seen(self) -> Path:
        return self.path / "seen.json"

    def attempt(self, ref: AttemptRef) -> Path:
        return self.attempts / f"{subjects.encode(ref.job)}.{ref.attempt}"

    def job(self, ref: AttemptRef) -> Path:
        """Survives attempts: checkpoints and results."""
        return self.path / "jobs" / subjects.encode(ref.job)

    def job_of(self, attempt: Path) -> Path:
        """The job's folder, by its attempt's."""
        return self.path / "jobs" / attempt.name.rpartition(".")[0]

    @property
    def environments(self) -> Path:
        return self.path / "environments"

    @property
    def sources(self) -> Path:
        return self.path / "sources"

    @property
    def cache(self) -> Path:
        """Of uv."""
        return self.path / "uv-cache"

    def prepare(self, *, builder: int = 0) -> None:
        """Make what has to be there. `builder`: the user that builds packages, where attempts have users of their own.
        Raises OSError.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (self.attempts, self.pythonpath, self.path / "jobs"):
            folder.mkdir(exist_ok=True)
        if builder:
            self._open(builder)
        self._provide_sdk()

    def _open(self, builder: int) -> None:
        """Let users who are not ours reach what is theirs, and what is for all."""
        ownership.open_node(self.path, self.attempts, self.path / "jobs", self.environments, self.path / "sdk")
        self.pythonpath.chmod(0o755)
        for private in (self.sources, self.cache):
            private.mkdir(exist_ok=True)
            private.chmod(0o700)
        for built in (self.cache, *self.environments.iterdir()):
            if built.is_dir():
                ownership.give_built(built.resolve(), builder)

    def _provide_sdk(self) -> None:
        """A copy of `headrace` as it is installed beside us (found, never imported): a job may not reach ours.

        A new copy each time, and a link that is replaced: a job that imports in this moment finds one of the two.
        """
        found = importlib.util.find_spec("headrace")
        if found is None or not found.submodule_search_locations:
            return
        copies = self.path / "sdk"
        copies.mkdir(exist_ok=True)
        before = list(copies.iterdir())
        fresh = Path(tempfile.mkdtemp(dir=copies)) / "headrace"
        try:
            fresh.parent.chmod(0o755)
            shutil.copytree(found.submodule_search_locations[0], fresh, ignore=shutil.ignore_patterns("__pycache__"))
            link = fresh.parent / "link"
            link.symlink_to(fresh)
            link.rename(self.pythonpath / "headrace")
        except OSError as error:
            shutil.rmtree(fresh.parent, ignore_errors=True)
            if not before:
                raise
            # copytree's error names each file, so only its beginning
            LOG.warning("jobs get the package headrace of the runner before: %s", str(error)[:200])
            return
        for copy in before:
            shutil.rmtree(copy, ignore_errors=True)
