"""The program that a node runs for a job of `kind: ray`, and what it reads of what that leaves."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from events.messages import Allocation, AttemptEnd, AttemptRef, GangPart, Launch, Meeting
from headrace.private_ray import order
from runtime import private_ray
from runtime.exit_record import Spec

LAUNCH = Launch(
    ref=AttemptRef(team="vision", job="j-1", attempt=1),
    user="ada",
    name="tune",
    allocation=Allocation(node="n1", cpus=4, memory_bytes=2**33, gpus=(2, 3)),
    entrypoint=("python", "tune.py"),
    kind="ray",
)
SPEC = Spec(argv=LAUNCH.entrypoint, env={"PATH": "/e/bin:/usr/bin", "PYTHONPATH": "/n/pythonpath:mine"}, cwd="/w")
FAILED = AttemptEnd(cause="exited", ended_at=2.0, started_at=1.0, exit_code=1, exited_at=2.0)
SECRET = "s" * 64


def wanted(spec: Spec) -> order.Order:
    """The order in an argument vector, by the reader that it is meant for."""
    return order.read(spec.argv[5])


def test_the_entrypoint_follows_an_order_that_has_what_the_allocation_has() -> None:
    made = private_ray.within(SPEC, LAUNCH, host="10.0.0.7")
    assert wanted(made) == order.Order(cpus=4, memory_bytes=2**33, gpus=2, host="10.0.0.7")
    assert made.argv[1:3] == ("-I", "-c")
    assert made.argv[4] == "/n/pythonpath"
    assert made.argv[6:] == ("python", "tune.py")
    assert (made.env, made.cwd) == (SPEC.env, "/w")


def test_a_part_of_a_gang_knows_its_head_and_its_token_is_no_argument() -> None:
    gang = GangPart(rank=1, size=3, meeting=Meeting(address="10.0.0.7", port=20_001, token=SECRET))
    made = private_ray.within(SPEC, msgspec.structs.replace(LAUNCH, gang=gang), host="10.0.0.8")
    assert wanted(made)[4:] == (1, 3, "10.0.0.7:20001")
    assert made.env[order.TOKEN] == SECRET
    assert SECRET not in " ".join(made.argv)
    assert "RANK" not in made.env


def test_only_a_cluster_has_a_token_and_each_has_another() -> None:
    assert private_ray.new_token(msgspec.structs.replace(LAUNCH, kind="plain")) == ""
    tokens = {private_ray.new_token(LAUNCH) for _ in range(10)}
    assert len(tokens) == 10
    assert {len(token) for token in tokens} == {64}


def leave(folder: Path, text: str) -> Path:
    (folder / "scratch").mkdir()
    path = folder / "scratch" / private_ray.FAILURE
    path.write_text(text)
    return path


def test_what_kept_a_cluster_from_starting_is_the_end_of_the_attempt(tmp_path: Path) -> None:
    leave(tmp_path, json.dumps({"cause": "start_failed", "message": "no Ray" + "!" * 9000})[:8000] + '"}')
    end = private_ray.seen(FAILED, tmp_path)
    assert (end.cause, end.exit_code, end.started_at, end.exited_at) == ("start_failed", None, None, None)
    assert end.message.startswith("no Ray!!")
    assert len(end.message) == private_ray.MESSAGE_CHARACTERS_MAX


def test_what_broke_later_is_told_beside_the_exit_code(tmp_path: Path) -> None:
    leave(tmp_path, '{"cause": "exited", "message": "the raylet was killed"}')
    assert private_ray.seen(FAILED, tmp_path) == msgspec.structs.replace(FAILED, message="the raylet was killed")


@pytest.mark.parametrize(
    "end",
    [
        msgspec.structs.replace(FAILED, exit_code=0),
        AttemptEnd(cause="stopped", ended_at=2.0, exit_code=1),
        AttemptEnd(cause="out_of_memory", ended_at=2.0, signal=9),
    ],
)
def test_a_word_counts_only_where_the_program_failed(tmp_path: Path, end: AttemptEnd) -> None:
    leave(tmp_path, '{"cause": "start_failed", "message": "no Ray"}')
    assert private_ray.seen(end, tmp_path) == end


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cause": "fenced", "message": "x"}', "\ud800", '{"message": 3}'])
def test_what_a_job_may_have_written_there_itself_is_no_reason(tmp_path: Path, text: str) -> None:
    leave(tmp_path, "").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert private_ray.seen(FAILED, tmp_path) == FAILED


def test_neither_a_link_nor_a_pipe_nor_nothing_is_followed(tmp_path: Path) -> None:
    path = leave(tmp_path, "")
    (tmp_path / "elsewhere").write_text('{"cause": "start_failed", "message": "of somebody else"}')
    path.unlink()
    assert private_ray.seen(FAILED, tmp_path) == FAILED
    path.symlink_to(tmp_path / "elsewhere")
    assert private_ray.seen(FAILED, tmp_path) == FAILED
    path.unlink()
    os.mkfifo(path)
    assert private_ray.seen(FAILED, tmp_path) == FAILED
