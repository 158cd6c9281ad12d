"""Streams at their limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from events import messages as m
from events import otlp_token, streams, subjects
from events.bus import Outgoing
from load_tests.overload.world import LIMIT_S, TEAM, Overload, reached
from runtime import otlp
from runtime.spool import Layout

SMALL_BYTES: Final = 4 * 1024**2
CAUGHT_UP_S: Final = 120.0
RECORDS: Final = 2_000
NAMES: Final = ("loss", "accuracy")
PUSHED: Final = "pushed"
PUSH_EACH_S: Final = 0.05
PUSH_S_MAX: Final = 5.0
PUSHES: Final = 20
"""At least, before the flood and behind it."""
FULL_S: Final = 12.0
"""Longer than every lease of a leader, and than two heartbeats of a node."""
WAITS: Final = """
import os, sys, time
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(file, b"start\\n")
while not os.path.exists(sys.argv[2]):
    time.sleep(0.05)
os.write(file, b"end\\n")
"""


async def full_dead(world: Overload, letters: int) -> None:
    poison = Outgoing("hr.v1.submit.default.a=zz", b"x" * 20_000, {})
    await world.bus.publish_many([poison] * letters)
    limit_s = 120.0

    async def is_full() -> bool:
        return (await world.bus.usage("DEAD")).bytes > SMALL_BYTES * 0.9

    await reached(is_full, limit_s=limit_s, what="a full DEAD")
    status, _ = await world.submit()
    world.must(status == 201, f"a submit beside a full DEAD: {status}")
    await world.publish(100)
    await world.all_there("beside a full DEAD")
    dropped = 0
    end = time.monotonic() + limit_s
    while dropped < letters and time.monotonic() < end:
        page = await world.call("GET", "/v1/admin/dead?limit=500")
        for letter in page["letters"]:
            await world.call("DELETE", f"/v1/admin/dead/{letter['sequence']}")
        dropped += len(page["letters"])
        await asyncio.sleep(0 if page["letters"] else 1)
    world.must(dropped == letters, f"{letters} poison messages, {dropped} letters")


async def full_logs(world: Overload, mebibytes: int) -> None:
    """Monitoring stands still, and output goes on: the oldest is forgotten."""
    wake = world.stopped("monitoring")
    subject = subjects.logs("n1", TEAM, "j-flooded", 1, "stdout")
    size = 256 * 1024
    try:
        chunks = [Outgoing(subject, bytes(size), {"hr-offset": str(n * size)}) for n in range(mebibytes * 4)]
        results = await world.bus.publish_many(chunks)
        world.must(all(isinstance(result, int) for result in results), "LOGS refused output")
        world.must((await world.bus.usage("LOGS")).bytes <= SMALL_BYTES, "LOGS is over its limit")
    finally:
        wake()
    await _caught_up(world, "LOGS")


async def full_metrics(world: Overload, mebibytes: int) -> None:
    """Monitoring stands still for a part of a flood, and a job pushes all the while: what is forgotten is told."""
    before = await world.monitoring()
    records = mebibytes * 1024**2 // len(_batch("", 0).body) * RECORDS
    job = (await world.call("GET", "/v1/jobs?limit=1"))["jobs"][0]["job"]
    pushing = asyncio.create_task(_push_for_ever(world, job))
    try:
        await _pushed(world, PUSHES)
        await _flood(world, job, range(0, records // 2, RECORDS))
        wake = world.stopped("monitoring")
        try:
            world.must_say_when(await world.tried("GET", f"/v1/jobs/{job}/metrics"), "curves while monitoring hangs")
            await _flood(world, job, range(records // 2 // RECORDS * RECORDS, records, RECORDS))
            world.must((await world.bus.usage("METRICS")).bytes <= SMALL_BYTES, "METRICS is over its limit")
        finally:
            wake()
        await world.bus.publish(_batch(job, records, count=0))
        await _pushed(world, world.figures["pushes_acknowledged"] + PUSHES)
    finally:
        pushing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pushing
    await _caught_up(world, "METRICS")
    after = await world.monitoring()
    gap = after["gaps"]["records"] - before["gaps"]["records"]
    forgotten = after["messages_forgotten"] - before["messages_forgotten"]
    series = (await world.call("GET", f"/v1/jobs/{job}/metrics?buckets=1"))["series"]
    stored = {each["name"]: each["count"] for each in series}
    said = f"{records} records, {stored[NAMES[0]]} stored, {gap} said to be missing"
    world.must(0 < gap == records - stored[NAMES[0]], said)
    pushed = world.figures["pushes_acknowledged"]
    lost = pushed - stored.get(PUSHED, 0)
    world.must(lost <= forgotten, f"{pushed} pushes acknowledged, {lost} lost, {forgotten} messages forgotten")
    world.figures |= {"metrics_records": records, "metrics_gap": gap, "pushes_lost": lost, "forgotten": forgotten}


async def _flood(world: Overload, job: str, firsts: range) -> None:
    batches = await asyncio.to_thread(lambda: [_batch(job, first) for first in firsts])
    results = await world.bus.publish_many(batches)
    world.must(all(isinstance(result, int) for result in results), "METRICS refused points")


def _batch(job: str, first: int, *, count: int = RECORDS) -> Outgoing:
    """Records as a node ships them; none: the word that there are no more."""
    headers = {"hr-spool": f"{job}/1/a.spool", "hr-first": str(first), "hr-count": str(count)}
    body = b""
    if count:
        layout = Layout(names=NAMES, rank=0, start=0, size=0, slots=0)
        records = np.zeros(count, layout.dtype)
        records["step"] = np.arange(first, first + count)
        records["time"] = 1_700_000_000_000_000_000 + records["step"]
        body = otlp.encoded(m.AttemptRef(team=TEAM, job=job, attempt=1), layout, records)
    else:
        headers["hr-end"] = "1"
    return Outgoing(subjects.metrics("n1", TEAM, job or "j"), body, headers)


async def _pushed(world: Overload, count: int) -> None:
    """Until so many pushes were acknowledged."""

    async def there_are() -> bool:
        return bool(world.figures.get("pushes_acknowledged", 0) >= count)

    await reached(there_are, limit_s=CAUGHT_UP_S, what=f"push number {count}")


async def _push_for_ever(world: Overload, job: str) -> None:
    """A stock SDK: one value a push, again and again; a push without an answer is sent anew."""
    secret = json.loads((world.stack.state / "secrets.json").read_text())["otlp_secret"]
    token = otlp_token.mint(secret.encode(), m.AttemptRef(team=TEAM, job=job, attempt=1))
    url = world.stack.about["otlp"] + "/v1/metrics"
    counts = world.figures
    counts |= {"pushes_acknowledged": 0, "pushes_refused": 0, "pushes_without_answer": 0}
    step = 0
    while True:
        status, retry_after_s = await asyncio.to_thread(_push, url, token, step)
        if status == 200:
            counts["pushes_acknowledged"] += 1
            step += 1
        elif status:
            counts["pushes_refused"] += 1
            world.must_say_when((status, retry_after_s), "a push")
        else:
            counts["pushes_without_answer"] += 1
        await asyncio.sleep(retry_after_s or PUSH_EACH_S)


def _push(url: str, token: str, step: int) -> tuple[int, float]:
    """Status, and when to come back (0: not said); status 0: nobody answered."""
    attributes = [{"key": "step", "value": {"intValue": str(step)}}]
    point = {"timeUnixNano": str(1_700_000_000_000_000_000 + step), "asDouble": 1.0, "attributes": attributes}
    scope = {"metrics": [{"name": PUSHED, "gauge": {"dataPoints": [point]}}]}
    body = json.dumps({"resourceMetrics": [{"scopeMetrics": [scope]}]}).encode()
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    request = urllib.request.Request(url, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PUSH_S_MAX) as answer:
            return int(answer.status), 0.0
    except urllib.error.HTTPError as error:
        return error.code, float(error.headers.get("retry-after") or 0)
    except OSError:
        return 0, 0.0


async def ledger_at_95_percent(world: Overload) -> None:
    """No room for new jobs; those over NATS wait."""
    used = await world.bus.usage("LEDGER")
    await world.bus.ensure(msgspec.structs.replace(streams.LEDGER, bytes_max=int(used.bytes / 0.95)))
    await asyncio.sleep(1.5)  # what the door knows of the ledger is a second old
    world.must_say_when(await world.submit(), "a submit at 95 %", least_s=10)
    await world.publish(100)
    await world.bus.ensure(streams.LEDGER)
    await world.all_there("after LEDGER had room again")


async def full_ledger(world: Overload) -> None:
    """Not one more byte, while jobs run: they run on, also to their ends, which are told when there is room.

    The limit lies below what is there: else what is forgotten by itself (old renewals of the term) makes room.
    """
    witness = world.stack.state / "witness"
    witness.mkdir()
    jobs = {name: await _start(world, witness, name) for name in ("ends-1", "ends-2", "runs-1", "runs-2")}
    held = (await world.call("GET", "/v1/jobs?limit=1&state=queued"))["jobs"][0]["job"]
    used = await world.bus.usage("LEDGER")
    await world.bus.ensure(msgspec.structs.replace(streams.LEDGER, bytes_max=int(used.bytes * 0.9)))
    try:
        for name in ("ends-1", "ends-2"):
            (witness / f"{name}.go").touch()
        await asyncio.sleep(FULL_S)
        world.must_say_when(await world.submit(), "a submit to a full LEDGER", least_s=10)
        world.must_say_when(await world.tried("POST", f"/v1/jobs/{held}/cancel", {}), "a cancel in a full LEDGER")
        await world.publish(100)
        for name, job in jobs.items():
            state = (await world.call("GET", f"/v1/jobs/{job}"))["state"]
            world.must(state == "running", f"{name} is {state} while LEDGER is full")
            ran = (witness / name).read_text().split()
            world.must(ran == ["start", "end"][: 1 + name.startswith("ends")], f"{name} ran as {ran} in a full LEDGER")
    finally:
        await world.bus.ensure(streams.LEDGER)
    began = time.monotonic()
    for name in ("runs-1", "runs-2"):
        (witness / f"{name}.go").touch()
    for name, job in jobs.items():
        view = await asyncio.to_thread(world.stack.wait, job)
        ran = (witness / name).read_text().split()
        told = f"{name}: {view['state']}, attempt {view['attempt']}, ran as {ran}"
        world.must((view["state"], view["attempt"], ran) == ("succeeded", 1, ["start", "end"]), told)
    world.figures["ends_after_room_s"] = round(time.monotonic() - began, 1)
    world.must((await world.tried("POST", f"/v1/jobs/{held}/cancel", {}))[0] == 201, "a cancel when there is room")
    await world.all_there("after a full LEDGER")


async def _start(world: Overload, witness: Path, name: str) -> str:
    """A job that runs until its file `.go` is there; gives its id once it runs."""
    entrypoint = ["python3", "-c", WAITS, str(witness / name), str(witness / f"{name}.go")]
    status, _ = await world.submit(name, name=name, entrypoint=entrypoint, hold=False)
    world.must(status == 201, f"{name}: {status}")

    async def runs() -> bool:
        state: str = (await world.call("GET", f"/v1/jobs/{name}"))["state"]
        return state == "running" and (witness / name).exists()

    await reached(runs, limit_s=LIMIT_S, what=f"the start of {name}")
    return str((await world.call("GET", f"/v1/jobs/{name}"))["job"])


async def _caught_up(world: Overload, stream: str) -> None:
    async def caught_up() -> bool:
        said = await world.monitoring()
        return bool(said.get("answers")) and said["places"][stream]["read"] == said["places"][stream]["last"]

    await reached(caught_up, limit_s=CAUGHT_UP_S, what=f"monitoring after a full {stream}")
