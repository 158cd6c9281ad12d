"""Ids come from what a thing is: everybody who computes one agrees."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from events.identity import digest, environment_digest, job_id
from events.messages import EnvironmentRequest

PARTS = st.text(alphabet=st.characters(blacklist_characters="\x1f", blacklist_categories=["Cs"]), max_size=20)


@given(PARTS, PARTS, PARTS)
def test_a_repeated_submit_is_the_same_job(team: str, user: str, client_id: str) -> None:
    one = job_id(team=team, user=user, client_id=client_id)
    assert one == job_id(team=team, user=user, client_id=client_id)
    assert re.fullmatch(r"j-[a-z2-7]{12}", one)


@given(st.tuples(PARTS, PARTS, PARTS), st.tuples(PARTS, PARTS, PARTS))
def test_another_team_user_or_client_id_is_another_job(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    ids = [job_id(team=team, user=user, client_id=client_id) for team, user, client_id in (one, other)]
    assert (ids[0] == ids[1]) == (one == other)


def test_ids_are_what_they_were_when_they_were_first_given() -> None:
    assert job_id(team="vision", user="ada", client_id="1") == "j-6rathceuqoc7"
    assert digest(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_order_and_repetition_of_requirements_do_not_make_another_environment() -> None:
    one = EnvironmentRequest(python="3.11", roots=("numpy", "torch"), preferences=("a==1", "b==2"))
    other = EnvironmentRequest(python="3.11", roots=("torch", "numpy", "torch"), preferences=("b==2", "a==1"))
    assert environment_digest(one) == environment_digest(other)


def test_every_field_of_a_request_makes_another_environment() -> None:
    base = EnvironmentRequest(python="3.11", roots=("numpy",))
    others = [
        EnvironmentRequest(python="3.12", roots=("numpy",)),
        EnvironmentRequest(python="3.11", roots=("torch",)),
        EnvironmentRequest(python="3.11", roots=("numpy",), preferences=("numpy==2.0",)),
        EnvironmentRequest(python="3.11", roots=("numpy",), platform="x86_64-manylinux_2_28"),
        EnvironmentRequest(python="3.11", preferences=("numpy",)),
    ]
    assert len({environment_digest(request) for request in (base, *others)}) == 6
