"""A user of Ray: the unmodified `ray job …` against a whole stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import pytest
from ray.job_submission import JobSubmissionClient

from load_tests.stack import Stack, until
from tests.e2e.conftest import RUN_S_MAX, Said

TRAIN: Final = """import os, sys, itsdangerous, helper
print("itsdangerous", itsdangerous.__version__, helper.WORD, os.environ["KEY"], flush=True)
print("an error", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


class RayJob:
    """`ray job` with the token of the stack, and the interpreter that runs the tests."""

    def __init__(self, stack: Stack, token: str) -> None:
        headers = json.dumps({"Authorization": f"Bearer {token}"})
        self._environ = {**os.environ, "RAY_ADDRESS": stack.about["url"], "RAY_JOB_HEADERS": headers, "NO_COLOR": "1"}

    def __call__(self, *words: str, folder: Path | None = None) -> Said:
        done = subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", "job", *words],
            cwd=folder,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=RUN_S_MAX,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def ray_job(stack: Stack) -> RayJob:
    return RayJob(stack, stack.about["token"])


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "train.py").write_text(TRAIN)
    (folder / "helper.py").write_text("WORD = 'helps'")
    return folder


def _env(**more: object) -> str:
    return json.dumps({"pip": ["itsdangerous==2.2.0"], "env_vars": {"KEY": "value"}, **more})


def test_a_folder_and_packages_travel_and_the_output_comes_back(ray_job: RayJob, code: Path) -> None:
    words = ("submit", "--submission-id", "good", "--working-dir", str(code), "--runtime-env-json", _env())
    said = ray_job(*words, "--", "python", "train.py", "0")
    assert said.status == 0, said.err
    assert "itsdangerous 2.2.0 helps value\nan error\n" in said.out
    assert "Job 'good' succeeded" in said.out
    assert "an error" in ray_job("logs", "good").out
    assert "submission_id='good'" in ray_job("list").out


def test_a_job_that_fails_ends_the_command_with_1(ray_job: RayJob, code: Path, stack: Stack) -> None:
    words = ("submit", "--submission-id", "bad", "--working-dir", str(code), "--runtime-env-json", _env())
    said = ray_job(*words, "--", "python", "train.py", "7")
    assert said.status == 1
    assert "Job 'bad' failed" in said.out
    assert "exit code 7" in said.out
    headers = {"Authorization": f"Bearer {stack.about['token']}"}
    told = JobSubmissionClient(stack.about["url"], headers=headers).get_job_info("bad")
    assert (told.status, told.driver_exit_code, told.driver_node_id) == ("FAILED", 7, stack.about["node"])
    assert ray_job("delete", "bad").status == 0
    assert "Job bad does not exist" in ray_job("status", "bad").err


def test_a_job_is_followed_stopped_and_deleted(ray_job: RayJob, stack: Stack) -> None:
    entrypoint = ("bash", "-c", "trap 'echo bye; exit 0' TERM; echo on; while true; do sleep 0.1; done")
    assert ray_job("submit", "--no-wait", "--submission-id", "long", "--", *entrypoint).status == 0
    followed: list[Said] = []
    following = threading.Thread(target=lambda: followed.append(ray_job("logs", "--follow", "long")))
    following.start()
    until(lambda: stack.job("long")["state"] == "running", limit_s=60, what="the job")
    refused = ray_job("delete", "long")
    assert refused.status == 1
    assert "status code 500: Attempted to delete job 'long', but it is in a non-terminal state RUNNING." in refused.err
    stopped = ray_job("stop", "long")
    assert stopped.status == 0, stopped.err
    assert "Job 'long' was stopped" in stopped.out
    following.join(RUN_S_MAX)
    assert "on\n" in followed[0].out
    assert "bye\n" in followed[0].out
    assert "Job 'long' was stopped" in followed[0].out
    assert ray_job("delete", "long").status == 0
    assert "submission_id='long'" not in ray_job("list").out


def test_a_job_that_waits_says_why(ray_job: RayJob) -> None:
    for name in ("all", "waits"):
        words = ("submit", "--no-wait", "--submission-id", name, "--entrypoint-num-gpus", "2")
        assert ray_job(*words, "--", "sleep", "300").status == 0
    said = ray_job("status", "waits")
    assert "Status for job 'waits': PENDING" in said.out
    assert "GPU" in said.out
    for name in ("all", "waits"):
        assert ray_job("stop", name).status == 0


def test_what_is_not_possible_is_said_by_the_command(ray_job: RayJob, stack: Stack) -> None:
    said = ray_job("submit", "--entrypoint-num-gpus", "5", "--", "true")
    assert said.status == 1
    assert "status code 400: entrypoint_num_gpus: no tier has this; tiers of your team: cpu (0 GPUs" in said.err
    said = ray_job("submit", "--runtime-env-json", '{"conda": {"dependencies": ["pip"]}}', "--", "true")
    assert "status code 400: runtime_env.conda: is not possible here" in said.err
    said = RayJob(stack, "wrong")("list")
    assert said.status == 1
    assert "Authentication failed: Forbidden: Invalid authentication token" in said.err
