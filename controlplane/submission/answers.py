"""How whoever asked hears what became of his request."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import msgspec

from events import logs, subjects
from events import messages as m
from events.bus import AskRefused, Bus, Retry

LOG: Final = logging.getLogger("headrace.submission")


async def tell(bus: Bus, team: str, user: str, headers: Mapping[str, str], answer: m.Answer) -> None:
    """Answer where the client asked for it. It is durable by now, so an answer that gets lost is only silence."""
    token = next((value for name, value in headers.items() if name.lower() == "hr-answer"), "")
    if not token:
        return
    try:
        subject = subjects.answer(team, user, token)
    except ValueError as error:
        LOG.info("no answer: hr-answer cannot be used: %s", error, extra={"job": answer.job})
        return
    await bus.send(subject, msgspec.json.encode(answer), {"content-type": "application/json"})


def note(answer: m.Answer) -> m.Answer:
    """What became of a request that has an id stands in the log, so that it can be followed from service to service."""
    if logs.request_id():
        LOG.info(answer.verdict, extra={"job": answer.job})
    return answer


def later(error: Retry) -> AskRefused:
    """To who asks: not now, and when."""
    hint = f"try again in {error.after_s:.0f} s" if error.after_s > 1 else "try again in a moment"
    return AskRefused(m.Refusal(status=503, message=str(error), hint=hint, retry_after_s=error.after_s))
