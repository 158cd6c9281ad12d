"""A submit in Ray's words as one in ours: `TABLE` has a row for each field that Ray's client may send. Pure.

What Headrace cannot give is refused by the name of its field and with a hint, never dropped in silence: a job that runs
without its container does something else than was asked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from events import messages as m
from events.wire import UNREADABLE

SHELL: Final = ("/bin/sh", "-c")
BEFORE: Final = "exec 2>&1; "
"""What the shell does first: Ray keeps both streams of a job in one file, in the order in which they were written."""
OURS: Final = "headrace."
"""Keys of the metadata that begin so choose what Ray has no word for."""
CHOSEN: Final = ("tier", "queue", "python", "kind")
PACKAGE: Final = re.compile(r"_ray_pkg_[0-9a-f]{8,64}\.zip")
_UV_OPTIONS: Final[tuple[list[str], ...]] = (["--no-cache"], [])
"""Of these the client sends the first by itself; both are as things are here."""
_SELECTOR: Final = re.compile(r"(!?)in\((.*)\)")
_PYTHON_HINT: Final = "such as `3.11` or `3.11.7`"


class Wanted(msgspec.Struct, kw_only=True):
    """What a request asks for, in our words, as far as it could be read."""

    command: str = ""
    submission_id: str = ""
    """Empty: one is to be made."""
    metadata: dict[str, str] = {}
    tier: str = ""
    queue: str = ""
    kind: str = ""
    python: str = ""
    env: dict[str, str] = {}
    package: str = ""
    """Name of the package that is the working folder; empty: there is none."""
    packages: tuple[str, ...] | None = None
    """None: the node's own interpreter."""
    installer: str = ""
    """Which field named the packages: `pip` or `uv`."""
    on: dict[str, tuple[str, ...]] = {}
    cpus: float = 0.0
    gpus: float = 0.0
    memory_bytes: float = 0.0

    @property
    def entrypoint(self) -> tuple[str, ...]:
        return (*SHELL, BEFORE + self.command)

    @property
    def environment(self) -> m.EnvironmentRequest | None:
        if self.packages is None and not self.python:
            return None
        return m.EnvironmentRequest(python=self.python, roots=self.packages or ())


class Findings:
    """What is wrong with a request, each with the path of its field in Ray's words."""

    def __init__(self) -> None:
        self.problems: list[m.Problem] = []

    def problem(self, path: str, message: str, hint: str = "") -> None:
        self.problems.append(m.Problem(path=path, message=message, hint=hint))


Reader = Callable[[Any, str, Wanted, Findings], None]
"""Takes in the value of a field, which stands at a path."""


class Row(NamedTuple):
    """A field of Ray's, what it is here (as the path in a Submit; empty: nothing), and what is to be known of it."""

    field: str
    ours: str
    note: str
    read: Reader


# -- readers -----------------------------------------------------------------------------------------------------------


def _refused(hint: str) -> Reader:
    def read(value: Any, path: str, _: Wanted, found: Findings) -> None:
        if value not in ({}, [], "", False):
            found.problem(path, "is not possible here", hint)

    return read


def _ignored(value: Any, path: str, wanted: Wanted, found: Findings) -> None:
    """Nothing here depends on it, but it is given back."""
    _texts([value] if isinstance(value, str) else value, path, found)


def _entrypoint(value: Any, path: str, wanted: Wanted, found: Findings) -> None:
    wanted.command = _text(value, path, found)
    if isinstance(value, str) and not value.strip():
        found.problem(path, "must not be empty", "such as `python train.py`")


def _submission_id(value: Any, path: str, wanted: Wanted, found: Findings) -> None:
    text = _text(value, path, found)
    if "/" in text or text != text.strip():
        found.problem(path, "must have no `/`, and no white space at its ends", "it is a part of addresses")
    wanted.submission_id = wanted.submission_id or text


def _metadata(value: Any, path: str, wanted: Wanted, found: Findings) -> None:
    wanted.metadata = _pairs(value, path, found)
    for key, text in wanted.metadata.items():
        name = key.removeprefix(OURS)
        if name == key:
            continue
        if name not in CHOSEN:
            there = ", ".join(OURS + each for each in CHOSEN)
            found.problem(f"{path}.{key}", "is not known", f"there are {there}")
        elif not text.strip():
            found.problem(f"{path}.{key}", "must not be empty", "leave it out for the default")
        else:
            setattr(wanted, name, text)


