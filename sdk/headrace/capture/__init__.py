"""What a job needs from the laptop: the source it runs, and the packages that this source uses.

Lives here: listing and hashing a tree (`source`), and finding the requirements of an entrypoint (`environment`).
Standard library only, on macOS, Linux and Windows. Never here: uploading, printing, anything of the server.
"""

from headrace.capture.errors import CaptureError, CaptureWarning, SourceChanged, TreeTooLarge
from headrace.capture.packages import Captured, environment
from headrace.capture.snapshot import Source, Summary, source

__all__ = [
    "CaptureError",
    "CaptureWarning",
    "Captured",
    "Source",
    "SourceChanged",
    "Summary",
    "TreeTooLarge",
    "environment",
    "source",
]
