"""Writes `charts/headrace/README.md` from the comments of `values.yaml`: `python scripts/chart_readme.py`.

`# --` before a value begins what is said of it; lines of comment behind it belong to that. A value without a comment is
in the table as well, with its default.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parent.parent / "charts" / "headrace"
KEY = re.compile(r"^( *)([A-Za-z]\w*):( .*)?$")
WHOLE = {"nats", "config"}
"""Shown as one row: what is below is not ours, or is told elsewhere."""

HEAD = """# The chart of Headrace

Made from `Chart.yaml` and `values.yaml` by `python scripts/chart_readme.py`. How to install it, what it makes and what
it needs: [docs/kubernetes.md](../../docs/kubernetes.md).

Version {version}, for Kubernetes {kubernetes}; NATS by its official chart, {nats}.

| value | default | |
| --- | --- | --- |
"""


def rows(text: str, values: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """(path, default, what is said of it) of each value."""
    path: list[tuple[int, str]] = []
    said: list[str] = []
    whole = -1
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            said = [stripped[5:]]
        elif stripped.startswith("#") and said:
            said.append(stripped.lstrip("# "))
        elif match := KEY.match(line):
            depth = len(match[1])
            while path and path[-1][0] >= depth:
                path.pop()
            if whole >= 0 and depth > whole:
                continue
            whole = -1
            path.append((depth, match[2]))
            names = [name for _, name in path]
            value = _at(values, names)
            is_whole = bool(said) or match[2] in WHOLE
            if is_whole or not isinstance(value, dict) or match[3]:
                yield ".".join(names), value, " ".join(said)
            if is_whole and isinstance(value, dict):
                whole = depth
            said = []


def _at(values: Any, names: list[str]) -> Any:
    for name in names:
        values = values[name]
    return values


def page() -> str:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    text = (CHART / "values.yaml").read_text()
    head = HEAD.format(
        version=chart["version"], kubernetes=chart["kubeVersion"], nats=chart["dependencies"][0]["version"]
    )
    lines = []
    for name, default, said in rows(text, yaml.safe_load(text)):
        shown = "see `values.yaml`" if name == "nats" else f"`{json.dumps(default)}`"
        lines.append(f"| `{name}` | {shown} | {said.replace('|', chr(92) + '|')} |\n")
    return head + "".join(lines)


if __name__ == "__main__":
    (CHART / "README.md").write_text(page())
    print(f"written: {CHART / 'README.md'}", file=sys.stderr)
