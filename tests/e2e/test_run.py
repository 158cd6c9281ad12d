"""A user at a laptop: `headrace run` and what comes after it."""

from __future__ import annotations

import json
from pathlib import Path

from load_tests.stack import Stack
from tests.e2e.conftest import Headrace


def _jobs(headrace: Headrace) -> dict[str, dict[str, object]]:
    said = headrace("jobs", "--all", "--json")
    assert said.status == 0, said.err
    return {job["name"]: job for job in map(json.loads, said.out.splitlines())}


def test_digits_example_reaches_95_percent_and_leaves_its_model(headrace: Headrace, stack: Stack) -> None:
    said = headrace("run", "--name", "digits", "--", "python", "examples/digits/train.py", "--epochs", "5")
    assert said.status == 0, said.err
    assert "epoch 5/5" in said.out

    job = _jobs(headrace)["digits"]
    series = {each["name"]: each for each in map(json.loads, headrace("metrics", "digits", "--json").out.splitlines())}
    assert series["test/accuracy"]["values"][-1] >= 0.95
    assert (series["loss"]["count"], series["loss"]["steps"][-1]) == (450, 450)
    assert (stack.state / "nodes" / stack.about["node"] / "jobs" / str(job["job"]) / "model.pkl").exists()


def test_plain_opentelemetry_metrics_arrive_sampled(headrace: Headrace) -> None:
    said = headrace("run", "--name", "plain-otel", "--", "python", "examples/opentelemetry/train.py")
    assert said.status == 0, said.err
    names = {json.loads(line)["name"] for line in headrace("metrics", "plain-otel", "--json").out.splitlines()}
    assert {"loss", "samples"} <= names


def test_run_exits_with_the_exit_code_of_the_job(headrace: Headrace, tmp_path: Path) -> None:
    (tmp_path / "fail.py").write_text("import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)")
    said = headrace("run", "--name", "seven", "--", "python", "fail.py", folder=tmp_path)
    assert said.status == 7
    assert said.out == "out\n"
    assert "err" in said.err
    assert "exit code 7" in str(_jobs(headrace)["seven"]["reason"])


def test_uncommitted_changes_travel_with_the_job(headrace: Headrace, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("WORD = 'before'")
    (tmp_path / "main.py").write_text("import helper; print(helper.WORD)")
    assert headrace("run", "--", "python", "main.py", folder=tmp_path).out == "before\n"
    (tmp_path / "helper.py").write_text("WORD = 'after'")
    assert headrace("run", "--", "python", "main.py", folder=tmp_path).out == "after\n"


def test_gpus_are_given_by_index_and_a_queued_job_says_why(headrace: Headrace, tmp_path: Path) -> None:
    (tmp_path / "gpu.py").write_text(
        "import os, time, pathlib\n"
        "print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n"
        "while not pathlib.Path(os.environ['GO']).exists(): time.sleep(0.05)\n"
    )
    go = tmp_path / "go"
    first = ["run", "--detach", "--name", "both", "--tier", "gpu2", "--env", f"GO={go}"]
    assert headrace(*first, "--", "python", "gpu.py", folder=tmp_path).status == 0
    second = ["run", "--detach", "--name", "waits", "--tier", "gpu1", "--env", f"GO={go}"]
    assert headrace(*second, "--", "python", "gpu.py", folder=tmp_path).status == 0

    why = headrace("why", "waits")
    assert why.status == 0, why.err
    assert "GPU" in why.out

    go.touch()
    for name, devices in (("both", "0,1\n"), ("waits", "0\n")):
        assert headrace("logs", "-f", name).out == devices


def test_cancelled_job_stops_and_says_by_whom(headrace: Headrace, tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text("import time\nprint('on', flush=True)\ntime.sleep(600)\n")
    assert headrace("run", "--detach", "--name", "long", "--", "python", "long.py", folder=tmp_path).status == 0
    assert headrace("cancel", "long").status == 0
    assert headrace("logs", "-f", "long").status == 0  # returns when the job has ended
    assert _jobs(headrace)["long"]["state"] == "cancelled"


def test_unknown_tier_is_refused_with_a_hint(headrace: Headrace, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("")
    said = headrace("run", "--tier", "gpu3", "--", "python", "x.py", folder=tmp_path)
    assert said.status == 1
    assert "gpu3" in said.err
    assert "gpu2" in said.err
    assert "Traceback" not in said.err
