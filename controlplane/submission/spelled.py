"""Who asks, and about what, as the subject of a request says."""

from __future__ import annotations

from events import messages as m
from events import subjects
from events.bus import AskRefused, Poison


def names_in(subject: str) -> list[str]:
    """The names in a subject, behind `hr.v1`. Raises Poison for one that no correct client makes."""
    try:
        names = subjects.tokens(subject)
        spelled = ".".join((subjects.ROOT, *map(subjects.encode, names)))
    except ValueError as error:
        raise Poison(f"{subject}: not spelled as a subject of ours: {error}") from error
    if spelled != subject:
        raise Poison(f"{subject}: would be spelled {spelled}")
    return names


def names_asked(subject: str) -> list[str]:
    """The same of a question, behind `hr.v1.ask.submission`. Raises AskRefused."""
    try:
        return names_in(subject)[2:]
    except Poison as error:
        hint = "encode names as the contract says"
        raise AskRefused(m.Refusal(status=400, message=error.reason, hint=hint)) from error
