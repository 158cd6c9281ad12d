"""What services share when they start."""

from __future__ import annotations

import pytest

from controlplane import frame
from events.bus import Refused, Unknown


async def test_a_step_of_the_start_is_done_again_until_the_bus_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by the campaign: a service that started while NATS had a full disk ended."""
    monkeypatch.setattr(frame, "START_PAUSE_S", 0.0)
    answers: list[int | Exception] = [Unknown("the connection broke"), Refused(10069, "no space left on device"), 7]

    async def step() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await frame.patiently(step, "a stream") == 7
    assert not answers


async def test_a_step_that_is_wrong_is_not_done_again() -> None:
    async def step() -> int:
        raise ValueError("a mistake of ours")

    with pytest.raises(ValueError, match="of ours"):
        await frame.patiently(step, "a stream")
