"""What is said about memory."""

from __future__ import annotations

import pytest

from runtime import bounds


@pytest.mark.parametrize(
    ("used", "limit", "said"),
    [
        (8_482_560_409, 8 * 1024**3, "used 7.9 GiB of 8 GiB"),
        (300 * 1024**2, 300 * 1024**2, "used 300 MiB of 300 MiB"),
        (1, 0, "used 1 bytes of 0 bytes"),
    ],
)
def test_what_was_used_of_what_there_was(used: int, limit: int, said: str) -> None:
    assert bounds.exceeded(used, limit) == said
