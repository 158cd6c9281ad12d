"""What a request must look like: every field of a submit and of a control, each with its limit and its hint.

The result is the request with what could be read of it; it counts only if nothing was found wrong.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast, get_args

import msgspec

from controlplane.config import Configuration
from controlplane.submission import conditions, queue_rules, reading
from controlplane.submission.queue_rules import NAME_CHARACTERS_MAX, PRIORITY_MAX
from controlplane.submission.queues import Queues
from controlplane.submission.reading import Findings, quoted
from events import arrays
from events import messages as m
from events.blobs import is_digest

WORDS_MAX: Final = 1024
WORD_CHARACTERS_MAX: Final = 32 * 1024
ENTRYPOINT_CHARACTERS_MAX: Final = 128 * 1024
"""Linux takes 128 KiB a word and 2 MiB with the environment: the rest is for the environment."""
ENV_MAX: Final = 512
ENV_NAME_CHARACTERS_MAX: Final = 256
ENV_VALUE_CHARACTERS_MAX: Final = 32 * 1024
ENV_CHARACTERS_MAX: Final = 128 * 1024
LABELS_MAX: Final = 64
LABEL_CHARACTERS_MAX: Final = 256
LABELS_CHARACTERS_MAX: Final = 16 * 1024
ON_MAX: Final = 16
VALUES_MAX: Final = 64
"""Of one label in a constraint."""
VALUES_CHARACTERS_MAX: Final = 4096
"""Of all labels together."""
ID_CHARACTERS_MAX: Final = 256
FOLDER_CHARACTERS_MAX: Final = 1024
WHY_CHARACTERS_MAX: Final = 500
ROOTS_MAX: Final = 500
PREFERENCES_MAX: Final = 5000
REQUIREMENT_CHARACTERS_MAX: Final = 512
REQUIREMENTS_CHARACTERS_MAX: Final = 384 * 1024
ATTEMPTS_MAX: Final = 100
CANCELLED_MAX: Final = 1000
"""Tasks of an array that one request may name: each of them is a fact."""

RESERVED_ENV: Final = frozenset(
    {
        "CUDA_VISIBLE_DEVICES",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "OTEL_RESOURCE_ATTRIBUTES",
        "TRACEPARENT",
        "VIRTUAL_ENV",
    }
)
"""The runner sets these in every job; a value from outside would be lost without a word."""
RESERVED_ENV_PREFIX: Final = "HEADRACE_"
GANG_ENV: Final = frozenset(
    {
        *("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK"),
        *("PET_NNODES", "PET_NODE_RANK", "PET_NPROC_PER_NODE", "PET_MASTER_ADDR", "PET_MASTER_PORT"),
    }
)
"""And these in every part of a gang."""
RAY_ENV: Final = frozenset({"RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_START_HOOK"})
"""And these in a job of `kind: ray`."""
RAY_ROOT: Final = "ray>=2.52"
"""What is added to an environment request without Ray. Since then it has a token, which is all that keeps others out.
"""
NODES_MAX: Final = 1024
"""Of one job: its placement is one fact, which names each of them."""

JOB_ID: Final = re.compile(r"j-[a-z2-7]{12}")
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LABEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_PYTHON: Final = re.compile(r"3\.\d{1,2}(\.\d{1,2})?")
_PLATFORM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_DISTRIBUTION: Final = r"(?>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)"
_ROOT: Final = re.compile(
    rf"{_DISTRIBUTION} *+(\[[A-Za-z0-9._, -]*+\])?+ *+\(?+[A-Za-z0-9<>=!~.*+, _-]*+\)?+"
    r" *+(;[A-Za-z0-9<>=!~.*+, _()'\"-]*+)?"
)
"""A requirement by PEP 508, less what a resolver reads more into: options, addresses, `${variables}`, line ends.