def _amount(attribute: str) -> Reader:
    def read(value: Any, path: str, wanted: Wanted, found: Findings) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= 1e15 or not math.isfinite(value):
            found.problem(path, "must be a number, and not below 0")
        else:
            setattr(wanted, attribute, value)

    return read


def _selector(value: Any, path: str, wanted: Wanted, found: Findings) -> None:
    for key, text in _pairs(value, path, found).items():
        if key.startswith("ray.io/"):
            found.problem(f"{path}.{key}", "is a label of Ray's own", "labels of Headrace's nodes: `headrace nodes`")
            continue
        several = _SELECTOR.fullmatch(text.strip())
        mark, listed = (several[1], several[2].split(",")) if several else ("", [text])
        wanted.on[key] = tuple(mark + each.strip() for each in listed)


def _runtime_env(value: Any, path: str, wanted: Wanted, found: Findings) -> None:
    if not isinstance(value, dict):
        found.problem(path, f"must be an object, not {_kind(value)}")
        return
    for key, inner in value.items():
        if inner is not None:
            _read_row(f"{path}.{key}", inner, wanted, found)
    if value.get("pip") and value.get("uv"):
        found.problem(f"{path}.uv", "only one of `pip` and `uv` is possible", "list all packages in one of them")


def _working_dir(value: Any, path: str, wanted: Wanted, found: Findings) -> None:
    text = _text(value, path, found)
    protocol, _, name = text.partition("://")
    if protocol == "gcs" and PACKAGE.fullmatch(name):
        wanted.package = name
    elif protocol == "gcs":
        found.problem(path, f"`{text[:80]}` is no package that a client of Ray makes", "name a folder, not an address")
    elif name:
        hint = "name a folder of your machine, which is uploaded; a job fetches for itself what lies elsewhere"
        found.problem(path, f"`{text[:80]}` is somewhere else: nothing is fetched for a client", hint)
    elif text:
        hint = "`ray job submit --working-dir FOLDER` uploads it, and so does JobSubmissionClient"
        found.problem(path, f"`{text[:80]}` is a folder of your machine, and was not uploaded", hint)


def _env_vars(value: Any, path: str, wanted: Wanted, found: Findings) -> None:
    wanted.env = _pairs(value, path, found)


def _packages(installer: str, options: tuple[list[str], ...]) -> Reader:
    """A list of requirements, or an object with one and with options of the installer."""

    def read(value: Any, path: str, wanted: Wanted, found: Findings) -> None:
        given = {"packages": value} if isinstance(value, list) else value
        if not isinstance(given, dict):
            found.problem(path, f"must be a list of requirements, not {_kind(value)}", 'such as ["numpy>=2"]')
            return
        for key, inner in given.items():
            _read_installer(key, inner, path, wanted, found)
        wanted.installer = installer

    def _read_installer(key: str, inner: Any, path: str, wanted: Wanted, found: Findings) -> None:
        at = f"{path}.{key[:200]}"
        if key == "packages":
            wanted.packages = _texts(inner, at, found) or None
        elif key == f"{installer}_version" and inner is not None:
            found.problem(at, "is not possible here", "environments are made by Headrace's own uv")
        elif key in ("pip_install_options", "uv_pip_install_options"):
            if inner not in options:
                hint = "packages come from the index that the operator has set up"
                found.problem(at, "options of the installer are not possible", hint)
        elif key == f"{installer}_check":  # what is installed has always been checked
            if not isinstance(inner, bool):
                found.problem(at, f"must be a boolean, not {_kind(inner)}")
        elif key != f"{installer}_version":
            found.problem(at, "is not known", f"give {path} a list of requirements")

    return read


# -- the table ---------------------------------------------------------------------------------------------------------

_IN_WORKING_DIR: Final = "put the modules into the working folder, which is where the job runs"
_NO_IMAGE: Final = "jobs run in environments of packages: list them in runtime_env.pip"
_NOT_HERE: Final = "leave it out, or start it in your entrypoint"

