"""The parser of server-sent events: whole events, however the bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.sse import EVENT_BYTES_MAX, Event, Parser, StreamBroken

STREAM = (
    'id: 1\nevent: state\ndata: {"a": 1}\n\n: still here\n\n'
    "id: 2\r\ndata: zwölf\r\ndata:drei\r\n\r\nevent: end\ndata: {}\n\n"
)
EVENTS = [Event("state", '{"a": 1}', "1"), Event("message", "zwölf\ndrei", "2"), Event("end", "{}", "2")]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=20))
def test_events_are_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    found: list[Event] = []
    parser, whole, at, i = Parser(), STREAM.encode(), 0, 0
    while at < len(whole):
        found += parser.feed(whole[at : at + cuts[i % len(cuts)]])
        at, i = at + cuts[i % len(cuts)], i + 1
    assert found == EVENTS


def test_half_an_event_is_none() -> None:
    parser = Parser()
    assert list(parser.feed(b"id: 9\nevent: state\ndata: {")) == []
    assert parser.last_id == "9"


def test_an_event_that_breaks_off_does_not_move_the_place_to_resume_from() -> None:
    events = list(Parser().feed(b"id: 1\ndata: a\n\nid: 2\ndata: b"))
    assert [event.id for event in events] == ["1"]


def test_a_line_without_an_end_is_given_up() -> None:
    parser = Parser()
    assert list(parser.feed(b"x" * EVENT_BYTES_MAX)) == []
    with pytest.raises(StreamBroken):
        list(parser.feed(b"x"))
