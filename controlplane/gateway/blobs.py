"""`/v1/blobs`: up and down, each under its digest, which is verified. A digest is the key: who knows it may read it."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any, Final

import msgspec
from litestar import Request, Response, get, head, post, put
from litestar.params import FromPath

from controlplane.config import Identity
from controlplane.gateway.context import Here
from controlplane.gateway.contract import MissingBlobs, MissingOperation, UploadOperation
from controlplane.gateway.failures import Failure
from events import messages as m
from events.blobs import BlobMissing, is_digest
from events.wire import UNREADABLE

BLOB_BYTES_MAX: Final = 64 * 1024**2
"""Of one upload. Parts of a source are far smaller; it is its manifest that may grow."""
ASKED_MAX: Final = 50_000
ASKED_BYTES_MAX: Final = 8 * 1024**2
LOOKING_MAX: Final = 32
_MEDIA: Final = "application/octet-stream"


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    missing: list[str]


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    bytes: int


@post("/v1/blobs/missing", status_code=200, request_max_body_size=ASKED_BYTES_MAX, operation_class=MissingOperation)
async def missing(gateway: Here, request: Request[Identity, Any, Any]) -> Missing:
    """Which of these blobs are not there yet, in the order of the question."""
    try:
        data = msgspec.json.decode(await request.body(), type=MissingBlobs)
    except UNREADABLE as error:
        raise Failure(400, f"the body cannot be read: {error}", 'such as {"digests": ["sha256:…"]}') from error
    if len(data.digests) > ASKED_MAX:
        raise Failure(413, f"{len(data.digests)} digests; at most {ASKED_MAX} are possible", "ask in parts")
    wrong = tuple(
        m.Problem(path=f"$.digests[{index}]", message="is not a digest", hint="`sha256:` and 64 hexadecimal digits")
        for index, digest in enumerate(data.digests)
        if not is_digest(digest)
    )
    if wrong:
        raise Failure(422, "some digests are none", "`sha256:` and 64 hexadecimal digits in lower case", wrong[:50])
    slots = asyncio.Semaphore(LOOKING_MAX)

    async def is_there(digest: str) -> bool:
        async with slots:
            return await gateway.tools.blobs.has(digest)

    asked = list(dict.fromkeys(data.digests))
    there = await asyncio.gather(*map(is_there, asked))
    return Missing(missing=[digest for digest, known in zip(asked, there, strict=True) if not known])


@put("/v1/blobs/{digest:str}", status_code=201, request_max_body_size=BLOB_BYTES_MAX, operation_class=UploadOperation)
async def upload(gateway: Here, request: Request[Identity, Any, Any], digest: FromPath[str]) -> Stored:
    """Keep a blob. 422 if the body does not have this digest: then nothing is kept."""
    _check(digest)
    async with gateway.uploads:
        content, sha = bytearray(), hashlib.sha256()
        async for part in request.stream():
            sha.update(part)
            content += part
        actual = f"sha256:{sha.hexdigest()}"
        if actual != digest:
            problem = m.Problem(
                path="$", message=f"the body has the digest {actual}", hint="was it cut off or changed?"
            )
            raise Failure(422, f"the body does not have the digest {digest}", problem.message, (problem,))
        await gateway.tools.blobs.put(bytes(content))
    return Stored(digest=digest, bytes=len(content))


@get("/v1/blobs/{digest:str}", media_type=_MEDIA)
async def download(gateway: Here, digest: FromPath[str]) -> Response[bytes]:
    """The bytes of a blob, verified."""
    _check(digest)
    return Response(await gateway.tools.blobs.get(digest), media_type=_MEDIA)


@head("/v1/blobs/{digest:str}")
async def is_there(gateway: Here, digest: FromPath[str]) -> None:
    """200 if it is there, 404 if not."""
    _check(digest)
    if not await gateway.tools.blobs.has(digest):
        raise BlobMissing(f"no blob {digest}")


def _check(digest: str) -> None:
    if not is_digest(digest):
        raise Failure(422, f"`{digest[:80]}` is not a digest", "`sha256:` and 64 hexadecimal digits in lower case")
