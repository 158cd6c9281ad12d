"""Ports for gangs, on this machine's own network."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from runtime import meeting
from runtime.meeting import NoPort, held, own_address


def a_listener(address: str, port: int = 0, *, family: int = socket.AF_INET) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen()
    return listener


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1"])
def test_a_port_that_a_stranger_has_is_never_chosen(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with a_listener(address) as stranger, a_listener("127.0.0.1") as later:
        taken, free = stranger.getsockname()[1], later.getsockname()[1]
        later.close()
        monkeypatch.setattr(meeting, "_choices", lambda: [taken, free])
        for _ in range(20):
            with held() as port:
                assert port == free
        with pytest.raises(NoPort, match=f"port {taken} is taken"), held(taken):
            pass


def test_what_is_held_nobody_else_gets_and_nobody_waits_at() -> None:
    with held() as port:
        for address in ("0.0.0.0", "127.0.0.1"):
            with pytest.raises(OSError, match="in use"):
                a_listener(address, port)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
    a_listener("127.0.0.1", port).close()


def test_two_gangs_never_meet_at_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with held() as first:
        monkeypatch.setattr(meeting, "_choices", lambda: [first])
        with pytest.raises(NoPort, match="none"), held():
            pass
    with pytest.raises(NoPort), held(but={first}):  # it let go, and its job is about to listen there
        pass


def test_the_kernel_gives_it_to_no_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tmp_path / "range"
    monkeypatch.setattr(meeting, "GIVEN_BY_THE_KERNEL", given)
    for text in ("32768\t60999\n", "16000 65535", "1024 64000", "nonsense"):
        given.write_text(text)
        first, last = map(int, text.split()) if text[0].isdigit() else meeting.GIVEN_DEFAULT
        choices = meeting._choices()
        assert choices
        assert all(not first <= port <= last for port in choices)
    given.write_text("1024 65535")  # then anything is better than nothing
    assert meeting._choices()


def test_a_node_is_reached_where_its_line_to_nats_begins() -> None:
    assert own_address("nats://127.0.0.1:4222") == "127.0.0.1"
    assert own_address("nats://localhost") in {"127.0.0.1", "::1"}
