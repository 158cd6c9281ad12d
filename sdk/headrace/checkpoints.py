"""`headrace.checkpointed()`: the job says that it has saved its work. Standard library only."""

from __future__ import annotations

import os

FILE = "checkpointed"
"""In the spool folder; the time of its last change counts."""


def checkpointed() -> None:
    """Say that everything up to now is saved: call it right after a checkpoint is written.

    If Headrace has to stop one of several preemptible jobs, it takes the one that loses least: its GPUs times the time
    since it last said so. Outside Headrace, and where the disk is full, it does nothing.
    """
    folder = os.environ.get("HEADRACE_SPOOL")
    if not folder:
        return
    path = os.path.join(folder, FILE)
    try:
        os.utime(path)
    except FileNotFoundError:
        try:
            os.makedirs(folder, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        except OSError:
            return
    except OSError:
        return
