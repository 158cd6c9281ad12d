"""How the things of Headrace get their ids: by hashing what they are, so that everybody who computes one agrees."""

from __future__ import annotations

import base64
import hashlib
import re

import msgspec

from events.messages import EnvironmentRequest

JOB_ID_CHARACTERS = 12
"""Of base 32: 60 bits. Two of a million jobs of one team share an id with a probability of one in two million."""
PACKED_BYTES = 8
_JOB_ID = re.compile(r"j-[a-z2-7]{12}")
_BYTES = 10
"""Of the hash: what the characters are made of, and some more, so that base 32 needs no padding."""


def job_id(*, team: str, user: str, client_id: str) -> str:
    """The id of the job that this client means by `client_id`: the same for ever, another one for any other client."""
    text = "\x1f".join((team, user, client_id)).encode()
    return "j-" + base64.b32encode(hashlib.sha256(text).digest()[:_BYTES]).decode().lower()[:JOB_ID_CHARACTERS]


def task_id(array: str, index: int) -> str:
    """The id of a task of an array: it follows from both, so that a task needs no fact before it is placed."""
    text = "\x1f".join(("task", array, str(index))).encode()
    return "j-" + base64.b32encode(hashlib.sha256(text).digest()[:_BYTES]).decode().lower()[:JOB_ID_CHARACTERS]


def pack(job: str) -> bytes:
    """The id of a job in 8 bytes, as the archive lists them. Raises ValueError for what `job_id` never gave."""
    if not _JOB_ID.fullmatch(job):
        raise ValueError(f"{job[:40]!r} is not the id of a job")
    number = int.from_bytes(base64.b32decode(job[2:].upper() + "AAAA"), "big") >> 20
    return number.to_bytes(PACKED_BYTES, "big")


def unpack(packed: bytes) -> str:
    """The id that `pack` made these 8 bytes from."""
    whole = (int.from_bytes(packed, "big") << 20).to_bytes(_BYTES, "big")
    return "j-" + base64.b32encode(whole).decode().lower()[:JOB_ID_CHARACTERS]


def digest(content: bytes) -> str:
    """`sha256:<hex>` of some bytes: how blobs, locks and sources are named."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def environment_digest(request: EnvironmentRequest) -> str:
    """Digest of an environment request, whatever the order in which its roots and preferences were listed."""
    canonical = {
        "python": request.python,
        "platform": request.platform,
        "roots": sorted(set(request.roots)),
        "preferences": sorted(set(request.preferences)),
    }
    return digest(msgspec.json.encode(canonical, order="sorted"))