TABLE: Final[tuple[Row, ...]] = (
    Row(
        "entrypoint",
        "entrypoint",
        "run by `/bin/sh -c`, both of its streams in one, as Ray has them",
        _entrypoint,
    ),
    Row("submission_id", "name", "also the submit's `id`; without one it is made, `raysubmit_…`", _submission_id),
    Row("job_id", "name", "the old word for `submission_id`", _submission_id),
    Row("metadata", "", "kept and given back; `headrace.tier`, `.queue`, `.python`, `.kind` choose", _metadata),
    Row("entrypoint_num_cpus", "tier", "the smallest tier with so many, or more", _amount("cpus")),
    Row("entrypoint_num_gpus", "tier", "the smallest tier with exactly so many; 0.5 is a half of one", _amount("gpus")),
    Row("entrypoint_memory", "tier", "in bytes: the smallest tier with so much, or more", _amount("memory_bytes")),
    Row("entrypoint_resources", "", "refused: resources are those of a tier", _refused("ask for a tier instead")),
    Row("entrypoint_label_selector", "on", "`A`, `!A`, `in(A,B)`, `!in(A,B)` of the labels of our nodes", _selector),
    Row("runtime_env", "", "as follows", _runtime_env),
    Row("runtime_env.working_dir", "source", "a package of yours that Ray's client has uploaded", _working_dir),
    Row("runtime_env.excludes", "", "has done its work when the client packed the folder", _ignored),
    Row("runtime_env.env_vars", "env", "given back without their values", _env_vars),
    Row("runtime_env.pip", "environment.roots", "the packages, which are all there are", _packages("pip", ([],))),
    Row("runtime_env.uv", "environment.roots", "the same", _packages("uv", _UV_OPTIONS)),
    Row("runtime_env.conda", "", "refused", _refused("list packages from PyPI in runtime_env.pip")),
    Row("runtime_env.container", "", "refused", _refused(_NO_IMAGE)),
    Row("runtime_env.image_uri", "", "refused", _refused(_NO_IMAGE)),
    Row("runtime_env.py_modules", "", "refused", _refused(_IN_WORKING_DIR)),
    Row("runtime_env.java_jars", "", "refused", _refused(_IN_WORKING_DIR)),
    Row("runtime_env.py_executable", "", "refused", _refused("name the program in the entrypoint")),
    Row("runtime_env.worker_process_setup_hook", "", "refused: there are no Ray workers", _refused(_NOT_HERE)),
    Row("runtime_env.config", "", "refused: how an environment is made is set up here", _refused("leave it out")),
    Row("runtime_env._nsight", "", "refused", _refused(_NOT_HERE)),
    Row("runtime_env._rocprof_sys", "", "refused", _refused(_NOT_HERE)),
    Row("runtime_env.mpi", "", "refused", _refused(_NOT_HERE)),
    Row("runtime_env._inject_current_ray", "", "refused", _refused("list `ray` in runtime_env.pip")),
    Row("runtime_env._ray_release", "", "of the client; nothing depends on it", _ignored),
    Row("runtime_env._ray_commit", "", "of the client; nothing depends on it", _ignored),
)
_ROWS: Final = {row.field: row for row in TABLE}


def read(body: bytes, tiers: Sequence[m.Tier], python: str) -> tuple[Wanted, list[m.Problem]]:
    """A request as it came, in our words; it counts only if there is no problem with it.

    `tiers`: those that the team may use. `python`: of the environment, where packages are named and no version is.
    """
    wanted, found = Wanted(), Findings()
    try:
        raw = msgspec.json.decode(body)
    except UNREADABLE as error:
        found.problem("$", f"the body cannot be read: {error}", 'such as {"entrypoint": "python train.py"}')
        return wanted, found.problems
    if not isinstance(raw, dict):
        found.problem("$", f"must be an object, not {_kind(raw)}", 'such as {"entrypoint": "python train.py"}')
        return wanted, found.problems
    given = {field: value for field, value in raw.items() if value is not None}
    if "entrypoint" not in given:
        found.problem("entrypoint", "is missing", "such as `python train.py`")
    for field, value in given.items():
        _read_row(field if "." not in field else f"{field} ", value, wanted, found)
    if wanted.packages is not None:
        wanted.python = wanted.python or python
    _choose_tier(wanted, tiers, found)
    return wanted, found.problems


