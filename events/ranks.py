"""How what the nodes of a gang write is kept apart: all of it is of one attempt. Pure.

Rank 0 writes under the names that any attempt has, so that it is what a reader sees who asks for no rank.
"""

from __future__ import annotations

from typing import Final

from events.messages import Launch

RANK_MAX: Final = 65_535


def of(launch: Launch) -> int:
    """The rank of a part of a gang; of anything else 0."""
    return launch.gang.rank if launch.gang is not None else 0


def stream(name: str, rank: int) -> str:
    """What an output stream is called: `stdout`; of rank 3 `stdout-3`."""
    return f"{name}-{rank}" if rank else name


def spool(file: str, rank: int) -> str:
    """What a spool is called: as its file; of rank 3 `3:<file>`, since file names repeat from node to node."""
    return f"{rank}:{file}" if rank else file


def read_stream(text: str) -> tuple[str, int] | None:
    """Name and rank of a stream; None: it is called like none."""
    name, dash, rank = text.partition("-")
    if not dash:
        return name, 0
    return (name, int(rank)) if _is_rank(rank) else None


def rank_of_spool(text: str) -> int:
    """The rank whose spool is called so."""
    rank, colon, _ = text.partition(":")
    return int(rank) if colon and _is_rank(rank) else 0


def _is_rank(text: str) -> bool:
    """Whether it is written as one is: other spellings of a number would be other streams."""
    return (
        text.isascii() and text.isdecimal() and len(text) <= 5 and str(int(text)) == text and 0 < int(text) <= RANK_MAX
    )
