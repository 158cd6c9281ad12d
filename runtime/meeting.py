"""A port for a gang: proven free on the node of rank 0, held until the gang starts, and its own from then on.

A port that somebody else has is worse than an error: gloo waits at it beyond its own timeout. So it is bound here
first, on every address, and never listened at: whoever calls it too early is refused at once, and tries again. It lies
outside the range from which the kernel gives ports to callers, so that nothing takes it by chance between our letting
go and the job's own bind.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

PORT_MIN: Final = 15_000
"""Below are those that services are wont to have."""
PORT_MAX: Final = 65_535
GIVEN_BY_THE_KERNEL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
GIVEN_DEFAULT: Final = (32_768, 60_999)
TRIES_MAX: Final = 200
NATS_PORT: Final = 4222


class NoPort(Exception):
    """The port is not free, or none is. The message says which."""


@contextlib.contextmanager
def held(port: int = 0, *, but: Collection[int] = ()) -> Iterator[int]:
    """Hold this port, or any that is free and none of `but`, while inside; gives its number. Raises NoPort."""
    bound = _bound(port) if port else _any(but)
    if bound is None:
        raise NoPort(f"port {port} is taken" if port else f"none of {TRIES_MAX} ports that were tried is free")
    try:
        yield int(bound.getsockname()[1])
    finally:
        bound.close()


def _any(but: Collection[int]) -> socket.socket | None:
    choices = [port for port in _choices() if port not in but]
    for port in random.sample(choices, min(TRIES_MAX, len(choices))):
        if (bound := _bound(port)) is not None:
            return bound
    return None


def _choices() -> list[int]:
    first, last = _given_by_the_kernel()
    return [*range(PORT_MIN, first), *range(max(PORT_MIN, last + 1), PORT_MAX + 1)] or [*range(PORT_MIN, PORT_MAX + 1)]


def _given_by_the_kernel() -> tuple[int, int]:
    try:
        first, last = map(int, GIVEN_BY_THE_KERNEL.read_text().split())
    except (OSError, ValueError):
        return GIVEN_DEFAULT
    return first, last


def _bound(port: int) -> socket.socket | None:
    """On every address of both families, without SO_REUSEADDR: anybody else's use of it is in the way."""
    if not socket.has_dualstack_ipv6():
        return _bind(socket.socket(socket.AF_INET, socket.SOCK_STREAM), "0.0.0.0", port)
    bound = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return _bind(bound, "::", port)


def _bind(bound: socket.socket, address: str, port: int) -> socket.socket | None:
    try:
        bound.bind((address, port))
    except OSError:
        bound.close()
        return None
    return bound


def own_address(nats_url: str) -> str:
    """The address from which this node reaches NATS, and at which the other nodes reach it. Raises OSError.

    No packet is sent: connecting a datagram socket only asks the kernel for the way.
    """
    found = urlsplit(nats_url.split(",")[0].strip())
    to = (found.hostname or "127.0.0.1", found.port or NATS_PORT)
    family, kind, protocol, _, where = socket.getaddrinfo(*to, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as asking:
        asking.connect(where)
        return str(asking.getsockname()[0])
