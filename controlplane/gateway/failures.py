"""Every failure as one form of JSON with a right status: `{"error": {"message", "hint", "problems"}}`. No tracebacks.

HTTPException (Litestar's)   its own status
Failure                      raised here: status, message, hint
AskRefused                   a service said no: its status
NoAnswer, BusError           503: nobody answers, or the store does not take it
BlobError                    404 where there is none, else 503
anything else                500, and the log has the story
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Final

from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from events import messages as m
from events.asking import MOMENT_S, again_s
from events.blobs import BlobDamaged, BlobError, BlobMissing
from events.bus import AskRefused, BusError, NoAnswer

LOG: Final = logging.getLogger("headrace.gateway")

AGAIN: Final = "try again in a moment"
AGAIN_LATER: Final = "try again in half a minute; an operator can make room"
_WORDS: Final = {
    404: ("there is nothing at this address", "GET /openapi.json lists what there is"),
    405: ("this address does not take this method", "GET /openapi.json lists what there is"),
    413: ("the body is too large", ""),
}


class Failure(Exception):
    """A request that cannot be served, with the status and the words for it."""

    def __init__(self, status: int, message: str, hint: str = "", problems: tuple[m.Problem, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.hint = hint
        self.problems = problems


def body(message: str, hint: str = "", problems: tuple[m.Problem, ...] = ()) -> dict[str, Any]:
    """The one form of a failure."""
    return {"error": {"message": message, "hint": hint, "problems": problems}}


def _response(
    status: int, message: str, hint: str = "", problems: tuple[m.Problem, ...] = (), *, retry_after_s: float = 0.0
) -> Response[Any]:
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    if status in (429, 503, 504, 507):
        headers["retry-after"] = str(math.ceil(retry_after_s or MOMENT_S))
    return Response(body(message, hint, problems), status_code=status, media_type="application/json", headers=headers)


def _on_http(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    status = error.status_code
    if status >= 500:
        return _on_unexpected(request, error)
    extra = error.extra if isinstance(error.extra, Mapping) else {}
    message, hint = _WORDS.get(status, (error.detail, str(extra.get("hint", ""))))
    problems = tuple(
        m.Problem(path=f"$.{each.get('key', '')}", message=str(each.get("message", "")))
        for each in (error.extra if isinstance(error.extra, list) else ())
        if isinstance(each, Mapping)
    )
    if problems:
        message = "the query cannot be read"
    return _response(status, message, hint, problems)


def _on_failure(_: Request[Any, Any, Any], error: Failure) -> Response[Any]:
    return _response(error.status, error.message, error.hint, error.problems)


def _on_refused(_: Request[Any, Any, Any], error: AskRefused) -> Response[Any]:
    refusal = error.refusal
    status = refusal.status if 400 <= refusal.status <= 599 else 503
    return _response(status, refusal.message, refusal.hint, retry_after_s=refusal.retry_after_s)


def _on_no_answer(_: Request[Any, Any, Any], error: NoAnswer) -> Response[Any]:
    LOG.warning("no answer: %s", error)
    return _response(503, "the service that knows does not answer", AGAIN)


def _on_bus(_: Request[Any, Any, Any], error: BusError) -> Response[Any]:
    LOG.warning("the bus: %s", error)
    retry_after_s = again_s(error)
    if retry_after_s > MOMENT_S:
        return _response(503, "there is no room in the store", AGAIN_LATER, retry_after_s=retry_after_s)
    return _response(503, "the bus does not take it now", AGAIN)


def _on_blob(_: Request[Any, Any, Any], error: BlobError) -> Response[Any]:
    if isinstance(error, BlobMissing):
        return _response(404, "no such blob", "upload it first")
    LOG.warning("the blob store: %s", error)
    if isinstance(error, BlobDamaged):
        return _response(502, "the blob is damaged in the store", "upload it again")
    return _response(503, "the blob store does not answer as it should", AGAIN)


def _on_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _response(500, "the gateway failed to answer", "the log of the gateway says why")


HANDLERS: Final[ExceptionHandlersMap] = {
    HTTPException: _on_http,
    Failure: _on_failure,
    AskRefused: _on_refused,
    NoAnswer: _on_no_answer,
    BusError: _on_bus,
    BlobError: _on_blob,
    Exception: _on_unexpected,
}
