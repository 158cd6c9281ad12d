"""What becomes of a submit, on the pure core."""

from __future__ import annotations

import json
import string
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.submission import check, core, reading
from events import messages as m
from events.identity import environment_digest, job_id
from runtime import job_environment
from tests.support.malformed_submits import MALFORMED, Malformed
from tests.support.submitting import CONFIG, QUEUES, accepted, incoming, rejected

DIGEST = "sha256:" + "0" * 64
OTHER = "j-abcdefghij23"


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.what)
def test_a_malformed_submit_is_rejected_with_every_path_and_a_hint(case: Malformed) -> None:
    decision = rejected(incoming(case.body))
    told = {problem.path: f"{problem.message} {problem.hint}" for problem in decision.answer.problems}
    assert set(told) == set(case.problems)
    for path, piece in case.problems.items():
        assert piece in told[path]
    assert decision.fact is not None
    assert msgspec.json.decode(msgspec.json.encode(decision.fact), type=m.Rejected) == decision.fact


def test_the_table_of_malformed_submits_has_at_least_thirty_rows() -> None:
    assert len(MALFORMED) >= 30
    assert len({case.what for case in MALFORMED}) == len(MALFORMED)


def test_a_submit_gets_every_default_from_the_configuration() -> None:
    specification = accepted(incoming()).fact.specification
    tier = CONFIG.tier("cpu")
    assert tier is not None
    assert specification == m.Specification(
        job=job_id(team="vision", user="ada", client_id="7@1000.0"),
        team="vision",
        user="ada",
        name="train",
        queue="default",
        tier="cpu",
        resources=tier.resources,
        entrypoint=("python", "train.py"),
        grace_s=CONFIG.grace_s_default,
        attempts_max=CONFIG.attempts_max_default,
        submitted_at=1000.0,
    )


def test_a_gang_has_on_each_node_what_its_tier_brings() -> None:
    tier = CONFIG.tier("gpu2")
    assert tier is not None
    resources = accepted(incoming(tier="gpu2", nodes=4)).fact.specification.resources
    assert resources == msgspec.structs.replace(tier.resources, nodes=4)
    assert accepted(incoming(tier="gpu2", nodes=None)).fact.specification.resources == tier.resources


@pytest.mark.parametrize("nodes", [0, -1, 1025, 1.5, "4", True])
def test_a_number_of_nodes_that_cannot_be_is_a_problem(nodes: Any) -> None:
    (problem,) = rejected(incoming(nodes=nodes)).answer.problems
    assert problem.path == "$.nodes"


def test_what_a_gang_is_told_by_us_nobody_else_may_say() -> None:
    (problem,) = rejected(incoming(nodes=2, env={"MASTER_PORT": "29500"})).answer.problems
    assert problem.path == "$.env.MASTER_PORT"
    accepted(incoming(nodes=1, env={"MASTER_PORT": "29500"}))


def test_the_kind_of_a_job_reaches_its_specification() -> None:
    assert accepted(incoming(kind="ray", nodes=2, tier="gpu2")).fact.specification.kind == "ray"
    assert accepted(incoming(kind="plain")).fact.specification.kind == "plain"
    assert accepted(incoming()).fact.specification.kind == "plain"


@pytest.mark.parametrize("kind", ["Ray", "", "dask", None, 3, ["ray"], {"ray": 1}])
def test_a_kind_that_there_is_not_is_a_problem(kind: Any) -> None:
    (problem,) = rejected(incoming(kind=kind)).answer.problems
    assert (problem.path, "`ray`" in problem.hint) == ("$.kind", True)


@pytest.mark.parametrize(
    ("roots", "added"),
    [
        (("torch",), True),
        ((), True),
        (("xray", "raylib", "ray-on-golem"), True),
        (("ray",), False),
        (("torch", "Ray[data,train]==2.60.0"), False),
        (("ray >= 2.55",), False),
    ],
)
def test_an_environment_without_ray_gets_it_where_the_job_is_to_have_a_cluster(
    roots: tuple[str, ...], added: bool
) -> None:
    asked = m.EnvironmentRequest(python="3.11", roots=roots)
    found = accepted(incoming(kind="ray", environment=msgspec.to_builtins(asked)))
    assert found.environment == msgspec.structs.replace(asked, roots=(*roots, check.RAY_ROOT) if added else roots)
    assert found.fact.specification.environment == environment_digest(found.environment)
    assert [warning.path for warning in found.fact.warnings] == ["$.environment.roots"] * added
    plain = accepted(incoming(environment=msgspec.to_builtins(asked)))
    assert plain.environment == asked


def test_what_a_cluster_is_told_by_us_nobody_else_may_say() -> None:
    problems = rejected(incoming(kind="ray", env=dict.fromkeys(check.RAY_ENV, "x"))).answer.problems
    assert {problem.path for problem in problems} == {f"$.env.{name}" for name in check.RAY_ENV}
    accepted(incoming(env={"RAY_ADDRESS": "auto"}))


