"""`/api/packages/gcs/{name}`: the working folder of a job, as Ray's client packs and names it.

The name is a short hash that anybody can make for other content, so a package belongs to who sent it: the same name of
another user, of the same team or not, is another package. It is made a source as it comes, and has that one's digest.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import tempfile
from pathlib import PurePosixPath
from typing import IO, Any, Final

from litestar import Request, Response, get, put
from litestar.params import FromPath

from controlplane.config import Identity
from controlplane.gateway.context import Gateway, Here
from controlplane.gateway.contract import PackageOperation
from controlplane.gateway.failures import Failure
from controlplane.gateway.ray_jobs.mapping import PACKAGE
from controlplane.gateway.ray_jobs.unpack import LEAVE_OUT, BadPackage, Unpacking
from events.blobs import BlobMissing, is_digest

PACKAGE_BYTES_MAX: Final = 500 * 1024**2
"""Packed; Ray's own client refuses to send more than 512 MiB."""
IN_MEMORY_BYTES: Final = 8 * 1024**2
"""A larger package lies on disk while it is read."""

Caller = Request[Identity, Any, Any]


@get("/packages/{protocol:str}/{name:str}", status_code=200)
async def has_package(gateway: Here, request: Caller, protocol: FromPath[str], name: FromPath[str]) -> Response[None]:
    """200 if this package of the caller's is there, 404 if not."""
    _check_name(protocol, name)
    if await source_of(gateway, request.user, name) is None:
        raise Failure(404, f"Package {protocol}://{name} does not exist")
    return Response(None)


@put(
    "/packages/{protocol:str}/{name:str}",
    status_code=200,
    request_max_body_size=PACKAGE_BYTES_MAX,
    operation_class=PackageOperation,
)
async def upload_package(
    gateway: Here, request: Caller, protocol: FromPath[str], name: FromPath[str]
) -> Response[None]:
    """Keep a package of the caller's, under this name and as a source. 400 if it cannot be one."""
    _check_name(protocol, name)
    async with gateway.uploads:
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as package:
            try:
                async for part in request.stream():
                    package.write(part)
                async with gateway.unpackings:
                    digest = await _source(gateway, package)
            except BadPackage as error:
                raise Failure(400, f"package {name} {error.message}", error.hint) from error
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise Failure(503, "there is no room to read the package", LEAVE_OUT) from error
    await gateway.tools.blobs.write(_place(request.user, name), digest.encode())
    return Response(None, headers={"hr-source": digest})


async def source_of(gateway: Gateway, caller: Identity, name: str) -> str | None:
    """The digest of a caller's package; None if he has none of this name."""
    try:
        digest = (await gateway.tools.blobs.read(_place(caller, name))).decode("ascii", "replace")
    except BlobMissing:
        return None
    return digest if is_digest(digest) else None


async def _source(gateway: Gateway, package: IO[bytes]) -> str:
    """Keep a package as a source; gives its digest. Raises BadPackage."""
    unpacking = await asyncio.to_thread(Unpacking, package, bytes_max=gateway.tools.config.source_bytes_max)
    chunks = unpacking.chunks()
    while chunk := await asyncio.to_thread(next, chunks, b""):
        await gateway.tools.blobs.put(chunk)
    return await gateway.tools.blobs.put(unpacking.manifest)


def _check_name(protocol: str, name: str) -> None:
    if protocol != "gcs" or not PACKAGE.fullmatch(name):
        hint = f"working folders as Ray's client packs them; `{PurePosixPath(name).suffix[:20]}` is none"
        raise Failure(400, f"Package {protocol[:20]}://{name[:80]} is not possible here", hint)


def _place(caller: Identity, name: str) -> str:
    """Where it is written which source a package is."""
    owner = hashlib.sha256(f"{caller.team}\x1f{caller.user}".encode()).hexdigest()
    return f"ray_jobs/packages/{owner}/{name}"
