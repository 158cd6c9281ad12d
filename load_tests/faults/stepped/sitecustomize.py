"""Python imports this at its start where this folder is on its path: a wall clock that the campaign can set.

The file that `HEADRACE_FAULTS_CLOCK` names holds by how many seconds it is wrong. (libfaketime would do for all
languages, but makes `time.sleep` fail with EINVAL after a step.) Clocks that count from boot are left alone.
"""

import contextlib
import os
import time
from pathlib import Path

_FILE = Path(os.environ["HEADRACE_FAULTS_CLOCK"])
_LOOK_S = 0.2
_right, _right_ns = time.time, time.time_ns
_looked_at, _wrong_by_s = 0.0, 0.0


def _wrong_by() -> float:
    global _looked_at, _wrong_by_s
    if time.monotonic() - _looked_at > _LOOK_S:
        _looked_at = time.monotonic()
        with contextlib.suppress(OSError, ValueError):  # being written, or gone with the world
            _wrong_by_s = float(_FILE.read_text())
    return _wrong_by_s


time.time = lambda: _right() + _wrong_by()
time.time_ns = lambda: _right_ns() + int(_wrong_by() * 1e9)
