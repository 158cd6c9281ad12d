"""What stands in a job's environment."""

from __future__ import annotations

from pathlib import Path

import msgspec

from events import otlp_token
from events.messages import Allocation, AttemptRef, GangPart, Launch, Meeting
from runtime.job_environment import Surroundings, mark, of_gang, variables

LAUNCH = Launch(
    ref=AttemptRef(team="vision", job="j-1", attempt=2),
    user="ada",
    name="digits",
    allocation=Allocation(node="n1", cpus=1, memory_bytes=1, gpus=(0, 3)),
    entrypoint=("python",),
    traceparent="00-1-2-01",
)
AROUND = Surroundings(
    node="n1",
    job_folder=Path("/n/jobs/j-1"),
    attempt_folder=Path("/n/attempts/j-1.2"),
    pythonpath=Path("/n/pythonpath"),
    bin=Path("/n/environments/e/bin"),
    virtual_env=Path("/n/environments/e"),
    otlp_url="http://127.0.0.1:1",
    otlp_secret="s" * 16,
)


def test_the_packages_of_the_job_come_first_on_its_path() -> None:
    assert (
        variables(LAUNCH, AROUND, {"PATH": "/secret"})["PATH"] == "/n/environments/e/bin:/usr/local/bin:/usr/bin:/bin"
    )
    own = msgspec.structs.replace(LAUNCH, env={"PATH": "/opt/bin"})
    assert variables(own, AROUND, {})["PATH"] == "/n/environments/e/bin:/opt/bin"


def test_nothing_of_the_node_is_passed_on_but_how_to_reach_the_world() -> None:
    node = {"HOME": "/home/ada", "RAY_AUTH_TOKEN": "x", "HEADRACE_NATS_PASSWORD": "y", "https_proxy": "http://p"}
    found = variables(LAUNCH, AROUND, node)
    assert (found["HOME"], found["https_proxy"]) == ("/home/ada", "http://p")
    assert not {"RAY_AUTH_TOKEN", "HEADRACE_NATS_PASSWORD"} & set(found)


def test_the_user_overrides_the_base_and_never_what_is_ours() -> None:
    own = msgspec.structs.replace(LAUNCH, env={"PYTHONUNBUFFERED": "", "HEADRACE_TEAM": "other", "LANG": "de"})
    found = variables(own, AROUND, {})
    assert (found["PYTHONUNBUFFERED"], found["HEADRACE_TEAM"], found["LANG"]) == ("", "vision", "de")


def test_without_gpus_none_is_visible() -> None:
    none = msgspec.structs.replace(LAUNCH, allocation=Allocation(node="n1", cpus=1, memory_bytes=1))
    assert variables(none, AROUND, {})["CUDA_VISIBLE_DEVICES"] == ""
    assert variables(LAUNCH, AROUND, {})["CUDA_VISIBLE_DEVICES"] == "0,3"


def test_a_job_is_told_how_much_of_a_gpu_it_has() -> None:
    part = Allocation(node="n1", cpus=1, memory_bytes=1, gpus=(3,), gpu_milli=250)
    for allocation, share in (
        (part, "0.25"),
        (LAUNCH.allocation, "1"),
        (Allocation(node="n1", cpus=1, memory_bytes=1), "0"),
    ):
        launch = msgspec.structs.replace(LAUNCH, allocation=allocation)
        assert variables(launch, AROUND, {})["HEADRACE_GPU_SHARE"] == share


def test_its_token_stands_for_this_attempt() -> None:
    headers = variables(LAUNCH, AROUND, {})["OTEL_EXPORTER_OTLP_HEADERS"]
    token = headers.removeprefix("authorization=Bearer%20")
    assert otlp_token.check(b"s" * 16, token) == LAUNCH.ref


def test_the_mark_is_in_the_environment() -> None:
    name, _, value = mark(AROUND.attempt_folder).partition("=")
    assert variables(LAUNCH, AROUND, {})[name] == value


def test_a_part_of_a_gang_knows_its_rank_and_where_the_others_are() -> None:
    gang = GangPart(rank=2, size=4, meeting=Meeting(address="10.0.0.7", port=20_001))
    found = of_gang(msgspec.structs.replace(LAUNCH, gang=gang))
    plain = ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK")
    assert [found[name] for name in plain] == ["10.0.0.7", "20001", "2", "0", "4", "2"]
    torchrun = ("PET_NNODES", "PET_NODE_RANK", "PET_NPROC_PER_NODE", "PET_MASTER_ADDR", "PET_MASTER_PORT")
    assert [found[name] for name in torchrun] == ["4", "2", "2", "10.0.0.7", "20001"]
    always = variables(msgspec.structs.replace(LAUNCH, gang=gang), AROUND, {})
    assert (always["HEADRACE_RANK"], always["HEADRACE_NODES"]) == ("2", "4")
    assert "headrace.rank=2" in always["OTEL_RESOURCE_ATTRIBUTES"]


def test_a_job_on_one_node_is_left_alone_by_those_who_look_for_ranks() -> None:
    assert of_gang(LAUNCH) == {}
    found = variables(LAUNCH, AROUND, {})
    assert (found["HEADRACE_RANK"], found["HEADRACE_NODES"]) == ("0", "1")
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} & set(found)
