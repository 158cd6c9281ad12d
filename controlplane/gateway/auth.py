"""Who calls: a bearer token stands for a user of a team, or an operator. What it may not see does not exist for it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Final

from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException, WebSocketException
from litestar.handlers import BaseRouteHandler
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult

from controlplane.config import Identity

TOKEN_CHARACTERS_MAX: Final = 4096
NO_TOKEN: Final = "Unauthorized: Missing authentication token"
METRICS: Final = "/metrics"
WRONG_TOKEN: Final = "Forbidden: Invalid authentication token"
"""In the words of Ray, whose client knows them."""


class UnknownToken(NotAuthorizedException):
    """There is a token, and nobody has it."""


class Authentication(AbstractAuthenticationMiddleware):
    """Refuses whoever brings no known token; hands on the Identity as `request.user`."""

    def __init__(self, app: Any, tokens: Mapping[str, Identity]) -> None:
        super().__init__(app, exclude_from_auth_key="public", exclude_http_methods=[])
        self._tokens = tokens

    async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        try:
            return AuthenticationResult(user=self._identity(connection), auth=None)
        except NotAuthorizedException as error:
            if connection.scope["type"] == ScopeType.HTTP:
                raise
            code, words = (4403, WRONG_TOKEN) if isinstance(error, UnknownToken) else (4401, NO_TOKEN)
            raise WebSocketException(detail=words, code=code) from error  # only Ray's client comes this way

    def _identity(self, connection: ASGIConnection[Any, Any, Any, Any]) -> Identity:
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise NotAuthorizedException("no token", extra={"hint": "send the header `Authorization: Bearer <token>`"})
        identity = whose(token.strip(), self._tokens)
        if identity is None:
            raise UnknownToken("the token is unknown", extra={"hint": "ask your operator for a token"})
        if identity.scrapes and (connection.scope["type"], connection.scope["path"]) != (ScopeType.HTTP, METRICS):
            raise UnknownToken("this token is for GET /metrics alone", extra={"hint": "ask your operator for a token"})
        return identity


def operators_only(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """A guard for what concerns all teams. Raises PermissionDeniedException."""
    if not connection.user.operator:
        raise PermissionDeniedException(
            "only operators may do this", extra={"hint": "`operator = true` beside the token in the configuration"}
        )


def whose(token: str, tokens: Mapping[str, Identity]) -> Identity | None:
    """Whose token this is. Compares with every known one, each in the same time, whichever it is."""
    if len(token) > TOKEN_CHARACTERS_MAX:
        return None
    found: Identity | None = None
    presented = hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
    for digest, identity in tokens.items():
        if hmac.compare_digest(presented, digest.lower()):
            found = identity
    return found
