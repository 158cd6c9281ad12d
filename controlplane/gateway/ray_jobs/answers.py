"""Failures as Ray's client wants them: one line of plain text for each, which it shows as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from litestar import Request, Response
from litestar.exceptions import NotAuthorizedException
from litestar.types import ExceptionHandlersMap

from controlplane.gateway import failures
from controlplane.gateway.auth import NO_TOKEN, WRONG_TOKEN, UnknownToken
from controlplane.gateway.failures import Failure
from controlplane.http import REFUSED
from events import messages as m


class Refusal(Failure):
    """What Ray answers with 500 although nothing is broken."""

    def __init__(self, message: str) -> None:
        super().__init__(500, message)


def text(error: dict[str, Any]) -> str:
    """A failure in words: its problems if it has some, each with its field and its hint."""
    problems: tuple[m.Problem, ...] = tuple(error["problems"]) or (
        m.Problem(path="", message=error["message"], hint=error["hint"]),
    )
    lines = []
    for problem in problems:
        place = f"{problem.path}: " if problem.path not in ("", "$") else ""
        lines.append(place + problem.message + (f"; {problem.hint}" if problem.hint else ""))
    return "\n".join(lines)


def _plain(handler: Callable[[Any, Any], Response[Any]]) -> Callable[[Any, Any], Response[Any]]:
    def handle(request: Request[Any, Any, Any], error: Any) -> Response[Any]:
        answer = handler(request, error)
        status, words = answer.status_code, text(answer.content["error"])
        return Response(words, status_code=status, media_type="text/plain", headers=answer.headers)

    return handle


def _on_no_token(_: Request[Any, Any, Any], error: NotAuthorizedException) -> Response[str]:
    return Response(NO_TOKEN, status_code=401, media_type="text/plain", headers={"www-authenticate": "Bearer"})


def _on_unknown_token(_: Request[Any, Any, Any], error: UnknownToken) -> Response[str]:
    return Response(WRONG_TOKEN, status_code=403, media_type="text/plain")


def _on_refusal(_: Request[Any, Any, Any], error: Refusal) -> Response[str]:
    return Response(error.message, status_code=500, media_type="text/plain", headers={REFUSED.decode(): "1"})


HANDLERS: Final[ExceptionHandlersMap] = {
    **{kind: _plain(handler) for kind, handler in failures.HANDLERS.items()},
    NotAuthorizedException: _on_no_token,
    UnknownToken: _on_unknown_token,
    Refusal: _on_refusal,
}
