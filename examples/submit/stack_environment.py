"""Print shell lines that set where the embedded stack is: `eval "$(python3 stack_environment.py)"`."""

import json
import os
import shlex
from pathlib import Path

base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
state = Path(os.environ.get("HEADRACE_STATE") or base / "headrace")
stack = json.loads((state / "stack.json").read_text())
names = {"URL": "url", "TOKEN": "token", "NATS_URL": "nats", "NATS_USER": "nats_user", "NATS_PASSWORD": "nats_password"}
for name, key in names.items():
    print(f"export HEADRACE_{name}={shlex.quote(stack[key])}")
