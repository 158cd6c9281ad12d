"""A submit in Ray's words: what it is in ours, and what is refused, by which field and with which hint."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.dashboard.modules.job.common import JobSubmitRequest
from ray.runtime_env import RuntimeEnv

from controlplane.gateway.ray_jobs import mapping
from events import messages as m


def a_tier(name: str, *, cpus: float, gpus: int = 0, gib: int = 4, nodes: int = 1, milli: int = 1000) -> m.Tier:
    size = m.Resources(cpus=cpus, memory_bytes=gib * 1024**3, gpus=gpus, nodes=nodes, gpu_milli=milli)
    return m.Tier(name=name, resources=size)


TIERS = (
    a_tier("cpu", cpus=1),
    a_tier("cpu8", cpus=8, gib=32),
    a_tier("half", cpus=4, gpus=1, milli=500),
    a_tier("gpu1", cpus=8, gpus=1, gib=60),
    a_tier("big1", cpus=32, gpus=1, gib=240),
    a_tier("gpu8x2", cpus=64, gpus=8, nodes=2),
)


def read(**fields: Any) -> tuple[mapping.Wanted, dict[str, m.Problem]]:
    """A request of these fields in our words, and its problems by their paths."""
    body = json.dumps({"entrypoint": "python train.py"} | fields).encode()
    wanted, problems = mapping.read(body, TIERS, "3.11")
    return wanted, {problem.path: problem for problem in problems}


def wanted(**fields: Any) -> mapping.Wanted:
    found, problems = read(**fields)
    assert not problems
    return found


def test_what_a_client_sends_by_itself_is_understood() -> None:
    env = {"working_dir": "gcs://_ray_pkg_0123456789abcdef.zip", "excludes": ["*.ckpt"], "env_vars": {"A": "b"}}
    found = wanted(
        entrypoint="python train.py --lr 0.1 | tee x",
        submission_id="mine",
        metadata={"owner": "ada"},
        runtime_env={**env, "pip": {"packages": ["numpy>=2", "torch"], "pip_check": False}, "_ray_commit": "b7f"},
    )
    assert found.entrypoint == ("/bin/sh", "-c", mapping.BEFORE + "python train.py --lr 0.1 | tee x")
    assert (found.submission_id, found.metadata, found.env) == ("mine", {"owner": "ada"}, {"A": "b"})
    assert found.package == "_ray_pkg_0123456789abcdef.zip"
    assert found.environment == m.EnvironmentRequest(python="3.11", roots=("numpy>=2", "torch"))


def test_both_streams_are_one_in_the_order_in_which_they_were_written() -> None:
    command = wanted(entrypoint="echo one; echo two >&2; echo three").entrypoint
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"one\ntwo\nthree\n", b"")


@pytest.mark.parametrize("env", [{"pip": ["a==1"]}, {"uv": ["a==1"]}, {"uv": {"packages": ["a==1"]}}])
def test_packages_as_the_client_of_ray_spells_them_are_roots(env: dict[str, Any]) -> None:
    assert wanted(runtime_env=RuntimeEnv(**env).to_dict()).environment == m.EnvironmentRequest(
        python="3.11", roots=("a==1",)
    )


def test_without_packages_it_is_the_nodes_own_interpreter() -> None:
    assert wanted().environment is None
    assert wanted(runtime_env={"pip": []}).environment is None
    assert wanted(metadata={"headrace.python": "3.12"}).environment == m.EnvironmentRequest(python="3.12")


@pytest.mark.parametrize(
    ("asked", "tier"),
    [
        ({}, ""),
        ({"entrypoint_num_cpus": 0, "entrypoint_num_gpus": 0}, ""),
        ({"entrypoint_num_cpus": 1}, "cpu"),
        ({"entrypoint_num_cpus": 1.5}, "cpu8"),
        ({"entrypoint_memory": 5 * 1024**3}, "cpu8"),
        ({"entrypoint_num_gpus": 1}, "gpu1"),
        ({"entrypoint_num_gpus": 0.5}, "half"),
        ({"entrypoint_num_gpus": 1, "entrypoint_num_cpus": 9}, "big1"),
        ({"entrypoint_num_gpus": 1, "entrypoint_memory": 100 * 1024**3}, "big1"),
        ({"metadata": {"headrace.tier": "gpu8x2"}}, "gpu8x2"),
        ({"metadata": {"headrace.tier": "big1"}, "entrypoint_num_gpus": 1}, "big1"),
        ({"metadata": {"headrace.tier": "unheard"}, "entrypoint_num_gpus": 1}, "unheard"),  # submission says no
    ],
)
def test_resources_choose_the_smallest_tier_that_has_them(asked: dict[str, Any], tier: str) -> None:
    assert wanted(**asked).tier == tier


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"entrypoint_num_gpus": 3}, "entrypoint_num_gpus"),
        ({"entrypoint_num_gpus": 8}, "entrypoint_num_gpus"),  # a tier of several nodes is only had by its name
        ({"entrypoint_num_cpus": 1000}, "entrypoint_num_cpus"),
        ({"entrypoint_memory": 10**14}, "entrypoint_memory"),
        ({"entrypoint_num_gpus": 1, "metadata": {"headrace.tier": "cpu"}}, "entrypoint_num_gpus"),
        ({"entrypoint_resources": {"TPU": 1}}, "entrypoint_resources"),
        ({"entrypoint_label_selector": {"ray.io/node-id": "x"}}, "entrypoint_label_selector.ray.io/node-id"),
        ({"metadata": {"headrace.teir": "gpu1"}}, "metadata.headrace.teir"),
        ({"metadata": {"headrace.queue": " "}}, "metadata.headrace.queue"),
        ({"entrypoint": " "}, "entrypoint"),
        ({"submission_id": "a/b"}, "submission_id"),
        ({"runtime_env": {"conda": {"dependencies": ["x"]}}}, "runtime_env.conda"),
        ({"runtime_env": {"container": {"image": "x"}}}, "runtime_env.container"),
        ({"runtime_env": {"image_uri": "x"}}, "runtime_env.image_uri"),
        ({"runtime_env": {"py_modules": ["gcs://_ray_pkg_00000000.zip"]}}, "runtime_env.py_modules"),
        ({"runtime_env": {"working_dir": "https://elsewhere/x.zip"}}, "runtime_env.working_dir"),
        ({"runtime_env": {"working_dir": "s3://bucket/x.zip"}}, "runtime_env.working_dir"),
        ({"runtime_env": {"working_dir": "./code"}}, "runtime_env.working_dir"),
        ({"runtime_env": {"working_dir": "gcs://../../x.zip"}}, "runtime_env.working_dir"),
        ({"runtime_env": {"config": {"setup_timeout_seconds": 1}}}, "runtime_env.config"),
        ({"runtime_env": {"pip": {"packages": ["a"], "pip_version": "==22"}}}, "runtime_env.pip.pip_version"),
        (
            {"runtime_env": {"pip": {"packages": ["a"], "pip_install_options": ["-U"]}}},
            "runtime_env.pip.pip_install_options",
        ),
        ({"runtime_env": {"pip": ["a"], "uv": ["b"]}}, "runtime_env.uv"),
        ({"runtime_env": {"telepathy": True}}, "runtime_env.telepathy"),
    ],
)
def test_what_cannot_be_had_is_refused_by_its_field_and_with_a_hint(fields: dict[str, Any], path: str) -> None:
    _, problems = read(**fields)
    assert set(problems) == {path}
    assert problems[path].message
    assert problems[path].hint


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"entrypoint": 7}, "entrypoint"),
        ({"submission_id": []}, "submission_id"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"entrypoint_num_cpus": "2"}, "entrypoint_num_cpus"),
        ({"entrypoint_num_gpus": True}, "entrypoint_num_gpus"),
        ({"entrypoint_num_gpus": -1}, "entrypoint_num_gpus"),
        ({"entrypoint_num_gpus": 1e300}, "entrypoint_num_gpus"),
        ({"runtime_env": []}, "runtime_env"),
        ({"runtime_env": {"env_vars": {"A": 1}}}, "runtime_env.env_vars.A"),
        ({"runtime_env": {"pip": "requirements.txt"}}, "runtime_env.pip"),
        ({"runtime_env": {"pip": ["a", 3]}}, "runtime_env.pip.packages[1]"),
        ({"runtime_env.pip": ["a"]}, "runtime_env.pip "),
        ({"runtime_env": {"excludes": [[["deep"]]]}}, "runtime_env.excludes[0]"),
        ({"runtime_env": {"pip": {"packages": [], "pip_check": [[]]}}}, "runtime_env.pip.pip_check"),
        ({"job_type": "x"}, "job_type"),
    ],
)
def test_what_is_of_the_wrong_kind_is_told_by_its_field(fields: dict[str, Any], path: str) -> None:
    assert set(read(**fields)[1]) == {path}


@pytest.mark.parametrize(
    "body", [b"", b"[", b"7", b"null", b'"x"', b"\xff", b"[" * 100_000, b'{"entrypoint": "\\ud800"}']
)
def test_a_body_that_is_no_object_is_one_problem(body: bytes) -> None:
    assert [problem.path for problem in mapping.read(body, TIERS, "3.11")[1]] == ["$"]


def test_a_selector_of_labels_is_a_constraint() -> None:
    found = wanted(
        entrypoint_label_selector={"gpu": "in(A100, H100)", "zone": "!in(a,b)", "node": "!n7", "disk": "ssd"}
    )
    assert found.on == {"gpu": ("A100", "H100"), "zone": ("!a", "!b"), "node": ("!n7",), "disk": ("ssd",)}


@pytest.mark.parametrize(
    ("ours", "rays"),
    [
        ("$.id", "submission_id"),
        ("$.name", "submission_id"),
        ("$.entrypoint[2]", "entrypoint"),
        ("$.env.PATH_1", "runtime_env.env_vars.PATH_1"),
        ("$.environment.roots[3]", "runtime_env.uv.packages[3]"),
        ("$.environment.python", "metadata.headrace.python"),
        ("$.tier", "metadata.headrace.tier"),
        ("$.queue", "metadata.headrace.queue"),
        ("$.on.gpu", "entrypoint_label_selector.gpu"),
        ("$.source", "runtime_env.working_dir"),
        ("$.labels.x", "$.labels.x"),
        ("$", "$"),
    ],
)
def test_a_problem_that_submission_finds_is_told_by_rays_field(ours: str, rays: str) -> None:
    assert mapping.path_of(ours, wanted(runtime_env={"uv": ["a"]})) == rays


def test_the_metadata_choose_a_private_cluster() -> None:
    assert wanted(metadata={"headrace.kind": "ray"}).kind == "ray"
    assert mapping.path_of("$.kind", wanted()) == "metadata.headrace.kind"


def test_the_table_has_every_field_of_rays_own_request_and_environment() -> None:
    fields = {row.field for row in mapping.TABLE}
    assert {field.name for field in dataclasses.fields(JobSubmitRequest)} <= fields
    assert {f"runtime_env.{name}" for name in RuntimeEnv.known_fields} - fields == set()


_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_INNER = [row.field.partition(".")[2] for row in mapping.TABLE if row.field.startswith("runtime_env.")]
_ENVS = st.dictionaries(st.sampled_from(_INNER) | st.text(max_size=6), _VALUES, max_size=4)
_BODIES = st.dictionaries(
    st.sampled_from([row.field for row in mapping.TABLE]) | st.text(max_size=6), _VALUES | _ENVS, max_size=6
)


@given(_BODIES | _VALUES)
def test_any_body_gives_a_submit_or_problems_with_a_path_and_never_an_exception(body: Any) -> None:
    found, problems = mapping.read(json.dumps(body).encode(), TIERS, "3.11")
    assert all(problem.path and problem.message for problem in problems)
    if not problems:
        assert found.command.strip()
        assert isinstance(found.entrypoint, tuple)


@given(st.binary(max_size=200))
def test_any_bytes_give_problems_and_never_an_exception(body: bytes) -> None:
    mapping.read(body, TIERS, "3.11")
