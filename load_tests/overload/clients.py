"""Too many submits, clients that do not read, and consumers that hang."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from load_tests.overload.world import Overload, reached, stopped
from load_tests.slurm import free_port
from load_tests.stack import ready, until

RETRIES: Final = 100


async def burst(world: Overload, submits: int) -> None:
    began = time.monotonic()
    await world.publish(submits)
    world.figures["publish_s"] = round(time.monotonic() - began, 1)
    await world.all_there("after the burst")
    world.figures["burst_s"] = round(time.monotonic() - began, 1)


async def silent(world: Overload, clients: int) -> None:
    """Half of them say nothing, half ask for a stream of events and never read it."""
    host, port = world.stack.about["url"].removeprefix("http://").split(":")
    job = (await world.call("GET", "/v1/jobs?limit=1"))["jobs"][0]["job"]
    head = (
        f"GET /v1/jobs/{job}/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {world.stack.about['token']}\r\n\r\n"
    )
    sockets = [socket.create_connection((host, int(port))) for _ in range(clients)]
    try:
        for each in sockets[::2]:
            each.sendall(head.encode())
        began = time.monotonic()
        status, _ = await world.submit()
        world.figures["submit_beside_silent_s"] = round(time.monotonic() - began, 2)
        world.must(status == 201, f"a submit beside silent clients: {status}")
        world.look("silent clients")
    finally:
        for each in sockets:
            each.close()


async def hanging_consumer(world: Overload, submits: int) -> None:
    """The only one there is: nobody takes submits, those over NATS wait in their stream."""
    wake = world.stopped("submission")
    try:
        world.must_say_when(await world.submit("in doubt"), "nobody takes submits")
        await world.publish(submits)
    finally:
        wake()

    async def taken() -> bool:  # the questions of before may have been answered by now, to nobody
        status, _ = await world.submit("in doubt")
        return status == 201

    await reached(taken, limit_s=60, what="an answer after the consumer hung")
    await world.all_there("after the consumer hung")


async def one_of_two_hangs(world: Overload, submits: int) -> None:
    """The other takes its messages over, also those that were with it; clients come again, and each is one job."""
    with a_second_submission(world) as pid:
        await world.publish(submits)  # both work
        wake = stopped(pid)
        try:
            await world.publish(submits)
            began = time.monotonic()
            refused = [await _insist(world, f"beside one that hangs {number}") for number in range(10)]
            world.figures["refused_beside_one_that_hangs"] = sum(refused)
            await world.all_there("while one of two hangs")
            world.figures["one_of_two_hangs_all_there_s"] = round(time.monotonic() - began, 1)
        finally:
            wake()
    await world.all_there("after one of two hung")


async def _insist(world: Overload, client_id: str) -> int:
    """Submit it again until it is taken; gives how often it was refused."""
    for refused in range(RETRIES):
        told = await world.submit(client_id)
        if told[0] in (200, 201):
            return refused
        world.must_say_when(told, "a submit beside a consumer that hangs")
        await asyncio.sleep(told[1])
    raise TimeoutError(f"{client_id} was refused {RETRIES} times")


@contextmanager
def a_second_submission(world: Overload) -> Iterator[int]:
    """Another instance while inside; gives its pid."""
    port = free_port()
    config = world.stack.state / "run" / "config.json"
    command = ["-m", "controlplane", "submission", "--config", str(config), "--set", f"health_port={port}"]
    with (world.stack.state / "logs" / "submission-2.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, *command], stdin=subprocess.DEVNULL, stderr=log)
    try:
        until(lambda: ready(port), limit_s=60, what="a second submission")
        yield process.pid
    finally:
        process.terminate()
        process.wait(60)
