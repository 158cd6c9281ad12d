"""Run by the *user's* interpreter, not by ours: says what is installed there, as one JSON object on stdout.

Nothing of Headrace is there, and the Python may be older than ours (3.8 on), so this file stands alone. It is handed to
`python -c`; the first lines take the working folder off the path before anything is imported from it.
"""

from __future__ import annotations

import sys

if sys.path and sys.path[0] == "":
    del sys.path[0]

import json
import os
import typing
from importlib import metadata

SUFFIXES = (".py", ".so", ".pyd")


def modules_of(distribution: metadata.Distribution) -> set[str]:
    """Dotted names of all modules that a distribution installed, from its RECORD, or else its top_level.txt."""
    record = distribution.read_text("RECORD") or distribution.read_text("installed-files.txt") or ""
    found: set[str] = set()
    for line in record.splitlines():
        path = line.split(",", 1)[0].strip('"').replace("\\", "/")
        if path.endswith(SUFFIXES) and not path.startswith("."):
            parts = path.split("/")
            parts[-1] = parts[-1].split(".", 1)[0]
            if parts[-1] == "__init__":
                parts.pop()
            if parts and all(part.isidentifier() for part in parts):
                found.add(".".join(parts))
    if not found:
        found.update((distribution.read_text("top_level.txt") or "").split())
    return found


def origin_of(distribution: metadata.Distribution) -> dict[str, object] | None:
    """Where a distribution came from if not from an index: {"url", "editable", "vcs"}."""
    direct = distribution.read_text("direct_url.json")
    if direct:
        content = json.loads(direct)
        editable = bool(content.get("dir_info", {}).get("editable"))
        return {"url": content.get("url", ""), "editable": editable, "vcs": "vcs_info" in content}
    place = str(getattr(distribution, "_path", ""))
    if place.endswith(".egg-info") and "-packages" not in place:  # `setup.py develop`: metadata beside the code
        return {"url": "file://" + os.path.dirname(os.path.abspath(place)), "editable": True, "vcs": False}
    return None


def describe() -> dict[str, object]:
    """Everything about this interpreter that decides what a job needs."""
    distributions: dict[str, dict[str, typing.Any]] = {}
    owned: dict[str, dict[str, list[str]]] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if not name or name.lower() in distributions:
            continue  # broken, or shadowed by an earlier entry of the path
        modules = modules_of(distribution)
        scripts = {e.name: e.value for e in distribution.entry_points if e.group == "console_scripts"}
        distributions[name.lower()] = {
            "name": name,
            "version": distribution.version,
            "tops": sorted({module.split(".", 1)[0] for module in modules}),
            "modules": [],
            "scripts": scripts,
            "origin": origin_of(distribution),
        }
        for module in modules:
            owned.setdefault(module.split(".", 1)[0], {}).setdefault(name.lower(), []).append(module)
    for owners in owned.values():
        if len(owners) > 1:  # a namespace, or two distributions of one thing: only the whole names tell them apart
            for name, shared in owners.items():
                distributions[name]["modules"].extend(sorted(shared))
    folders = [path for path in sys.path if os.path.isdir(path)]
    return {
        "version": list(sys.version_info[:3]),
        "executable": sys.executable,
        "stdlib": sorted(getattr(sys, "stdlib_module_names", ()) or sys.builtin_module_names),
        "distributions": list(distributions.values()),
        "stamps": {path: os.stat(path).st_mtime_ns for path in [sys.executable, *folders]},
    }


if __name__ == "__main__":
    print(json.dumps(describe()))
