"""A real training script is preempted for a guaranteed share, and goes on from its checkpoint."""

from __future__ import annotations

import json

from tests.e2e.conftest import Headrace


def test_a_preempted_training_goes_on_from_its_checkpoint(headrace: Headrace) -> None:
    assert headrace("queues", "set", "batch", "--guaranteed-gpus", "1").status == 0
    train = ("python", "examples/digits/train.py", "--epochs", "60")
    said = headrace("run", "--detach", "--preemptible", "--tier", "gpu2", "--name", "victim", "--", *train)
    assert said.status == 0, said.err
    with headrace.lines("logs", "-f", "victim") as lines:
        assert any(line.startswith("epoch 3/") for line in lines)  # it has run for a while, and saved its work

    urgent = ("--no-source", "--no-environment", "--", "python3", "-c", "print('in')")
    said = headrace("run", "--queue", "batch", "--tier", "gpu1", "--name", "urgent", *urgent)
    assert (said.status, said.out) == (0, "in\n"), said.err

    with headrace.lines("logs", "-f", "victim", "--attempt", "2") as lines:
        first = next(lines)
        assert first.startswith("goes on behind epoch ")
        assert int(first.split()[-1]) >= 3
    assert headrace("cancel", "victim").status == 0
    assert headrace("queues", "set", "batch", "--guaranteed-gpus", "0").status == 0
    view = json.loads(headrace("show", "victim", "--json").out)
    preempted = [fact for fact in view["history"] if fact["type"] == "requeued"]
    assert "within what is guaranteed to it" in preempted[0]["text"]
