"""Every message and every settings file: what is written is what is read, and what is nearly right has an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from controlplane.backup import Manifest
from controlplane.config import Configuration, ConfigurationError
from controlplane.config import load as load_configuration
from controlplane.gateway.blobs import Missing
from controlplane.gateway.contract import MissingBlobs
from controlplane.monitoring.answers import _read as read_question
from controlplane.scheduling import reports
from controlplane.submission import configuring, machine_rules
from controlplane.submission import core as submission
from events import ledger
from events import messages as m
from events.bus import Asked, AskRefused
from events.schema.channels import messages
from events.wire import UNREADABLE, Delivery
from load_tests.fuzzing.parsers import CONFIG, QUEUES, hear
from runtime.settings import RunnerSettings, SettingsError
from runtime.settings import load as load_settings
from runtime.shipping.positions import Shipped
from runtime.supervised import Status
from tests.support.structs import nearly, values

KINDS = [*messages(), MissingBlobs, Missing, RunnerSettings, Configuration, Manifest, Shipped, Status, m.Launch]
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
JOB = "j-abcdefghij23"
NOW = 1_000_000.0


def by_name(kind: type[Any]) -> str:
    return kind.__name__


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_what_is_written_is_what_is_read(kind: type[Any]) -> None:
    @QUICK
    @given(values(kind))
    def check(value: Any) -> None:
        assert msgspec.json.decode(msgspec.json.encode(value), type=kind) == value

    check()


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_what_is_nearly_right_is_answered(kind: type[Any], tmp_path: Path) -> None:
    door = _DOORS.get(kind, _decoded(kind))

    @QUICK
    @given(nearly(kind))
    def check(content: bytes) -> None:
        assert all(door(content, tmp_path))

    check()


# -- the doors: each gives the words with which it refuses -------------------------------------------------------------

Door = Callable[[bytes, Path], Sequence[str]]


def _decoded(kind: type[Any]) -> Door:
    def door(content: bytes, _: Path) -> Sequence[str]:
        try:
            value = msgspec.json.decode(content, type=kind)
        except UNREADABLE as error:
            return [str(error)]
        assert isinstance(value, kind)
        return []

    return door


def _submit(content: bytes, _: Path) -> Sequence[str]:
    request = submission.Incoming(team="vision", user="ada", body=content, at=NOW, event_id="1", place="1@1.0")
    answer = submission.decide_submit(request, CONFIG, QUEUES).answer
    assert answer.verdict == ("rejected" if answer.problems else "accepted")
    assert msgspec.json.decode(msgspec.json.encode(answer), type=m.Answer) == answer
    return _named(answer.problems)


def _control(content: bytes, _: Path) -> Sequence[str]:
    order = submission.Ordered(team="vision", user="ada", job=JOB, body=content, at=NOW)
    control, found = submission.read_control(order, CONFIG)
    assert (control is None) == bool(found.problems)
    return _named(found.problems)


def _change(content: bytes, _: Path) -> Sequence[str]:
    said: list[str] = []
    for queue in ("night", ""):
        change, found = configuring.read(configuring.Order("ops", "vision", queue, content), CONFIG, QUEUES)
        assert (change is None) == bool(found.problems)
        said += _named(found.problems)
    return said


def _machine(content: bytes, _: Path) -> Sequence[str]:
    change, found = machine_rules.read(machine_rules.MachineOrder("ops", "n1", content))
    assert (change is None) == bool(found.problems)
    return _named(found.problems)


def _named(problems: Sequence[m.Problem]) -> Sequence[str]:
    assert all(problem.path.startswith("$") for problem in problems)
    return [problem.message for problem in problems]


def _exchange(content: bytes, _: Path) -> Sequence[str]:
    try:
        exchange = msgspec.json.decode(content, type=m.Exchange)
    except UNREADABLE as error:
        return [str(error)]
    if said := reports.problem(exchange):
        assert said.startswith("$.")
        return [said]
    hear(msgspec.structs.replace(exchange, node="n1"))
    return []


def _question(kind: type[Any]) -> Door:
    def door(content: bytes, _: Path) -> Sequence[str]:
        try:
            question = read_question(Asked("hr.v1.ask.monitoring.x", content, {}), kind)
        except AskRefused as error:
            return [error.refusal.message, error.refusal.hint]
        assert isinstance(question, kind)
        return []

    return door


def _fact(content: bytes, _: Path) -> Sequence[str]:
    try:
        ledger.entry(Delivery(f"hr.v1.job.vision.{JOB}", content, sequence=7))
    except ledger.UnknownFact as error:
        return [str(error).removeprefix(f"fact 7 on hr.v1.job.vision.{JOB}: ")]
    return []


def _settings(load: Callable[[Path], object], refusal: type[Exception]) -> Door:
    def door(content: bytes, folder: Path) -> Sequence[str]:
        file = folder / "settings.json"
        file.write_bytes(content)
        try:
            load(file)
        except refusal as error:
            return [str(error)]
        return []

    return door


_DOORS: dict[type[Any], Door] = {
    m.Submit: _submit,
    m.Exchange: _exchange,
    RunnerSettings: _settings(load_settings, SettingsError),
    Configuration: _settings(lambda file: load_configuration(file, {}, {}), ConfigurationError),
    **dict.fromkeys(get_args(m.Control), _control),
    **dict.fromkeys(get_args(m.Change), _change),
    **dict.fromkeys(get_args(m.NodeChange), _machine),
    **dict.fromkeys(get_args(m.AnyFact), _fact),
    **{kind: _question(kind) for kind in (m.AskSeries, m.AskLatest, m.AskLog, m.AskArchived)},
}
