"""The token that lets one attempt, and nothing else, write its metrics at the OTLP door.

`base64url(JSON of the attempt) . base64url(HMAC-SHA256 of the former)`, keyed with the installation's secret. Runners
mint it into the environment of each attempt, monitoring checks it. Nothing is stored, so nothing has to be cleaned up;
a token is worth as much as its attempt: points of a finished attempt are refused elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

import msgspec

from events.messages import AttemptRef

TOKEN_CHARACTERS_MAX: Final = 2048
"""A longer one is nobody's: it is refused before anything is computed."""


def mint(secret: bytes, ref: AttemptRef) -> str:
    """The token of an attempt. Raises ValueError without a secret: anybody could make such a token."""
    if not secret:
        raise ValueError("otlp_secret: is empty; set it to at least 16 random bytes")
    payload = _encode(msgspec.json.encode(ref))
    return f"{payload}.{_encode(_seal(secret, payload))}"


def check(secret: bytes, token: str) -> AttemptRef | None:
    """Whose token this is; None if nobody's. Never raises: a stranger may send anything."""
    if not secret or len(token) > TOKEN_CHARACTERS_MAX:
        return None
    payload, _, seal = token.partition(".")
    try:
        if not hmac.compare_digest(_decode(seal), _seal(secret, payload)):
            return None
        return msgspec.json.decode(_decode(payload), type=AttemptRef)
    except (binascii.Error, UnicodeEncodeError, ValueError, msgspec.MsgspecError):
        return None


def _seal(secret: bytes, payload: str) -> bytes:
    return hmac.new(secret, payload.encode(), hashlib.sha256).digest()


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
