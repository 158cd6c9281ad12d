"""A token stands for one attempt of one installation."""

from __future__ import annotations

import pytest

from events import otlp_token
from events.messages import AttemptRef

REF = AttemptRef(team="vision", job="j-abc", attempt=2)
SECRET = b"0123456789abcdef"


def test_a_token_gives_back_its_attempt() -> None:
    assert otlp_token.check(SECRET, otlp_token.mint(SECRET, REF)) == REF


def test_a_token_of_another_secret_is_nobodys() -> None:
    assert otlp_token.check(SECRET, otlp_token.mint(b"another secret..", REF)) is None


def test_a_changed_payload_is_nobodys() -> None:
    other = otlp_token.mint(b"x", AttemptRef(team="other", job="j-abc", attempt=2)).partition(".")[0]
    seal = otlp_token.mint(SECRET, REF).partition(".")[2]
    assert otlp_token.check(SECRET, f"{other}.{seal}") is None


@pytest.mark.parametrize("token", ["", ".", "a", "a.b", "é.é", "=" * 10, "x" * 5000, "\x00.\x00"])
def test_rubbish_is_nobodys(token: str) -> None:
    assert otlp_token.check(SECRET, token) is None


def test_without_a_secret_no_token_is_made_or_accepted() -> None:
    with pytest.raises(ValueError, match="otlp_secret"):
        otlp_token.mint(b"", REF)
    assert otlp_token.check(b"", otlp_token.mint(SECRET, REF)) is None
