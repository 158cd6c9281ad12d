"""Writes the transcripts of docs/concepts/why.md: the real core, asked in the worlds of tests/support/reasons.py."""

from __future__ import annotations

import os
import random
import sys
import textwrap
import time
from io import StringIO
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "sdk")]

import msgspec  # noqa: E402

from controlplane.scheduling.forecast import forecast, told  # noqa: E402
from headrace.cli.printer import Stream  # noqa: E402
from headrace.cli.waiting import explained  # noqa: E402
from tests.support.reasons import SCENES, Scene  # noqa: E402
from tests.support.worlds import TEAM  # noqa: E402

PAGE = ROOT / "docs" / "concepts" / "why.md"
BEGIN = "<!-- transcripts: begin -->\n"
WIDE = 80
RUNS = 7


def transcript(scene: Scene) -> str:
    """What `headrace why` prints there, in UTC."""
    world, job = scene.play()
    dice = [random.Random(number) for number in range(RUNS)]
    ahead = forecast(world.core.excerpt(100), world.settings, world.now, dice)
    answer = msgspec.to_builtins(told(world.why(job), TEAM, ahead, world.now))
    zone = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    try:
        lines = explained(answer, job, Stream(StringIO(), colour=False), now=world.now, wide=WIDE)
    finally:
        os.environ.pop("TZ") if zone is None else os.environ.update(TZ=zone)
        time.tzset()
    return "".join(f"    {line}\n" for line in (f"$ headrace why {job}", *lines))


def page(text: str) -> str:
    """The page with the transcripts in it as they are now."""
    before, _, _ = text.partition(BEGIN)
    parts = (f"\n## {scene.title}\n\n{textwrap.fill(scene.story, 120)}\n\n{transcript(scene)}" for scene in SCENES)
    return before + BEGIN + "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
