"""Headrace in a training script: `headrace.log(step=3, loss=0.25)`, `headrace.checkpointed()`.

Standard library only, no thread, no socket, imported in a few milliseconds. What submits jobs (`headrace.submit`) is
imported when it is first used. Never here: anything of the server.
"""

from __future__ import annotations

from headrace.checkpoints import checkpointed
from headrace.metrics import log

TYPE_CHECKING = False  # importing `typing` would take longer than all the rest
if TYPE_CHECKING:
    from typing import Any

    from headrace.jobs import submit

__version__ = "0.1.0"
__all__ = ["checkpointed", "log", "submit"]


def __getattr__(name: str) -> Any:
    """Import what a training script does not need only when somebody asks for it."""
    if name == "submit":
        from headrace.jobs import submit  # no module of ours is called `submit`: it would take the function's place

        return submit
    raise AttributeError(f"module 'headrace' has no attribute {name!r}")
