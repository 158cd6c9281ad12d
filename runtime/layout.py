"""Lay one attempt out: its source, its environment, its variables, and the spec that the supervisor gets."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Protocol

from events.messages import Launch
from runtime import job_environment, short_way
from runtime.attempt import LayOutFailed
from runtime.exit_record import Spec
from runtime.job_environment import Surroundings
from runtime.materialise import EnvironmentFailed, SourceFailed
from runtime.node_folder import NodeFolder
from runtime.settings import RunnerSettings


class Materialiser(Protocol):
    """`runtime.materialise.Materialiser`: brings sources and environments onto the node."""

    async def source(self, digest: str, into: Path) -> None: ...

    async def environment(self, lock_digest: str) -> Path: ...

    async def interpreter(self, python: str) -> Path | None: ...


class Layout:
    """Lays attempts out in a node's folder."""

    def __init__(self, settings: RunnerSettings, folder: NodeFolder, materialiser: Materialiser) -> None:
        self._settings = settings
        self._folder = folder
        self._materialiser = materialiser

    async def lay_out(self, launch: Launch, folder: Path) -> Spec:
        """Source and environment at the same time. Raises LayOutFailed, OSError."""
        try:
            async with asyncio.TaskGroup() as group:
                cwd = group.create_task(self._source(launch, folder))
                environment = group.create_task(self._environment(launch))
        except* LayOutFailed as failures:
            first = failures.exceptions[0]
            while isinstance(first, ExceptionGroup):
                first = first.exceptions[0]
            raise first from None
        except* OSError as failures:
            raise LayOutFailed("start_failed", f"the node cannot lay it out: {failures.exceptions[0]}") from None
        binaries, virtual_env = environment.result()
        around = Surroundings(
            node=self._settings.node,
            job_folder=self._folder.job(launch.ref),
            attempt_folder=folder,
            pythonpath=self._folder.pythonpath,
            bin=binaries,
            virtual_env=virtual_env,
            temporary=await asyncio.to_thread(short_way.to, folder / "scratch"),
            otlp_url=self._settings.otlp_url,
            otlp_secret=self._settings.otlp_secret,
        )
        return Spec(
            argv=launch.entrypoint,
            env=job_environment.variables(launch, around, os.environ),
            cwd=str(cwd.result()),
            time_limit_s=launch.time_limit_s,
            grace_s=launch.grace_s,
            output_bytes_max=self._settings.output_bytes_max,
            memory_bytes=launch.allocation.memory_bytes,
            lease_file=str(self._folder.lease),
            lease_s=self._settings.lease_s,
        )

    async def _source(self, launch: Launch, folder: Path) -> Path:
        """The working folder of the attempt."""
        if not launch.source:
            return self._folder.job(launch.ref)
        root = folder / "source"
        try:
            await self._materialiser.source(launch.source, root)
        except SourceFailed as error:
            raise LayOutFailed("source_failed", str(error)) from error
        cwd = (root / launch.folder).resolve()
        if not cwd.is_relative_to(root.resolve()):
            raise LayOutFailed("source_failed", f"folder: {launch.folder!r} is outside the source")
        if not cwd.is_dir():
            raise LayOutFailed("source_failed", f"folder: there is no folder {launch.folder!r} in the source")
        return cwd

    async def _environment(self, launch: Launch) -> tuple[Path, Path | None]:
        """The folder of its programs, and the virtual environment that it belongs to, if it is one of ours."""
        if not launch.lock:
            found = await self._materialiser.interpreter(launch.python) if launch.python else None
            return (found or Path(sys.executable)).parent, None
        try:
            root = await self._materialiser.environment(launch.lock)
        except EnvironmentFailed as error:
            raise LayOutFailed("environment_failed", str(error)) from error
        return root / "bin", root
