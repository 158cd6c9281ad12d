"""Any name becomes one token of a subject and comes back unchanged; nothing that NATS gives a meaning gets through."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import streams, subjects

NAMES = st.text(min_size=1, max_size=40).filter(lambda name: _fits(name))


def _fits(name: str) -> bool:
    try:
        return len(subjects.encode(name)) <= subjects.TOKEN_CHARACTERS_MAX
    except (ValueError, UnicodeEncodeError):
        return False


def takes(pattern: str, subject: str) -> bool:
    """Whether a subject with wildcards takes a literal one: NATS's rule."""
    theirs, ours = pattern.split("."), subject.split(".")
    if theirs[-1] == ">":
        return len(ours) >= len(theirs) and takes(".".join(theirs[:-1]), ".".join(ours[: len(theirs) - 1]))
    return len(theirs) == len(ours) and all(their in ("*", our) for their, our in zip(theirs, ours, strict=True))


@given(NAMES)
def test_a_name_comes_back_from_its_token(name: str) -> None:
    assert subjects.decode(subjects.encode(name)) == name


@given(NAMES)
def test_a_token_holds_nothing_that_nats_gives_a_meaning(name: str) -> None:
    token = subjects.encode(name)
    assert token
    assert all(character.isascii() and (character.isalnum() or character in "-_=") for character in token)


@given(NAMES, NAMES)
def test_two_names_never_share_a_token(one: str, other: str) -> None:
    assert (subjects.encode(one) == subjects.encode(other)) == (one == other)


@given(NAMES, NAMES, NAMES)
def test_the_tokens_of_a_subject_are_the_names_it_was_made_from(team: str, user: str, job: str) -> None:
    assert subjects.tokens(subjects.control(team, user, job)) == ["control", team, user, job]


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("vision", "vision"),
        ("gpu-01.rack.example", "gpu-01=2Erack=2Eexample"),
        ("a b", "a=20b"),
        ("*", "=2A"),
        ("ü", "=C3=BC"),
        ("=", "=3D"),
    ],
)
def test_a_name_is_written_as_documented(name: str, token: str) -> None:
    assert subjects.encode(name) == token


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        subjects.encode("")


def test_a_name_that_takes_too_much_room_is_refused_with_the_limit() -> None:
    with pytest.raises(ValueError, match="200 characters"):
        subjects.encode("ü" * 40)


@given(st.text(alphabet="=0123456789ABCDEFghz", max_size=20))
def test_a_stranger_s_token_is_decoded_or_refused_with_value_error(token: str) -> None:
    with contextlib.suppress(ValueError):
        subjects.decode(token)


@given(NAMES, NAMES, NAMES)
def test_every_subject_is_taken_by_its_stream_and_by_no_other(team: str, user: str, job: str) -> None:
    digest = "sha256:" + "0" * 64
    where = {
        subjects.submit(team, user): streams.requests(team),
        subjects.control(team, user, job): streams.requests(team),
        subjects.job(team, job): streams.LEDGER,
        subjects.environment(digest): streams.LEDGER,
        subjects.queue(team, user): streams.LEDGER,
        subjects.team(team): streams.LEDGER,
        subjects.CONFIGURATION: streams.LEDGER,
        subjects.configure_queue(user, team, job): streams.REQUESTS,
        subjects.configure_team(user, team): streams.REQUESTS,
        subjects.configure_node(user, team): streams.REQUESTS,
        subjects.node(user): streams.LEDGER,
        subjects.TERM: streams.LEDGER,
        subjects.metrics(user, team, job): streams.METRICS,
        subjects.otlp(team, job): streams.METRICS,
        subjects.logs(user, team, job, 1, "stdout"): streams.LOGS,
        subjects.dead(subjects.submit(team, user)): streams.DEAD,
        subjects.exchange(user): None,
        subjects.to_node(user): None,
        subjects.live(team, job): None,
        subjects.answer(team, user, job): None,
        subjects.ask("scheduling", "why"): None,
        subjects.ask("submission", "submit", team, user): None,
    }
    for subject, expected in where.items():
        taking = [
            stream.name
            for stream in (*streams.SHARED, streams.requests(team))
            if any(takes(pattern, subject) for pattern in stream.subjects)
        ]
        assert taking == ([expected.name] if expected else []), subject


@given(NAMES, NAMES, NAMES)
def test_the_patterns_take_what_they_are_for(team: str, node: str, job: str) -> None:
    assert takes(subjects.EXCHANGES, subjects.exchange(node))
    assert takes(subjects.logs_of(team, job), subjects.logs(node, team, job, 3, "stderr"))
    assert takes(subjects.metrics_of(team, job), subjects.metrics(node, team, job))
    assert takes(subjects.ASK_SUBMIT, subjects.ask("submission", "submit", team, node))
    assert takes(subjects.ASK_CONTROL, subjects.ask("submission", "control", team, node, job))
    assert takes(subjects.ASK_CONFIGURE[0], subjects.ask("submission", "configure", node, "queue", team, job))
    assert takes(subjects.ASK_CONFIGURE[1], subjects.ask("submission", "configure", node, "team", team))
    assert takes(subjects.ASK_CONFIGURE[2], subjects.ask("submission", "configure", team, "node", node))