def path_of(ours: str, wanted: Wanted) -> str:
    """The path in Ray's words of a field of the Submit, which is what submission's problems name."""
    field, rest = ours.removeprefix("$."), ""
    named = {
        "id": "submission_id",
        "queue": f"metadata.{OURS}queue",
        "tier": f"metadata.{OURS}tier",
        "kind": f"metadata.{OURS}kind",
        "environment.python": f"metadata.{OURS}python",
        "environment.roots": f"runtime_env.{wanted.installer or 'pip'}.packages",
    }
    named |= {row.ours: row.field for row in reversed(TABLE) if row.ours and row.ours not in named}
    while field not in named and field:
        end = max(field.rfind("."), field.rfind("["), 0)
        field, rest = field[:end], field[end:] + rest
    return named[field] + (rest if named[field] != "entrypoint" else "") if field else ours


# -- tiers -------------------------------------------------------------------------------------------------------------


def _choose_tier(wanted: Wanted, tiers: Sequence[m.Tier], found: Findings) -> None:
    """The smallest tier that has what is asked for. Nothing asked for: the default; one named: that one."""
    asked = (wanted.gpus, wanted.cpus, wanted.memory_bytes)
    path = "entrypoint_num_gpus" if wanted.gpus else "entrypoint_num_cpus" if wanted.cpus else "entrypoint_memory"
    if not any(asked):
        return
    if wanted.tier:
        named = next((tier for tier in tiers if tier.name == wanted.tier), None)
        if named is not None and not _has(named, wanted):
            found.problem(path, f"the tier `{wanted.tier}` has less: {_size(named)}", f"or leave out {path}")
        return  # one that is not there is told by submission
    able = [tier for tier in tiers if tier.resources.nodes == 1 and _gpus(tier) == wanted.gpus and _has(tier, wanted)]
    if able:
        wanted.tier = min(able, key=lambda tier: (tier.resources.cpus, tier.resources.memory_bytes)).name
        return
    there = "; ".join(f"{tier.name} ({_size(tier)})" for tier in tiers)
    hint = f"tiers of your team: {there}; metadata {OURS}tier names one"
    found.problem(path, "no tier has this", hint)


def _gpus(tier: m.Tier) -> float:
    return tier.resources.gpus * tier.resources.gpu_milli / m.GPU_MILLI


def _has(tier: m.Tier, wanted: Wanted) -> bool:
    said = tier.resources
    return _gpus(tier) >= wanted.gpus and said.cpus >= wanted.cpus and said.memory_bytes >= wanted.memory_bytes


def _size(tier: m.Tier) -> str:
    said = tier.resources
    return f"{_gpus(tier):g} GPUs, {said.cpus:g} CPUs, {said.memory_bytes / 1024**3:g} GiB"


# -- values ------------------------------------------------------------------------------------------------------------


def _read_row(field: str, value: Any, wanted: Wanted, found: Findings) -> None:
    row = _ROWS.get(field)
    if row is None:
        found.problem(field[:200] or '""', "is not a field that Headrace knows", "leave it out")
    else:
        row.read(value, field, wanted, found)


def _text(value: Any, path: str, found: Findings) -> str:
    if isinstance(value, str):
        return value
    found.problem(path, f"must be a string, not {_kind(value)}")
    return ""


def _texts(value: Any, path: str, found: Findings) -> tuple[str, ...]:
    if not isinstance(value, list):
        found.problem(path, f"must be a list, not {_kind(value)}")
        return ()
    return tuple(_text(each, f"{path}[{index}]", found) for index, each in enumerate(value))


def _pairs(value: Any, path: str, found: Findings) -> dict[str, str]:
    if not isinstance(value, dict):
        found.problem(path, f"must be an object, not {_kind(value)}")
        return {}
    return {key: _text(inner, f"{path}.{key[:200]}", found) for key, inner in value.items()}


def _kind(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return kinds.get(type(value), "null")
