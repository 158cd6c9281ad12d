"""`headrace.submit` from Python: the same road as `headrace run`, without a terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest

import headrace
from headrace import errors, jobs
from tests.support.fake_gateway import JOB, RUNNING, SUCCEEDED, FakeGateway
from tests.support.terminal import Terminal


def submitted(gateway: FakeGateway) -> dict[str, Any]:
    (body,) = [json.loads(content) for method, path, content in gateway.asked if (method, path) == ("POST", "/v1/jobs")]
    assert isinstance(body, dict)
    return body


def test_a_job_is_submitted_waited_for_and_read(terminal: Terminal, gateway: FakeGateway) -> None:
    def on_submit(fake: FakeGateway, body: dict[str, Any]) -> None:
        fake.state(**RUNNING)
        fake.prints(b"done\n")
        fake.state(**SUCCEEDED)
        fake.ends()

    gateway.on_submit = on_submit
    gateway.series = [{"name": "loss", "steps": [1, 2], "values": [0.5, None]}]
    (terminal.folder / "project" / "train.py").write_text("print('done')\n")
    job = headrace.submit("python train.py --name 'a b'", tier="cpu", time_limit="2h", environment=None)
    assert job.wait()["state"] == "succeeded"
    assert (job.id, job.state, job.logs()) == (JOB, "succeeded", b"done\n")
    assert job.metrics() == {"loss": [(1, 0.5), (2, None)]}
    body = submitted(gateway)
    assert body["entrypoint"] == ["python", "train.py", "--name", "a b"]
    assert body["time_limit_s"] == 7200
    assert body["source"] in gateway.blobs


def test_a_job_that_fails_raises_with_its_reason(terminal: Terminal, gateway: FakeGateway) -> None:
    def on_submit(fake: FakeGateway, body: dict[str, Any]) -> None:
        fake.state(**RUNNING | {"state": "failed", "exit_code": 3, "reason": "exit code 3"})
        fake.ends()

    gateway.on_submit = on_submit
    with pytest.raises(jobs.JobFailed, match="exit code 3") as failed:
        headrace.submit(["python", "x.py"], source=None, environment=None, wait=True)
    assert failed.value.view["exit_code"] == 3


def test_an_environment_can_be_given_as_data(terminal: Terminal, gateway: FakeGateway) -> None:
    wanted = {"python": "3.11", "roots": ["numpy"]}
    headrace.submit(["python", "x.py"], source=None, environment=wanted, id="mine")
    body = submitted(gateway)
    assert (body["environment"], body["id"], "source" in body) == (wanted, "mine", False)


def test_a_mistake_in_the_call_is_told_before_anything_is_asked(terminal: Terminal, gateway: FakeGateway) -> None:
    with pytest.raises(errors.UsageError, match="time_limit"):
        headrace.submit(["x"], time_limit="soon")
    with pytest.raises(errors.UsageError, match="environment"):
        headrace.submit(["x"], environment="conda")
    assert gateway.asked == []


def test_importing_the_module_does_not_take_the_place_of_the_function() -> None:
    assert callable(headrace.submit)
