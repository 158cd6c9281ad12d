"""Writes the diagram of a job's states into docs/concepts/road.md, from the table in `events/lifecycle.py`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from events import messages as m  # noqa: E402
from events.lifecycle import ENDS, TABLE, Outcome, State  # noqa: E402

PAGE = ROOT / "docs" / "concepts" / "road.md"
BEGIN, END = "<!-- states: begin -->\n", "<!-- states: end -->\n"


def diagram() -> str:
    """The states and what leads from one to another, as Mermaid. Facts that change no state are left out."""
    arrows: dict[tuple[str, str], list[str]] = {}

    def arrow(start: str, to: str, fact: type[m.JobFact]) -> None:
        arrows.setdefault((start, to), []).append(str(fact.__struct_config__.tag))

    arrow("[*]", State.QUEUED.value, m.Accepted)
    arrow("[*]", State.REJECTED.value, m.Rejected)
    for state, rows in TABLE.items():
        for fact, row in rows.items():
            if row.outcome is not Outcome.APPLIED:
                continue
            for end in sorted(row.ends, key=lambda end: end.value):
                arrow(state.value, end.value, fact)
            if row.to is not None and row.to is not state:
                arrow(state.value, row.to.value, fact)
    lines = [f"    {start} --> {to}: {', '.join(facts)}" for (start, to), facts in arrows.items()]
    lines += [f"    {end.value} --> [*]" for end in State if end in ENDS]
    return "```mermaid\nstateDiagram-v2\n" + "\n".join(lines) + "\n```\n"


def page(text: str) -> str:
    """The page with the diagram in it as it is now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + diagram() + END + after


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
