"""Forecasts by a process of their own."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.scheduling import forecasting
from controlplane.scheduling.forecasting import Forecaster
from events import subjects
from tests.support.worlds import TEAM, a_job, a_world


async def test_a_forecast_is_made_when_somebody_wants_one_and_then_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    world = a_world()
    world.submit(*(a_job(f"j{number}", tier="gpu8", time_limit_s=600.0) for number in range(3)))
    world.settle()
    forecaster = Forecaster(world.core, lambda: world.now)
    monkeypatch.setattr(forecasting, "WAIT_S_MAX", 60.0)
    assert await forecaster.newest(None) is None
    async with asyncio.TaskGroup() as group:
        running = group.create_task(forecaster.run())
        first = await forecaster.newest(60.0)
        assert first is not None
        assert set(first.starts) == {subjects.job(TEAM, name) for name in ("j1", "j2")}
        assert await forecaster.newest(60.0) is first
        world.now += forecasting.STALE_S + 1
        assert await forecaster.newest(None) is None
        running.cancel()


@pytest.mark.parametrize(("name", "value"), [("CHILD_S_MAX", 0.0), ("PYTHON", "/no/such/python")])
async def test_a_forecast_that_cannot_be_made_is_none(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    world = a_world()
    forecaster = Forecaster(world.core, lambda: world.now)
    monkeypatch.setattr(forecasting, "WAIT_S_MAX", 60.0)
    monkeypatch.setattr(forecasting, name, value)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(forecaster.run())
        assert await forecaster.newest(60.0) is None
        running.cancel()
