"""What forks and owns attempts imports the standard library only, and little of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
MODULES = ("bounds", "cgroups", "credentials", "exit_record", "launcher", "output", "processes", "supervisor")
OURS = {"runtime", *(f"runtime.{name}" for name in MODULES)}


def test_the_launcher_and_the_supervisor_import_the_standard_library_only() -> None:
    code = (
        f"import sys; sys.path.append({str(ROOT)!r}); import runtime.launcher, json; print(json.dumps([*sys.modules]))"
    )
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, check=True)
    loaded = set(json.loads(run.stdout))
    strangers = {name for name in loaded if name.split(".")[0] not in sys.stdlib_module_names} - {"__main__"}
    assert strangers == OURS
    assert not loaded & {"asyncio", "subprocess", "threading", "logging", "dataclasses", "hashlib"}
