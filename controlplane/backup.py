"""A copy of all that an installation keeps, and back: `python -m controlplane.backup save|restore FOLDER …`.

    FOLDER/manifest.json          what there is, with digests; written last
    FOLDER/streams/<name>         each stream, as JetStream copies it: sequences, times and headers stay what they were
    FOLDER/blobs/<path>           every blob

It may be taken while everything runs, and shows the moment when it began: REQUESTS are copied before LEDGER (what is in
both is known as a repeat), and blobs behind it (a fact names only blobs that are there). Snapshots of later than that
are left out. Configuration and secrets are yours to keep.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import hashlib
import os
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from controlplane import main as command
from controlplane.config import Configuration, ConfigurationError
from controlplane.embedded import plan as embedded
from controlplane.embedded.children import end_leftovers
from controlplane.frame import Clock, Tools
from controlplane.monitoring import rebuild
from events import logs, streams, subjects
from events.blobs import BlobError, Blobs
from events.bus import AskRefused, Bus, BusError, NoAnswer, Refused
from events.copying import CHUNK_BYTES, Copied
from events.ledger import Ledger
from events.wire import UNREADABLE

MANIFEST: Final = "manifest.json"
VERSION: Final = 1
SNAPSHOTS: Final = "snapshots/"
LOOKS: Final = 2
"""A job that is sealed anew meanwhile has its points in another file by then; its manifest is read behind them."""
LEAST_S: Final = 2.0
"""A service that does not say in this time that it is there is not there."""
_SERVICES: Final = ("submission", "scheduling", "environments", "monitoring")


class BackupError(Exception):
    """It cannot be done; the message says why, and what to do."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A stream in a backup."""

    copied: Copied
    digest: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    version: int = VERSION
    ledger: int
    """Last sequence of LEDGER."""
    streams: dict[str, Part]
    blobs: dict[str, str]
    """Path → digest."""


# -- save --------------------------------------------------------------------------------------------------------------


async def save(bus: Bus, blobs: Blobs, teams: Sequence[str], folder: Path) -> Manifest:
    """Copy everything into a new folder. Raises BackupError, BusError, BlobError, OSError."""
    _begin(folder)
    names = [*map(streams.requests_stream_name, teams), streams.LEDGER.name]
    names += [stream.name for stream in streams.SHARED if stream is not streams.LEDGER]
    parts = {name: await _save_stream(bus, name, folder / "streams" / name) for name in names}
    ledger = parts[streams.LEDGER.name].copied.last_sequence
    kept: dict[str, str] = {}
    for _ in range(LOOKS):
        for path in await blobs.names(""):
            if path in kept or (path.startswith(SNAPSHOTS) and _sequence_of(path) > ledger):
                continue  # the restored ledger gives later sequences to other facts
            content = await _blob(blobs, path)
            if content is not None:
                kept[path] = await asyncio.to_thread(_keep, folder / "blobs" / path, content)
    manifest = Manifest(ledger=ledger, streams=parts, blobs=kept)
    draft = folder / f".{MANIFEST}"
    draft.write_bytes(msgspec.json.encode(manifest))
    draft.replace(folder / MANIFEST)
    return manifest


