"""What can go wrong while a laptop is read.

CaptureError            says what, where, and (`hint`) what to do
├── TreeTooLarge        more bytes or files than a source may have
└── SourceChanged       a file is not any more what was captured: capture again
"""

from __future__ import annotations

from typing import NamedTuple

from headrace.errors import HeadraceError


class CaptureError(HeadraceError):
    """The capture cannot go on. `hint` says what the user can do about it."""


class TreeTooLarge(CaptureError):
    """The tree has more bytes or files than a source may have; the message names the largest."""


class SourceChanged(CaptureError):
    """A file changed between its capture and its upload. Capturing again is the way out."""


class CaptureWarning(NamedTuple):
    """Something that the job may miss, and what the user can do about it."""

    message: str
    hint: str = ""