Nothing in it steps back (`*+`, `(?>`), so that no text takes long to refuse.
"""
_RAY_ROOT: Final = re.compile(r"ray *([\[(<>=!~;]|$)", re.IGNORECASE)
_PIN: Final = re.compile(rf"{_DISTRIBUTION}==[A-Za-z0-9.!+_-]+")

_SUBMIT_FIELDS: Final = ("type", *m.Submit.__struct_fields__)
_ENVIRONMENT_FIELDS: Final = m.EnvironmentRequest.__struct_fields__


class Caller(NamedTuple):
    """Who asks, as the subject says."""

    team: str
    user: str


def read_submit(
    body: bytes, caller: Caller, config: Configuration, queues: Queues, found: Findings
) -> tuple[m.Submit, object]:
    """A submit with all of its defaults, and its `id` as it stands in the body, whether it is usable or not."""
    raw = reading.read_object(body, found)
    unreadable = bool(found.problems) and not raw
    if not unreadable:
        reading.check_type(raw, ("submit",), found)
        reading.warn_of_unknown(raw, _SUBMIT_FIELDS, "$", found)
    if unreadable:
        return m.Submit(entrypoint=()), None
    given = {field: raw[field] for field in m.Submit.__struct_fields__ if field in raw}
    rules = queue_rules.rules_of(given, caller.team, config, queues, found)
    submit = m.Submit(
        entrypoint=_entrypoint(given, found),
        id=_text(given, "id", found, ID_CHARACTERS_MAX),
        name=_name(given, found),
        queue=rules.name,
        tier=queue_rules.tier(given, rules, found),
        env=_env(given, found),
        source=_source(given, found),
        folder=_folder(given, found),
        environment=_environment(given, found),
        time_limit_s=queue_rules.time_limit_s(given, rules, found),
        grace_s=_grace_s(given, config, found),
        priority=queue_rules.priority(given, rules, found),
        attempts_max=_integer(given, "attempts_max", config.attempts_max_default, 1, ATTEMPTS_MAX, found),
        hold=reading.boolean(given["hold"], "$.hold", found) if "hold" in given else False,
        labels=_labels(given, found),
        preemptible=queue_rules.preemptible(given, rules, found),
        after=conditions.read_after(given, JOB_ID.fullmatch, found),
        begin_at=conditions.read_moment(given, "begin_at", found),
        deadline_at=conditions.read_moment(given, "deadline_at", found),
        retries=_integer(given, "retries", 0, 0, ATTEMPTS_MAX, found),
        array=_array(given, "array", found),
        on=_on(given, found),
        nodes=_nodes(given, found),
        kind=_kind(given, found),
    )
    if submit.kind == "ray":
        submit = _with_ray(submit, found)
    return submit, raw.get("id")


def read_control(body: bytes, found: Findings) -> m.Control | None:
    """A control; None if it cannot be told which. It counts only if nothing was found wrong."""
    raw = reading.read_object(body, found)
    if found.problems and not raw:
        return None
    kind = reading.check_type(raw, tuple(_CONTROLS), found)
    if kind is None:
        return None
    wanted, fields = _CONTROLS[kind]
    reading.warn_of_unknown(raw, ("type", *wanted.__struct_fields__), "$", found)
    return fields(raw, found)


def _why(raw: dict[str, Any], found: Findings) -> str:
    if "why" not in raw:
        return ""
    return reading.text(raw["why"], "$.why", found, characters_max=WHY_CHARACTERS_MAX, lines=True)


def _tasks(raw: dict[str, Any], found: Findings) -> str:
    tasks = _array(raw, "tasks", found)
    if "%" in tasks:
        found.problem("$.tasks", "`%` has no meaning here", "only indices, such as `5` or `0-3,7`")
    elif tasks and not found.problems and len(arrays.parse(tasks)[0]) > CANCELLED_MAX:
        found.problem("$.tasks", f"at most {CANCELLED_MAX} tasks at once", "cancel the whole array, or some at a time")
    return tasks


def _reprioritise(raw: dict[str, Any], found: Findings) -> m.Control:
    if "priority" not in raw:
        found.problem("$.priority", "is missing", f"a whole number from {-PRIORITY_MAX} to {PRIORITY_MAX}")
    return m.Reprioritise(priority=_integer(raw, "priority", 0, -PRIORITY_MAX, PRIORITY_MAX, found))


def _move(raw: dict[str, Any], found: Findings) -> m.Control:
    ends = {}
    for field in ("before", "after"):
        ends[field] = _text(raw, field, found, NAME_CHARACTERS_MAX)
        if ends[field] and not JOB_ID.fullmatch(ends[field]):
            found.problem(f"$.{field}", f"{quoted(ends[field])} is not the id of a job", "such as `j-abcdefghij23`")
    if ends["before"] and ends["after"]:
        found.problem("$.after", "only one of `before` and `after` is possible", "give neither: to the front")
    return m.Move(before=ends["before"], after=ends["after"])


_Reader = Callable[[dict[str, Any], Findings], m.Control]
_CONTROLS: Final[dict[str, tuple[type[m.Request], _Reader]]] = {
    "cancel": (m.Cancel, lambda raw, found: m.Cancel(why=_why(raw, found), tasks=_tasks(raw, found))),
    "hold": (m.Hold, lambda raw, found: m.Hold(why=_why(raw, found))),
    "release": (m.Release, lambda raw, found: m.Release()),
    "reprioritise": (m.Reprioritise, _reprioritise),
    "move": (m.Move, _move),
}


# -- fields ------------------------------------------------------------------------------------------------------------


def _text(given: dict[str, Any], field: str, found: Findings, characters_max: int) -> str:
    if field not in given:
        return ""
    return reading.text(given[field], f"$.{field}", found, characters_max=characters_max)


def _integer(given: dict[str, Any], field: str, default: int, low: int, high: int, found: Findings) -> int:
    if field not in given or (given[field] is None and field == "attempts_max"):
        return default
    value = reading.integer(given[field], f"$.{field}", found, low=low, high=high)
    return default if value is None else value


def _entrypoint(given: dict[str, Any], found: Findings) -> tuple[str, ...]:
    path = "$.entrypoint"
    if "entrypoint" not in given:
        found.problem(path, "is missing", 'what to run, word by word: ["python", "train.py"]')
        return ()
    words = reading.texts(
        given["entrypoint"],
        path,
        found,
        items_max=WORDS_MAX,
        characters_max=WORD_CHARACTERS_MAX,
        total_max=ENTRYPOINT_CHARACTERS_MAX,
    )
    if given["entrypoint"] == []:
        found.problem(path, "must not be empty", 'what to run, word by word: ["python", "train.py"]')
    elif words and words[0] == given["entrypoint"][0] and not words[0].strip():
        found.problem(f"{path}[0]", "must name a program")
    return words


def _name(given: dict[str, Any], found: Findings) -> str:
    name = _text(given, "name", found, NAME_CHARACTERS_MAX)
    if name != name.strip() or "/" in name:
        found.problem("$.name", "must have no `/`, and no white space at its ends")
    elif JOB_ID.fullmatch(name):
        found.problem("$.name", f"{quoted(name)} looks like the id of a job", "choose another name")
    return name


def _env(given: dict[str, Any], found: Findings) -> dict[str, str]:
    if "env" not in given:
        return {}
    env = reading.pairs(
        given["env"],
        "$.env",
        found,
        items_max=ENV_MAX,
        characters_max=ENV_VALUE_CHARACTERS_MAX,
        total_max=ENV_CHARACTERS_MAX,
    )
    for name in env:
        path = reading.join("$.env", name)
        if len(name) > ENV_NAME_CHARACTERS_MAX or not _ENV_NAME.fullmatch(name):
            found.problem(path, f"{quoted(name)} is no name of a variable", "letters, digits and `_`, no digit first")
        elif name in RESERVED_ENV or name.startswith(RESERVED_ENV_PREFIX):
            found.problem(path, f"{quoted(name)} is set by Headrace in every job", "leave it out, or use another name")
    return env


def _array(given: dict[str, Any], field: str, found: Findings) -> str:
    text = _text(given, field, found, arrays.CHARACTERS_MAX)
    if not text:
        return ""
    try:
        arrays.parse(text)
    except arrays.BadArray as error:
        hint = "such as `0-999%50`, `0-15:4`, `1,3,7-9`" if field == "array" else "such as `5` or `0-3,7`"
        found.problem(f"$.{field}", f"{quoted(text)}: {error}", hint)
    return text


def _nodes(given: dict[str, Any], found: Findings) -> int | None:
    if given.get("nodes") is None:
        return None
    return reading.integer(given["nodes"], "$.nodes", found, low=1, high=NODES_MAX)


def check_gang(submit: m.Submit, tier: m.Tier, found: Findings) -> None:
    """What goes only on one node, and what a gang is told by us."""
    nodes = submit.nodes or tier.resources.nodes
    if nodes == 1:
        return
    if tier.resources.gpu_milli < m.GPU_MILLI:
        hint = "leave `nodes` out, or choose a tier of whole GPUs"
        found.problem("$.nodes", f"tier {quoted(tier.name)} brings a part of a GPU, and that only on one node", hint)
    for name in sorted(GANG_ENV & submit.env.keys()):
        hint = "leave it out, or use another name"
        found.problem(reading.join("$.env", name), f"{quoted(name)} is set by Headrace on each node of a gang", hint)


def _kind(given: dict[str, Any], found: Findings) -> m.JobKind:
    kind = given.get("kind", "plain")
    if kind not in get_args(m.JobKind):
        shown = quoted(kind) if isinstance(kind, str) else reading.kind_of(kind)
        found.problem("$.kind", f"{shown} is no kind of job", "`plain`, or `ray` for a private Ray cluster")
        return "plain"
    return cast(m.JobKind, kind)


def _with_ray(submit: m.Submit, found: Findings) -> m.Submit:
    """A job that is to run in a Ray cluster of its own: its environment has Ray, and its variables leave it alone."""
    for name in sorted(RAY_ENV & submit.env.keys()):
        hint = "leave it out: `ray.init()` needs none of them"
        found.problem(reading.join("$.env", name), f"{quoted(name)} is set by Headrace in a job of `kind: ray`", hint)
    wanted = submit.environment
    if wanted is None or any(_RAY_ROOT.match(root) for root in wanted.roots):
        return submit
    message = f"names no Ray, and a job of `kind: ray` runs on its own: {quoted(RAY_ROOT)} was added"
    found.warn("$.environment.roots", message, "name it, with the extras that the job uses: `ray[data]`")
    return msgspec.structs.replace(submit, environment=msgspec.structs.replace(wanted, roots=(*wanted.roots, RAY_ROOT)))


def _labels(given: dict[str, Any], found: Findings) -> dict[str, str]:
    if "labels" not in given:
        return {}
    labels = reading.pairs(
        given["labels"],
        "$.labels",
        found,
        items_max=LABELS_MAX,
        characters_max=LABEL_CHARACTERS_MAX,
        total_max=LABELS_CHARACTERS_MAX,
    )
    for name in labels:
        _check_label(name, reading.join("$.labels", name), found)
    return labels


def _check_label(name: str, path: str, found: Findings) -> None:
    if not _LABEL_NAME.fullmatch(name):
        hint = "letters, digits and `._/-`, at most 128, a letter or digit first"
        found.problem(path, f"{quoted(name)} is no name of a label", hint)


def _on(given: dict[str, Any], found: Findings) -> m.Constraint:
    """A constraint on nodes; a single value may stand for a list of one."""
    raw = given.get("on", {})
    if not isinstance(raw, dict):
        found.problem("$.on", f"must be an object, not {reading.kind_of(raw)}", 'such as {"gpu": ["A100", "H100"]}')
        return {}
    reading.check_keys_once(raw, "$.on", found)
    if len(raw) > ON_MAX:
        found.problem("$.on", f"{len(raw)} labels; at most {ON_MAX} are possible")
        return {}
    constraint = {}
    for name, values in raw.items():
        path = reading.join("$.on", name)
        _check_label(name, path, found)
        several = [values] if isinstance(values, str) else values
        read = reading.texts(
            several,
            path,
            found,
            items_max=VALUES_MAX,
            characters_max=LABEL_CHARACTERS_MAX,
            total_max=VALUES_CHARACTERS_MAX,
        )
        if several == [] or any(not value.removeprefix("!") for value in read):
            found.problem(path, "must name values", "such as `A100`; `!A100` is one that will not do")
        constraint[name] = read
    total = sum(len(value) for values in constraint.values() for value in values)
    if total > VALUES_CHARACTERS_MAX:
        found.problem("$.on", f"{total} characters together; at most {VALUES_CHARACTERS_MAX} are possible")
        return {}
    return constraint


def _source(given: dict[str, Any], found: Findings) -> str:
    source = _text(given, "source", found, NAME_CHARACTERS_MAX)
    if source and not is_digest(source):
        found.problem(
            "$.source", f"{quoted(source)} is not a digest", "write `sha256:` and 64 hexadecimal digits in lower case"
        )
    return source


def _folder(given: dict[str, Any], found: Findings) -> str:
    folder = _text(given, "folder", found, FOLDER_CHARACTERS_MAX)
    if not folder:
        return ""
    if folder.startswith("/") or "\\" in folder or ".." in folder.split("/"):
        found.problem(
            "$.folder", f"{quoted(folder)} may lead out of the source", "relative to its root, with `/`, without `..`"
        )
    elif not given.get("source"):
        found.problem(
            "$.folder", "is a place in the source, and there is no source", "give `source` too, or leave it out"
        )
    normal = posixpath.normpath(folder)
    return "" if normal == "." else normal


def _environment(given: dict[str, Any], found: Findings) -> m.EnvironmentRequest | None:
    path = "$.environment"
    raw = given.get("environment")
    if raw is None:
        return None
    if not isinstance(raw, dict):
        found.problem(
            path, f"must be an object, not {reading.kind_of(raw)}", 'such as {"python": "3.11", "roots": ["numpy"]}'
        )
        return None
    reading.check_keys_once(raw, path, found)
    reading.warn_of_unknown(raw, _ENVIRONMENT_FIELDS, path, found)
    return m.EnvironmentRequest(
        python=_python(raw, found),
        roots=_requirements(
            raw, "roots", ROOTS_MAX, _ROOT, "`numpy>=2`; options and addresses are not possible", found
        ),
        preferences=_requirements(raw, "preferences", PREFERENCES_MAX, _PIN, "`numpy==2.1.0`", found),
        platform=_platform(raw, found),
    )


def _python(raw: dict[str, Any], found: Findings) -> str:
    path, hint = "$.environment.python", "such as `3.11` or `3.11.7`"
    if "python" not in raw:
        found.problem(path, "is missing", hint)
        return ""
    python = reading.text(raw["python"], path, found, characters_max=16)
    if python and not _PYTHON.fullmatch(python):
        found.problem(path, f"{quoted(python)} is no version of Python", hint)
    elif not python and raw["python"] == "":
        found.problem(path, "must not be empty", hint)
    return python


def _platform(raw: dict[str, Any], found: Findings) -> str:
    path = "$.environment.platform"
    platform = reading.text(raw.get("platform", ""), path, found, characters_max=64)
    if platform and not _PLATFORM.fullmatch(platform):
        found.problem(path, f"{quoted(platform)} is no platform", "such as `x86_64-manylinux_2_28`")
    return platform


def _requirements(
    raw: dict[str, Any], field: str, items_max: int, form: re.Pattern[str], hint: str, found: Findings
) -> tuple[str, ...]:
    if field not in raw:
        return ()
    path = f"$.environment.{field}"
    items = reading.texts(
        raw[field],
        path,
        found,
        items_max=items_max,
        characters_max=REQUIREMENT_CHARACTERS_MAX,
        total_max=REQUIREMENTS_CHARACTERS_MAX,
    )
    for index, item in enumerate(items):
        if item == raw[field][index] and not form.fullmatch(item.strip(" ")):
            found.problem(f"{path}[{index}]", f"{quoted(item)} is no requirement", f"such as {hint}")
    return tuple(item.strip(" ") for item in items)


def _grace_s(given: dict[str, Any], config: Configuration, found: Findings) -> float:
    if given.get("grace_s") is None:
        return config.grace_s_default
    value = reading.number(given["grace_s"], "$.grace_s", found, low=0, high=config.grace_s_max, unit=" seconds")
    return config.grace_s_default if value is None else value
