"""The only place that spells a subject.

A subject is made of tokens between dots. What people name (teams, users, queues, nodes) may hold anything, so every
such name is encoded: letters, digits, `-` and `_` stand for themselves, every other byte of its UTF-8 form becomes
`=XX`. The form is reversible, and `. * >` and white space never reach a subject.
"""

from __future__ import annotations

import re

ROOT = "hr.v1"
TOKEN_CHARACTERS_MAX = 200
"""A name longer than this after encoding is refused: subjects are kept in memory, one for every entity."""

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
_ALL_PLAIN = re.compile(r"[a-zA-Z0-9_-]+")
_ESCAPE = re.compile(r"=([0-9A-F]{2})")


class BadName(ValueError):
    """A name that cannot be part of a subject, with the reason."""


def encode(name: str) -> str:
    """A name as one token. Raises BadName if it is empty or too long, or no text."""
    token = name if _ALL_PLAIN.fullmatch(name) else _escaped(name)
    if not token:
        raise BadName("an empty name cannot be part of a subject")
    if len(token) > TOKEN_CHARACTERS_MAX:
        raise BadName(
            f"a name may take {TOKEN_CHARACTERS_MAX} characters in a subject, {name[:40]!r}… takes {len(token)}"
        )
    return token


def _escaped(name: str) -> str:
    try:
        content = name.encode()
    except UnicodeEncodeError:
        raise BadName("half of a surrogate pair cannot be part of a subject") from None
    return "".join(chr(byte) if byte in _PLAIN else f"={byte:02X}" for byte in content)


def decode(token: str) -> str:
    """The name that `encode` made this token from. Raises ValueError (UnicodeDecodeError) if none did."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), token).encode("latin-1").decode()


def tokens(subject: str) -> list[str]:
    """The decoded tokens of a subject behind `hr.v1`: `hr.v1.job.vision.j-1` gives `["job", "vision", "j-1"]`."""
    return [decode(token) for token in subject.removeprefix(ROOT + ".").split(".")]


# -- REQUESTS ----------------------------------------------------------------------------------------------------------


def submit(team: str, user: str) -> str:
    return f"{ROOT}.submit.{encode(team)}.{encode(user)}"


def control(team: str, user: str, job: str) -> str:
    return f"{ROOT}.control.{encode(team)}.{encode(user)}.{encode(job)}"


def requests_of(team: str) -> tuple[str, ...]:
    """What the stream of a team's requests takes in."""
    return (f"{ROOT}.submit.{encode(team)}.*", f"{ROOT}.control.{encode(team)}.*.*")


def configure_queue(operator: str, team: str, queue_name: str) -> str:
    return f"{ROOT}.configure.{encode(operator)}.queue.{encode(team)}.{encode(queue_name)}"


def configure_team(operator: str, team: str) -> str:
    return f"{ROOT}.configure.{encode(operator)}.team.{encode(team)}"


def configure_node(operator: str, node_name: str) -> str:
    return f"{ROOT}.configure.{encode(operator)}.node.{encode(node_name)}"


CONFIGURE = (f"{ROOT}.configure.*.queue.*.*", f"{ROOT}.configure.*.team.*", f"{ROOT}.configure.*.node.*")


def answer(team: str, user: str, token: str) -> str:
    return f"{ROOT}.answer.{encode(team)}.{encode(user)}.{encode(token)}"


# -- LEDGER ------------------------------------------------------------------------------------------------------------

TERM = f"{ROOT}.term"
JOBS = f"{ROOT}.job.*.*"
ENVIRONMENTS = f"{ROOT}.environment.*"
QUEUES = f"{ROOT}.queue.*.*"
TEAMS = f"{ROOT}.team.*"
CONFIGURATION = f"{ROOT}.configuration"
NODES = f"{ROOT}.node.*"
ARCHIVE = f"{ROOT}.archive"
LEDGER = (JOBS, ENVIRONMENTS, QUEUES, TEAMS, CONFIGURATION, NODES, TERM, ARCHIVE)


def job(team: str, job_id: str) -> str:
    return f"{ROOT}.job.{encode(team)}.{encode(job_id)}"


def environment(request_digest: str) -> str:
    return f"{ROOT}.environment.{encode(request_digest.removeprefix('sha256:'))}"


def queue(team: str, queue_name: str) -> str:
    return f"{ROOT}.queue.{encode(team)}.{encode(queue_name)}"


def team(name: str) -> str:
    return f"{ROOT}.team.{encode(name)}"


def node(name: str) -> str:
    return f"{ROOT}.node.{encode(name)}"


# -- nodes, METRICS, LOGS ----------------------------------------------------------------------------------------------

EXCHANGES = f"{ROOT}.from.*.exchange"
METRICS = (f"{ROOT}.from.*.metrics.*.*", f"{ROOT}.otlp.*.*")
LOGS = f"{ROOT}.from.*.logs.*.*.*.*"


def exchange(node_name: str) -> str:
    return f"{ROOT}.from.{encode(node_name)}.exchange"


def to_node(node_name: str) -> str:
    return f"{ROOT}.to.{encode(node_name)}"


def metrics(node_name: str, team: str, job_id: str) -> str:
    return f"{ROOT}.from.{encode(node_name)}.metrics.{encode(team)}.{encode(job_id)}"


def logs(node_name: str, team: str, job_id: str, attempt: int, stream: str) -> str:
    return f"{ROOT}.from.{encode(node_name)}.logs.{encode(team)}.{encode(job_id)}.{attempt}.{encode(stream)}"


def logs_of(team: str, job_id: str) -> str:
    """A job's output from whatever node, attempt and stream."""
    return f"{ROOT}.from.*.logs.{encode(team)}.{encode(job_id)}.*.*"


def metrics_of(team: str, job_id: str) -> str:
    return f"{ROOT}.from.*.metrics.{encode(team)}.{encode(job_id)}"


def otlp(team: str, job_id: str) -> str:
    return f"{ROOT}.otlp.{encode(team)}.{encode(job_id)}"


def live(team: str, job_id: str) -> str:
    """Where monitoring says that something new is stored of a job; in no stream."""
    return f"{ROOT}.live.{encode(team)}.{encode(job_id)}"


# -- questions, dead letters -------------------------------------------------------------------------------------------


def ask(service: str, question: str, *more: str) -> str:
    return ".".join((ROOT, "ask", service, question, *(encode(name) for name in more)))


ASK_SUBMIT = f"{ROOT}.ask.submission.submit.*.*"
ASK_CONTROL = f"{ROOT}.ask.submission.control.*.*.*"
ASK_CONFIGURE = tuple(f"{ROOT}.ask.submission.{pattern.removeprefix(ROOT + '.')}" for pattern in CONFIGURE)
DEAD = f"{ROOT}.dead.>"


def dead(subject: str) -> str:
    """Where a message of `subject` goes that could not be processed."""
    return f"{ROOT}.dead.{subject.removeprefix(ROOT + '.')}"


def undead(subject: str) -> str:
    """The subject that a dead letter's stands for."""
    return f"{ROOT}.{subject.removeprefix(ROOT + '.dead.')}"


def may_come_in(subject: str) -> bool:
    """Whether it is of REQUESTS, METRICS or LOGS: what a replay may write to. LEDGER is written under guards alone."""
    names = subject.removeprefix(ROOT + ".").split(".")
    kind = ".".join(names[:1] + names[2:3]) if names[0] == "from" else names[0]
    return subject.startswith(ROOT + ".") and kind in (
        "submit",
        "control",
        "configure",
        "otlp",
        "from.metrics",
        "from.logs",
    )