def test_what_is_told_to_a_gang_is_reserved() -> None:
    gang = m.GangPart(rank=1, size=2, meeting=m.Meeting(address="n1", port=1))
    launch = m.Launch(
        ref=m.AttemptRef(team="vision", job="j", attempt=1),
        user="ada",
        name="j",
        allocation=m.Allocation(node="n1", cpus=1, memory_bytes=1),
        entrypoint=("true",),
        gang=gang,
    )
    assert job_environment.of_gang(launch).keys() == check.GANG_ENV


def test_a_part_of_a_gpu_is_only_on_one_node() -> None:
    half = m.Tier(name="half", resources=m.Resources(cpus=1, memory_bytes=1, gpus=1, gpu_milli=500))
    found = reading.Findings()
    check.check_gang(m.Submit(entrypoint=("true",), nodes=2), half, found)
    assert [problem.path for problem in found.problems] == ["$.nodes"]


def test_every_field_of_a_submit_reaches_the_specification() -> None:
    decision = accepted(
        incoming(
            type="submit",
            id="run-17",
            name="big one",
            queue="night",
            tier="gpu2",
            env={"LR": "0.1"},
            source=DIGEST,
            folder="./a//b/",
            environment={
                "python": "3.11.7",
                "roots": ["torch[cuda]>=2,<3; python_version > '3'"],
                "preferences": ["torch==2.1.0+cu121"],
            },
            time_limit_s=60,
            grace_s=5,
            priority=-3,
            attempts_max=1,
            hold=True,
            labels={"sweep": "a"},
            after=[{"job": OTHER, "on": "any"}],
            begin_at=2000,
            deadline_at=3000.5,
            retries=2,
            array="0-15:4, 1%2",
            preemptible=True,
        )
    )
    specification = decision.fact.specification
    assert decision.fact.held
    assert specification.preemptible
    assert decision.environment is not None
    assert specification.environment == environment_digest(decision.environment)
    assert (specification.name, specification.queue, specification.tier) == ("big one", "night", "gpu2")
    assert (specification.folder, specification.source, specification.env) == ("a/b", DIGEST, {"LR": "0.1"})
    assert (specification.time_limit_s, specification.grace_s, specification.priority) == (60.0, 5.0, -3)
    assert (specification.attempts_max, specification.labels, specification.resources.gpus) == (1, {"sweep": "a"}, 2)
    assert (specification.array, specification.array_at_once) == ("0-12:4,1", 2)
    assert specification.after == (m.Dependency(job=OTHER, on="any"),)
    assert (specification.begin_at, specification.deadline_at, specification.retries) == (2000.0, 3000.5, 2)


def test_a_constraint_narrows_where_its_tier_may_be() -> None:
    a100, v100 = {"gpu": ("A100",)}, {"gpu": ("V100",)}
    tiers = tuple(
        msgspec.structs.replace(tier, on=(a100, v100)) if tier.name == "gpu1" else tier for tier in CONFIG.tiers
    )
    config = msgspec.structs.replace(CONFIG, tiers=tiers)

    def decided(**fields: Any) -> Any:
        return core.decide_submit(incoming(**fields), config, QUEUES)

    assert decided(tier="gpu1").fact.specification.on == (a100, v100)
    assert decided(tier="gpu1", on={"gpu": "V100"}).fact.specification.on == (v100,)
    assert decided(on={"node": ["!n7"]}).fact.specification.on == ({"node": ("!n7",)},)
    (problem,) = decided(tier="gpu1", on={"gpu": ["T4"]}).answer.problems
    assert (problem.path, problem.hint) == (
        "$.on",
        "it is on gpu=A100, or else gpu=V100; choose another tier, or leave `on` out",
    )


def test_an_unknown_field_is_a_warning_with_the_one_that_was_meant() -> None:
    decision = accepted(incoming(tire="gpu2", environment={"python": "3.11", "root": ["numpy"]}))
    assert [(problem.path, problem.hint) for problem in decision.fact.warnings] == [
        ("$.tire", "did you mean `tier`?"),
        ("$.environment.root", "did you mean `roots`?"),
    ]
    assert decision.answer.warnings == decision.fact.warnings


def test_the_id_in_the_body_comes_before_the_event_id_and_that_before_the_place() -> None:
    by_place = incoming()
    by_event = by_place._replace(event_id="e1")
    by_body = incoming(id="b1")._replace(event_id="e1")
    expected = [job_id(team="vision", user="ada", client_id=each) for each in ("7@1000.0", "e1", "b1")]
    assert [accepted(each).job for each in (by_place, by_event, by_body)] == expected


