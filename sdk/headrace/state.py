"""Where the laptop keeps its state, and which server it talks to.

The state folder is `--state`, else `HEADRACE_STATE`, else `$XDG_STATE_HOME/headrace`, else `~/.local/state/headrace`.
The server is `HEADRACE_URL` with `HEADRACE_TOKEN`, else the embedded stack whose `stack.json` lies in the state folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.errors import HeadraceError, UsageError

STACK_FILE = "stack.json"
STARTING_FILE = "starting.ndjson"
STACK_BYTES_MAX = 65_536
"""A stack file is some hundred bytes: what is longer is something else."""


@dataclass(frozen=True)
class Endpoint:
    """A gateway, and the token that it knows us by."""

    url: str
    token: str = ""
    origin: str = ""
    """Where we know it from, for people: `HEADRACE_URL`, or the path of a stack file."""


@dataclass(frozen=True)
class Stack:
    """An embedded stack as its own `stack.json` describes it."""

    url: str
    token: str
    pid: int
    started_at: float
    raw: Mapping[str, Any]


def folder(explicit: str | os.PathLike[str] | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """The state folder, absolute. It need not exist."""
    named = os.fspath(explicit) if explicit is not None else environ.get("HEADRACE_STATE", "")
    if named:
        return Path(named).expanduser().absolute()
    base = environ.get("XDG_STATE_HOME", "")
    if base and Path(base).is_absolute():  # the XDG specification: a relative path is to be ignored
        return Path(base) / "headrace"
    return Path.home() / ".local" / "state" / "headrace"


def prepare(state: Path) -> Path:
    """Makes the state folder, for this user alone, and marks it as no source: it may lie within a project."""
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        ignore = state / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")
    except OSError as error:
        raise HeadraceError(f"{state}: {error.strerror}", "--state names another folder") from error
    return state


def remote(environ: Mapping[str, str] = os.environ) -> Endpoint | None:
    """The server that the environment names, if it names one."""
    url = environ.get("HEADRACE_URL", "").rstrip("/")
    if not url:
        return None
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"HEADRACE_URL: {url!r} is no address", "it starts with http:// or https://")
    return Endpoint(url, environ.get("HEADRACE_TOKEN", ""), "HEADRACE_URL")


def stack(state: Path) -> Stack | None:
    """The embedded stack of this folder; None if there is no stack file. It may have died since it was written."""
    file = state / STACK_FILE
    try:
        with file.open("rb") as handle:
            raw = json.loads(handle.read(STACK_BYTES_MAX))
        return Stack(str(raw["url"]).rstrip("/"), str(raw["token"]), int(raw["pid"]), float(raw["started_at"]), raw)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HeadraceError(f"{file}: {error.strerror}", "is it your folder? --state names another one") from error
    except (ValueError, KeyError, TypeError) as error:
        raise HeadraceError(f"{file} is damaged: {error}", "headrace down, then headrace up, writes it anew") from error


def endpoint(state: Path, environ: Mapping[str, str] = os.environ) -> Endpoint | None:
    """The server to talk to, as far as is known without asking anybody."""
    named = remote(environ)
    if named is not None:
        return named
    here = stack(state)
    return Endpoint(here.url, here.token, str(state / STACK_FILE)) if here else None
