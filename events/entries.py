"""A fact as it stands in the ledger. Pure: what decides reads entries and knows no bus."""

from __future__ import annotations

from typing import NamedTuple

from events.messages import Fact


class Entry(NamedTuple):
    """A fact in the ledger. `at` is the ledger's own timestamp, in seconds since the epoch."""

    sequence: int
    subject: str
    fact: Fact
    at: float
    traceparent: str = ""