def test_the_same_id_of_another_user_or_team_is_another_job() -> None:
    jobs = {
        accepted(incoming(id="x", team=team, user=user)).job for team in ("vision", "speech") for user in ("a", "b")
    }
    assert len(jobs) == 4


def test_a_rejected_submit_keeps_its_identity_however_bad_its_id_is() -> None:
    bad = incoming(id="\ud800" * 1000, tier="none")
    assert rejected(bad).job == rejected(bad).job != rejected(incoming(id=7, tier="none")).job


def test_a_team_that_is_not_configured_leaves_no_fact() -> None:
    decision = rejected(incoming(team="visoin"))
    assert decision.fact is None
    assert decision.answer.problems[0].hint == "did you mean `vision`?"


def test_a_trace_goes_on_and_where_there_is_none_it_follows_from_the_job() -> None:
    given_one = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    assert accepted(incoming()._replace(traceparent=given_one)).traceparent == given_one
    made = accepted(incoming()._replace(traceparent="00-zz")).traceparent
    assert made == accepted(incoming()).traceparent
    assert core.trace(made, "", "") == made


def test_a_repeated_submit_is_told_its_job_and_a_rejected_one_its_problems_again() -> None:
    assert core.repeated("j", accepted(incoming()).fact, 5) == m.Answer(verdict="repeated", job="j", sequence=5)
    problem = m.Problem(path="$", message="bad")
    answer = core.repeated("j", m.Rejected(user="ada", problems=(problem,)), 5)
    assert (answer.verdict, answer.problems) == ("rejected", (problem,))
    assert answer.warnings[0].path == "$.id"


@pytest.mark.parametrize(
    ("entrypoint", "name"),
    [
        (["python", "-u", "a/train.py", "--lr", "1"], "train"),
        (["python", "-m", "package.main"], "package.main"),
        (["torchrun", "--nproc", "2", "run_it.py"], "run_it"),
        (["./bin/simulate", "--fast"], "simulate"),
        (["bash", "-c", "echo a/b"], "bash"),
        (["j-abcdefghij23"], "job"),
        (["a" * 500], "a" * 127 + "…"),
        (["a\nb"], "a�b"),
    ],
)
def test_a_job_without_a_name_is_called_after_what_it_runs(entrypoint: list[str], name: str) -> None:
    assert core.name_of(entrypoint) == name


def test_a_hundred_problems_are_told_as_fifty_and_the_rest_as_a_number() -> None:
    answer = rejected(incoming(entrypoint=[1] * 100)).answer
    assert len(answer.problems) == 51
    assert answer.problems[-1].message == "and 50 problems more"


@pytest.mark.parametrize(
    "root",
    [
        "numpy",
        "numpy>=2,<3",
        "torch[cuda,x]==2.1.*",
        "a ; python_version >= '3.11' and sys_platform == \"linux\"",
        "a (>=1)",
    ],
)
def test_ordinary_requirements_are_taken(root: str) -> None:
    assert accepted(incoming(environment={"python": "3.11", "roots": [root]})).environment is not None


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)
FIELDS = st.sampled_from([*m.Submit.__struct_fields__, "type", "x"])
NASTY_TEXT = st.text(alphabet=st.characters(codec="utf-8") | st.sampled_from("\0\ud800\n./" + string.digits))


SLOW_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SLOW_MACHINE
@given(st.binary())
def test_whatever_bytes_come_in_something_is_decided(body: bytes) -> None:
    _decided(body)


@SLOW_MACHINE
@given(st.dictionaries(FIELDS, ANY_JSON | NASTY_TEXT | st.lists(NASTY_TEXT) | st.dictionaries(NASTY_TEXT, NASTY_TEXT)))
def test_whatever_stands_in_the_fields_something_is_decided(fields: dict[str, object]) -> None:
    _decided(json.dumps(fields).encode())


@SLOW_MACHINE
@given(st.dictionaries(st.sampled_from(["type", "why", "priority", "before", "after", "x"]), ANY_JSON | NASTY_TEXT))
def test_whatever_a_control_says_something_is_decided(fields: dict[str, object]) -> None:
    order = core.Ordered(team="vision", user="ada", job="j-abcdefghij23", body=json.dumps(fields).encode(), at=0.0)
    control, found = core.read_control(order, CONFIG)
    assert (control is None) == bool(found.problems)
    msgspec.json.encode(core.refused(order.job, found))


def _decided(body: bytes) -> None:
    """Whatever is decided fits into the ledger and can be read back from there."""
    decision = core.decide_submit(incoming(body), CONFIG, QUEUES)
    assert isinstance(decision, core.Accept) == (decision.answer.verdict == "accepted")
    msgspec.json.encode(decision.answer)
    assert msgspec.json.decode(msgspec.json.encode(decision.fact), type=m.AnyFact) == decision.fact