def _begin(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise BackupError(f"{folder} is not empty: name a new folder")
    (folder / "streams").mkdir(parents=True, exist_ok=True)


async def _save_stream(bus: Bus, name: str, file: Path) -> Part:
    seen = hashlib.sha256()
    with file.open("wb") as out:

        def write(chunk: bytes) -> None:
            out.write(chunk)
            seen.update(chunk)

        copied = await bus.save(name, write)
    return Part(copied=copied, digest="sha256:" + seen.hexdigest())


async def _blob(blobs: Blobs, path: str) -> bytes | None:
    try:
        return await blobs.read(path)
    except BlobError:
        if path in await blobs.names(path):
            raise
        return None  # an old snapshot, or a seal of before: removed meanwhile


def _keep(file: Path, content: bytes) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _sequence_of(path: str) -> int:
    last = path.rpartition("/")[2]
    return int(last) if last.isdigit() else 0


# -- restore -----------------------------------------------------------------------------------------------------------


async def restore(bus: Bus, blobs: Blobs, folder: Path, *, replicas: int = 1, overwrite: bool = False) -> Manifest:
    """Make an installation what a backup holds. Nothing is touched before all of the backup was found sound.

    Raises BackupError, BusError, BlobError, OSError.
    """
    manifest = _read(folder)
    await _is_still(bus)
    if not overwrite:
        await _is_empty(bus, blobs, manifest)
    await asyncio.to_thread(_verify, folder, manifest)
    for path in await blobs.names(SNAPSHOTS):
        await blobs.delete(path)
    for path in manifest.blobs:
        await blobs.write(path, folder / "blobs" / path)
    order = sorted(manifest.streams, key=lambda name: (name.startswith("REQUESTS"), name == streams.LEDGER.name))
    for name in order:
        await bus.remove_stream(name)
    for name in order:
        copied = manifest.streams[name].copied
        asynchronous = copied.config.get("persist_mode") == "async"
        config = copied.config | {"num_replicas": 1 if asynchronous else replicas}
        chunks = _chunks(folder / "streams" / name)
        await bus.restore(name, msgspec.structs.replace(copied, config=config), chunks)
    return manifest


def _read(folder: Path) -> Manifest:
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise BackupError(f"{folder} is no whole backup: it has no {MANIFEST}") from None
    except UNREADABLE as error:
        raise BackupError(f"{folder / MANIFEST} cannot be read: {error}") from error
    if manifest.version != VERSION:
        raise BackupError(f"{folder} is a backup of version {manifest.version}; this reads {VERSION}")
    for path in (*manifest.blobs, *manifest.streams):
        if path.startswith("/") or ".." in path.split("/"):
            raise BackupError(f"{folder / MANIFEST} names {path!r}, which is no place in a backup")
    return manifest


async def _is_still(bus: Bus) -> None:
    """Raises BackupError while a service runs: it would go on with a ledger that is gone."""
    for service in _SERVICES:
        try:
            await bus.ask(subjects.ask(service, "status"), timeout_s=LEAST_S)
        except NoAnswer:
            continue
        except AskRefused:
            pass
        raise BackupError(f"{service} is running: stop every service first, and leave NATS up")


async def _is_empty(bus: Bus, blobs: Blobs, manifest: Manifest) -> None:
    for name in manifest.streams:
        try:
            last = await bus.last_sequence(name)
        except Refused:
            continue  # no such stream
        if last:
            raise BackupError(f"{name} holds {last} messages: --overwrite removes what is there")
    there = await blobs.names("")
    if there:
        raise BackupError(f"the blob store holds {len(there)} blobs: --overwrite writes over them")


def _verify(folder: Path, manifest: Manifest) -> None:
    expected = {folder / "streams" / name: part.digest for name, part in manifest.streams.items()}
    expected |= {folder / "blobs" / path: digest for path, digest in manifest.blobs.items()}
    for file, digest in expected.items():
        try:
            with file.open("rb") as content:
                found = "sha256:" + hashlib.file_digest(content, "sha256").hexdigest()
        except FileNotFoundError:
            raise BackupError(f"{file} is missing: this backup cannot be used") from None
        if found != digest:
            raise BackupError(f"{file} is not what was written: this backup cannot be used")


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as content:
        while chunk := content.read(CHUNK_BYTES):
            yield chunk


# -- the command -------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m controlplane.backup", description=__doc__)
    parser.add_argument("what", choices=("save", "restore"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--overwrite", action="store_true", help="restore: remove what is there")
    parser.add_argument("--embedded", type=Path, help="state folder of an embedded stack: up to save, down to restore")
    command.add_options(parser)
    options = parser.parse_args(arguments)
    logs.configure("error")  # a server that is only just starting is no news here
    try:
        manifest = asyncio.run(_run(options))
    except (BackupError, ConfigurationError, BusError, BlobError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    told = f"{len(manifest.streams)} streams, {len(manifest.blobs)} blobs, ledger at {manifest.ledger}"
    print(f"{'saved' if options.what == 'save' else 'restored'} {told}")
    return 0


async def _run(options: argparse.Namespace) -> Manifest:
    async with AsyncExitStack() as stack:
        if options.embedded:
            config = await _embedded(options, stack)
        else:
            config = command.configuration(options)
        bus = await Bus.connect(config.nats_url, user=config.nats_user, password=config.nats_password, name="backup")
        stack.push_async_callback(bus.drain)
        blobs = Blobs.at(config.blobs)
        if options.what == "save":
            return await save(bus, blobs, list(config.teams), options.folder)
        folder, overwrite = options.folder, options.overwrite
        manifest = await restore(bus, blobs, folder, replicas=config.replicas, overwrite=overwrite)
        ledger = Ledger(bus, source="headrace/backup")
        tools = Tools(config, bus, ledger, blobs, Clock(), "backup", lambda: None)
        await rebuild.rebuild(tools)  # numbers and output: from the seals, and from what the streams hold
        return manifest


async def _embedded(options: argparse.Namespace, stack: AsyncExitStack) -> Configuration:
    state = options.embedded.absolute()
    if options.what == "save":
        try:
            return msgspec.json.decode((state / "run" / "config.json").read_bytes(), type=Configuration)
        except FileNotFoundError:
            raise BackupError(f"no stack has run in {state}") from None
    stack.callback(os.close, _lock(state))
    plan = embedded.prepare(state, gpus=0, split=False)
    end_leftovers(state / "run" / "children.json")
    await stack.enter_async_context(_nats(plan))
    return plan.config


def _lock(state: Path) -> int:
    """The lock of a stack, so that none runs meanwhile. Raises BackupError if one does."""
    state.mkdir(parents=True, exist_ok=True)
    lock = os.open(state / "embedded.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise BackupError(f"a stack runs in {state}: headrace down first") from None
    return lock


@asynccontextmanager
async def _nats(plan: embedded.Plan) -> AsyncIterator[None]:
    """The NATS server of an embedded stack that is down, while inside."""
    child = embedded.nats_child(plan)
    process = await asyncio.create_subprocess_exec(*child.command, stdout=DEVNULL, stderr=DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


if __name__ == "__main__":
    sys.exit(main())
