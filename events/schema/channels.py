"""Which messages go over which subject, who writes them, and where they are kept: the contract's table, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, get_args

from events import messages as m
from events import streams, subjects

TEXT: Final = "text/plain"
BYTES: Final = "application/octet-stream"
OTLP: Final = "application/x-protobuf"
JSON: Final = "application/json"

_PLACES: Final = {
    "TEAM": "team",
    "USER": "user",
    "OPERATOR": "operator",
    "JOB": "job",
    "NODE": "node",
    "QUEUE": "queue",
    "ENVIRONMENT": "environment",
    "ATTEMPT": "attempt",
    "STREAM": "stream",
    "TOKEN": "token",
    "SUBJECT": "subject",
}


class Raw(NamedTuple):
    """A message whose body is not one of ours: what it is, and of which media type."""

    name: str
    media_type: str
    note: str
    headers: Mapping[str, str] = MappingProxyType({})


Body = type[Any] | Raw


class Channel(NamedTuple):
    """One kind of subject. `answers`: what comes back, when it is asked by request-reply."""

    name: str
    address: str
    stream: str
    writers: str
    bodies: tuple[Body, ...]
    answers: tuple[Body, ...] = ()
    note: str = ""


def _address(spell: Callable[..., str], *names: str) -> str:
    """A subject with `{team}` where a team stands; spelled by `events.subjects`, like all others."""
    return _placed(spell(*names))


def _placed(subject: str) -> str:
    return ".".join(f"{{{_PLACES[token]}}}" if token in _PLACES else token for token in subject.split("."))


_LOG: Final = Raw(
    "Output",
    BYTES,
    "Bytes of one output stream of an attempt. The last message is empty and ends the stream.",
    {"hr-offset": "Offset of the first byte in the stream.", "hr-end": "1 on the last message."},
)
_METRICS: Final = Raw(
    "Metrics",
    OTLP,
    "An OTLP ExportMetricsServiceRequest: Gauges; attribute `step` on each point.",
    {
        "hr-spool": "`<job>/<attempt>/<file>`: the spool that these records come from.",
        "hr-first": "Index of the first record; what is at or below the stored position is a repeat.",
        "hr-count": "How many records.",
        "hr-end": "1 on the last batch of an attempt.",
    },
)
_DOOR: Final = Raw("DoorMetrics", OTLP, "As Metrics, from any OpenTelemetry SDK: at least once.", {"hr-door": "1"})
_STATUS: Final = Raw("Status", JSON, "An object of counters, for people and probes.")
_NOTHING: Final = Raw("Nothing", JSON, "An empty body.")
_BUILD_LOG: Final = Raw("BuildLog", TEXT, "The build log.")
_DEAD: Final = Raw(
    "DeadLetter",
    BYTES,
    "A message that could not be processed, with its own body and headers.",
    {
        "hr-reason": "Why, for a person.",
        "hr-stream": "The stream that it was in.",
        "hr-sequence": "Its sequence there.",
        "hr-tries": "How often it was tried.",
        "hr-place": "Its place there, which is its id if it has no `ce-id`.",
        "hr-bytes": "Size of the body, where it had to be left out.",
    },
)


def _ask(service: str, question: str, body: Body, answer: Body, *places: str) -> Channel:
    address = _address(subjects.ask, service, question, *places)
    return Channel(f"ask_{service}_{question}", address, "", "anyone allowed", (body,), (answer, m.Refusal))


_ADMITTED: Final = "anyone allowed"

CHANNELS: Final = (
    Channel(
        "submit",
        _address(subjects.submit, "TEAM", "USER"),
        "REQUESTS_<team>",
        _ADMITTED,
        (m.Submit,),
        note="A bare JSON body without headers is accepted. With the header `hr-answer: <token>` the Answer also comes "
        "on the answer channel.",
    ),
    Channel(
        "control",
        _address(subjects.control, "TEAM", "USER", "JOB"),
        "REQUESTS_<team>",
        _ADMITTED,
        get_args(m.Control),
    ),
    Channel(
        "configure_queue",
        _address(subjects.configure_queue, "OPERATOR", "TEAM", "QUEUE"),
        streams.REQUESTS.name,
        "operators",
        (m.CreateQueue, m.SetQueue, m.DeleteQueue),
    ),
    Channel(
        "configure_team",
        _address(subjects.configure_team, "OPERATOR", "TEAM"),
        streams.REQUESTS.name,
        "operators",
        (m.SetTeam,),
    ),
    Channel(
        "configure_node",
        _address(subjects.configure_node, "OPERATOR", "NODE"),
        streams.REQUESTS.name,
        "operators",
        get_args(m.NodeChange),
        note="The Answer that `hr-answer` asks for comes with `-` in the place of the team.",
    ),
    Channel("answer", _address(subjects.answer, "TEAM", "USER", "TOKEN"), "", "submission", (m.Answer,)),
    Channel(
        "job",
        _address(subjects.job, "TEAM", "JOB"),
        streams.LEDGER.name,
        "submission, scheduling: one writer a type",
        (*get_args(m.JobFact), m.Archived),
        note="The truth about a job, in order; `archived` (by monitoring) takes the place of all before it.",
    ),
    Channel(
        "environment",
        _address(subjects.environment, "ENVIRONMENT"),
        streams.LEDGER.name,
        "submission, environments",
        get_args(m.EnvironmentFact),
        note="The hex digits of the digest of an environment request.",
    ),
    Channel(
        "queue",
        _address(subjects.queue, "TEAM", "QUEUE"),
        streams.LEDGER.name,
        "submission",
        get_args(m.QueueFact),
        note="A queue exists if the newest fact is a `queue_set`.",
    ),
    Channel("configuration", subjects.CONFIGURATION, streams.LEDGER.name, "submission", (m.Configured,)),
    Channel("team", _address(subjects.team, "TEAM"), streams.LEDGER.name, "submission", (m.TeamFact,)),
    Channel(
        "node",
        _address(subjects.node, "NODE"),
        streams.LEDGER.name,
        "scheduling, submission",
        get_args(m.NodeFact),
    ),
    Channel("archive", subjects.ARCHIVE, streams.LEDGER.name, "monitoring", (m.ArchiveWritten,)),
    Channel("term", subjects.TERM, streams.LEDGER.name, "scheduling", get_args(m.TermFact)),
    Channel(
        "exchange",
        _address(subjects.exchange, "NODE"),
        "",
        "the node",
        (m.Exchange,),
        (m.Desired, m.Refusal),
        note="All that a node has; answered with all that it should have.",
    ),
    Channel("to_node", _address(subjects.to_node, "NODE"), "", "scheduling", (m.Desired,)),
    Channel(
        "metrics", _address(subjects.metrics, "NODE", "TEAM", "JOB"), streams.METRICS.name, "the node", (_METRICS,)
    ),
    Channel("otlp", _address(subjects.otlp, "TEAM", "JOB"), streams.METRICS.name, "monitoring's OTLP door", (_DOOR,)),
    Channel(
        "logs",
        _address(subjects.logs, "NODE", "TEAM", "JOB", "ATTEMPT", "STREAM"),
        streams.LOGS.name,
        "the node",
        (_LOG,),
    ),
    Channel("live", _address(subjects.live, "TEAM", "JOB"), "", "monitoring", (m.Changed,)),
    Channel("dead", _address(subjects.dead, "SUBJECT"), streams.DEAD.name, "the bus", (_DEAD,)),
    _ask("submission", "submit", m.Submit, m.Answer, "TEAM", "USER"),
    Channel(
        "ask_submission_control",
        _address(subjects.ask, "submission", "control", "TEAM", "USER", "JOB"),
        "",
        _ADMITTED,
        get_args(m.Control),
        (m.Answer, m.Refusal),
    ),
    Channel(
        "ask_submission_configure_queue",
        _address(subjects.ask, "submission", "configure", "OPERATOR", "queue", "TEAM", "QUEUE"),
        "",
        "operators",
        (m.CreateQueue, m.SetQueue, m.DeleteQueue),
        (m.Answer, m.Refusal),
    ),
    Channel(
        "ask_submission_configure_team",
        _address(subjects.ask, "submission", "configure", "OPERATOR", "team", "TEAM"),
        "",
        "operators",
        (m.SetTeam,),
        (m.Answer, m.Refusal),
    ),
    Channel(
        "ask_submission_configure_node",
        _address(subjects.ask, "submission", "configure", "OPERATOR", "node", "NODE"),
        "",
        "operators",
        get_args(m.NodeChange),
        (m.Answer, m.Refusal),
    ),
    _ask("submission", "status", _NOTHING, _STATUS),
    _ask("scheduling", "why", m.AskJob, m.Why),
    _ask("scheduling", "nodes", _NOTHING, m.NodesView),
    _ask("scheduling", "queues", _NOTHING, m.QueuesView),
    _ask("scheduling", "teams", _NOTHING, m.TeamsView),
    _ask("scheduling", "status", _NOTHING, _STATUS),
    _ask("monitoring", "series", m.AskSeries, m.SeriesAnswer),
    _ask("monitoring", "latest", m.AskLatest, m.LatestAnswer),
    _ask("monitoring", "log", m.AskLog, m.LogAnswer),
    _ask("monitoring", "archived", m.AskArchived, m.ArchivedAnswer),
    _ask("monitoring", "status", _NOTHING, _STATUS),
    _ask("environments", "view", m.AskEnvironment, m.EnvironmentView),
    _ask("environments", "log", m.AskEnvironment, _BUILD_LOG),
    _ask("environments", "status", _NOTHING, _STATUS),
    _ask("capacity", "status", _NOTHING, _STATUS),
)


def messages() -> tuple[type[Any], ...]:
    """Every message type of ours that goes over some subject, each once, by name."""
    found = {body for channel in CHANNELS for body in (*channel.bodies, *channel.answers) if not isinstance(body, Raw)}
    return tuple(sorted(found, key=lambda kind: str(kind.__name__)))
