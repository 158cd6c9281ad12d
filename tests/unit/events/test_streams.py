"""Each stream is as safe, and as limited, as what it carries needs."""

from __future__ import annotations

import pytest

from events import streams
from events.streams import Stream

ALL = (*streams.SHARED, streams.requests("vision"))


@pytest.mark.parametrize("stream", ALL, ids=lambda stream: stream.name)
def test_every_stream_has_a_limit_and_says_what_happens_when_it_is_full(stream: Stream) -> None:
    config = stream.configuration(replicas=3)
    assert config["max_bytes"] > 0
    assert config["max_msg_size"] > 0
    assert config["discard"] in ("new", "old")
    assert config["storage"] == "file"


@pytest.mark.parametrize("stream", [streams.LEDGER, streams.requests("vision")], ids=lambda stream: stream.name)
def test_what_was_acknowledged_is_replicated_and_never_dropped_for_something_newer(stream: Stream) -> None:
    config = stream.configuration(replicas=3)
    assert (config["num_replicas"], config["discard"], config["max_age"]) == (3, "new", 0)
    assert "persist_mode" not in config


def test_the_ledger_takes_atomic_batches() -> None:
    assert streams.LEDGER.configuration(replicas=1)["allow_atomic"] is True


@pytest.mark.parametrize("stream", [streams.METRICS, streams.LOGS], ids=lambda stream: stream.name)
def test_a_tail_forgets_its_oldest_and_waits_for_no_disk(stream: Stream) -> None:
    config = stream.configuration(replicas=3)
    assert (config["persist_mode"], config["num_replicas"], config["discard"]) == ("async", 1, "old")
    assert stream.archived_by == "monitoring"


def test_a_team_whose_name_has_dots_still_has_a_stream() -> None:
    name = streams.requests_stream_name("a.b c")
    assert not set(name) & set(". *>")
    assert name != streams.requests_stream_name("a.b")
