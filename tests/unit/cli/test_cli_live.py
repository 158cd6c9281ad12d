"""A footer below a job's output: every byte passes, and nothing of the footer stays between."""

from __future__ import annotations

import io
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headrace.cli.live import Live
from headrace.cli.printer import Stream
from tests.support.screen import Screen

FOOTER = ["  loss ▇▆▅▄ 0.60   val/acc ▁▃▅▆ 0.84", "  81 %   48m left"]


class _Terminal(io.TextIOWrapper):
    """Both streams of a command, on one screen."""

    def __init__(self) -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding="utf-8", newline="")

    def isatty(self) -> bool:
        return True


def a_live() -> tuple[Live, _Terminal]:
    terminal = _Terminal()
    return Live(Stream(terminal, colour=False), Stream(terminal, colour=False)), terminal


def shown(terminal: _Terminal, **size: int) -> Screen:
    return Screen(**size).feed(terminal.bytes.getvalue())


def test_the_footer_stands_below_the_output_and_the_cursor_where_the_job_left_it() -> None:
    live, terminal = a_live()
    live.show(FOOTER)
    live.output("stdout", b"epoch 1\n 40 % ####")
    screen = shown(terminal)
    assert screen.lines() == ["epoch 1", " 40 % ####", *FOOTER]
    assert screen.cursor == (1, 10)


def test_a_progress_bar_that_returns_to_its_line_start_overwrites_itself() -> None:
    live, terminal = a_live()
    live.show(FOOTER)
    for percent in (10, 50, 100):
        live.output("stderr", f"\r{percent:3} % ".encode() + b"#" * (percent // 10))
    assert shown(terminal).lines() == ["100 % ##########", *FOOTER]


def test_nothing_of_the_footer_is_left_when_it_is_over() -> None:
    live, terminal = a_live()
    live.show(FOOTER)
    live.output("stdout", b"half a line")
    live.show([])
    live.note("  succeeded")
    live.close()
    assert shown(terminal).lines() == ["half a line", "  succeeded"]


def test_a_note_does_not_tear_a_line_of_the_job() -> None:
    live, terminal = a_live()
    live.show(FOOTER[:1])
    live.output("stdout", b"half a line")
    live.note("  connection   lost")
    live.output("stdout", b", the rest\n")
    assert shown(terminal).lines() == ["half a line", "  connection   lost", ", the rest", FOOTER[0]]


def test_a_character_cut_in_half_is_not_torn_by_the_footer() -> None:
    live, terminal = a_live()
    live.show(FOOTER)
    for byte in "größe ✓\n".encode():
        live.output("stdout", bytes([byte]))
    assert shown(terminal).lines() == ["größe ✓", *FOOTER]


def test_bytes_that_are_no_text_come_out_as_they_are() -> None:
    live, terminal = a_live()
    live.output("stdout", b"\xff\xfe\x80 raw")
    live.close()
    assert terminal.bytes.getvalue().startswith(b"\xff\xfe\x80 raw")


def test_the_footer_steps_aside_for_a_job_that_moves_the_cursor_up_itself() -> None:
    live, terminal = a_live()
    live.show(FOOTER)
    live.output("stderr", b"bar 1\nbar 2\x1b[A\r")
    live.output("stderr", b"BAR 1")
    assert shown(terminal).lines() == ["BAR 1", "bar 2"]


def test_without_a_terminal_there_is_no_footer_and_no_escape() -> None:
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    live = Live(Stream(out, colour=None), Stream(err, colour=None))
    live.show(FOOTER)
    live.output("stdout", b"a\xc3")
    live.output("stdout", b"\xa4\n")
    live.output("stderr", b"b\r")
    live.close()
    assert (_content(out), _content(err)) == (b"a\xc3\xa4\n", b"b\r")


@given(
    st.lists(st.sampled_from([b"ab", b"\n", b"\r", b"\xc3\xa4", b"\x1b[31m", b"\x1b[0m", b"x" * 30]), max_size=30),
    st.lists(st.integers(1, 7), min_size=1, max_size=8),
)
def test_however_it_is_cut_the_screen_shows_what_it_would_show_without_us(parts: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(parts)
    live, terminal = a_live()
    live.show(FOOTER)
    at, i = 0, 0
    while at < len(whole):
        live.output("stdout", whole[at : at + cuts[i % len(cuts)]])
        at, i = at + cuts[i % len(cuts)], i + 1
    live.show([])
    with_us = shown(terminal, columns=300, rows=6)
    alone = Screen(columns=300, rows=6).feed(whole)
    assert (with_us.lines(), with_us.cursor[1]) == (alone.lines(), alone.cursor[1])


def _content(stream: io.TextIOWrapper) -> Any:
    stream.flush()
    return stream.buffer.getvalue()  # type: ignore[attr-defined]
