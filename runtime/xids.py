"""What an Xid means: whether the program did it, or the GPU is broken. Pure.

An Xid is a number by which NVIDIA's driver reports an error of a GPU. The numbers, and what each means, are
from NVIDIA's "Xid Errors", chapters "Analyzing Xid Errors with the Xid Catalog" and "Common Xid Errors"; which of them
are the program's is decided in docs/decisions/a-broken-gpu-costs-no-try.md. docs/concepts/gpu-health.md has this table.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple


class Blame(Enum):
    PROGRAM = "the program"
    """Nothing is done, and who held the GPU reads of it if he fails."""
    HARDWARE = "the hardware"
    """The GPU is out of use, and who holds it is stopped and waits again."""
    WORN = "the hardware, for later"
    """Nobody comes after who holds it: it works on, and wants a reset."""
    UNKNOWN = "not known"
    """As with the program's, and the runner's log has it."""


class Xid(NamedTuple):
    blame: Blame
    what: str
    """For a person."""


TABLE: Final[dict[int, Xid]] = {
    13: Xid(Blame.PROGRAM, "a kernel of the program failed, such as by an index out of bounds"),
    31: Xid(Blame.PROGRAM, "memory page fault of the program"),
    43: Xid(Blame.PROGRAM, "the program did something for which the GPU stopped its work"),
    45: Xid(Blame.PROGRAM, "the work of the program was cleared away, as after an earlier error or a kill"),
    68: Xid(Blame.PROGRAM, "the video decoder failed on what the program gave it"),
    109: Xid(Blame.PROGRAM, "the program's work could not be switched away in time"),
    46: Xid(Blame.HARDWARE, "the GPU stopped processing"),
    48: Xid(Blame.HARDWARE, "double-bit ECC error"),
    54: Xid(Blame.HARDWARE, "its auxiliary power is not connected"),
    61: Xid(Blame.HARDWARE, "its microcontroller broke off"),
    62: Xid(Blame.HARDWARE, "its microcontroller halted"),
    63: Xid(Blame.WORN, "a memory row is to be remapped, or a page retired"),
    64: Xid(Blame.HARDWARE, "a memory row could not be remapped, or a page not retired"),
    74: Xid(Blame.HARDWARE, "NVLink error"),
    79: Xid(Blame.HARDWARE, "the GPU has fallen off the bus"),
    92: Xid(Blame.WORN, "many single-bit ECC errors"),
    94: Xid(Blame.HARDWARE, "memory error that was contained"),
    95: Xid(Blame.HARDWARE, "memory error that was not contained"),
    110: Xid(Blame.HARDWARE, "security fault"),
    119: Xid(Blame.HARDWARE, "its system processor does not answer"),
    120: Xid(Blame.HARDWARE, "its system processor failed"),
    136: Xid(Blame.HARDWARE, "an NVLink could not be trained"),
    140: Xid(Blame.HARDWARE, "ECC error that was not recovered"),
    143: Xid(Blame.HARDWARE, "the GPU could not be initialised"),
}


def meaning(xid: int) -> Xid:
    return TABLE.get(xid, Xid(Blame.UNKNOWN, ""))


def sign(xid: int) -> str:
    """`Xid 79`."""
    return f"Xid {xid}"


def words(xid: int) -> str:
    """`Xid 79 (the GPU has fallen off the bus)`."""
    what = meaning(xid).what
    return f"{sign(xid)} ({what})" if what else sign(xid)
