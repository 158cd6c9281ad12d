"""What can go wrong on the laptop's side, and what to do about it.

HeadraceError              message, hint
├── UsageError             the call itself makes no sense
├── NoServer               no server is known, and none could be started
├── StartFailed            the embedded stack did not come up
├── ServerUnreachable      nobody answers at that address (any more)
└── Refused                the server answered, and said no: `status`
    ├── Unauthorized       401: the token is unknown
    ├── Forbidden          403: known, but not allowed
    ├── NotFound           404
    ├── Rejected           422: `problems`, one a field
    └── ServerFault        5xx: not the caller's fault; worth another try later
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a request: the path of the field, what is wrong, and what to do."""

    path: str
    message: str
    hint: str = ""


class HeadraceError(Exception):
    """What happened (`message`) and what to do about it (`hint`, may be empty)."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(HeadraceError):
    """The call itself makes no sense: nothing was asked of any server."""


class NoServer(HeadraceError):
    """No server is known, and none could be started."""


class StartFailed(HeadraceError):
    """The embedded stack did not come up."""


class ServerUnreachable(HeadraceError):
    """Nobody answers at that address, or the answer broke off. What was asked may or may not have happened."""


class Refused(HeadraceError):
    """The server answered, and said no."""

    def __init__(self, message: str, hint: str = "", *, status: int = 0, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message, hint)
        self.status = status
        self.problems = tuple(problems)


class Unauthorized(Refused):
    """The token is missing or unknown."""


class Forbidden(Refused):
    """The token is known, and what was asked is not allowed to it."""


class NotFound(Refused):
    """There is no such job, node, blob or page."""


class Rejected(Refused):
    """The request has mistakes: `problems` names each with its field."""


class ServerFault(Refused):
    """The server could not do it. Not the caller's fault; worth another try later."""


_BY_STATUS: dict[int, type[Refused]] = {401: Unauthorized, 403: Forbidden, 404: NotFound, 422: Rejected}
_HINTS = {401: "check HEADRACE_TOKEN, or the token in stack.json", 404: "headrace jobs --all lists what there is"}


def refused(status: int, body: Any, *, what: str) -> Refused:
    """The error that an answer with this status and (decoded) body is. Takes any body: a proxy may have sent it."""
    told = body.get("error") if isinstance(body, Mapping) else None
    error = told if isinstance(told, Mapping) else {}
    kind = _BY_STATUS.get(status, ServerFault if status >= 500 else Refused)
    problems = [problem_of(item) for item in error.get("problems") or () if isinstance(item, Mapping)]
    message = str(error.get("message") or f"{what}: the server answered {status}")
    return kind(message, str(error.get("hint") or _HINTS.get(status, "")), status=status, problems=problems)


def problem_of(raw: Mapping[str, Any]) -> Problem:
    """A problem out of the server's JSON."""
    return Problem(str(raw.get("path", "")), str(raw.get("message", "")), str(raw.get("hint", "")))
