"""The people of the campaign: they submit, repeat, cancel, hold, move, and write down what they were told."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import urllib.error
import urllib.request
from typing import Any, Final, NamedTuple

import nats
import nats.errors
import nats.js.errors

from load_tests.faults.world import GPUS, PYTHON, QUEUE, SURE, TEAM, TOKEN, USER, World

CALL_S: Final = 6.0
SECONDS: Final = {0.3: 4, 1.0: 4, 2.0: 4, 6.0: 3, 15.0: 2, 40.0: 1}
"""How long jobs run, and how often. A node that is cut off is given up after some 17 s: some must outlast that."""
PACKAGES: Final = ("iniconfig==2.0.0", "idna==3.7", "toolz==0.12.1")
"""Small ones: some jobs want an environment of one of them."""
KNOWN: Final = (200, 201, 202, 404, 409, 422, 429, 503, 507)
"""What a gateway may answer, ever. Anything else is a fault of ours."""


class Acknowledged(NamedTuple):
    """Something that was confirmed, and when (wall clock)."""

    id: str
    what: str
    at: float


class Clients:
    """`work` until it is told to stop; `acknowledged` is what the judge holds against the ledger."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._rng = random.Random(f"clients-{seed}")
        self._seed = seed
        self._ids: list[str] = []
        self.jobs: dict[str, str] = {}
        """Job id by the client's id, as an answer said it."""
        self.acknowledged: list[Acknowledged] = []
        self.wrong: list[str] = []
        """Answers that no client should ever get."""
        self.calls = 0
        self.unanswered = 0

    async def work(self, pause_s: float, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                group.create_task(self._operate())
                await asyncio.sleep(self._rng.expovariate(1 / pause_s))

    async def _operate(self) -> None:
        rng, self.calls = self._rng, self.calls + 1
        kinds = {"http": 45, "nats": 20, "again": 12, "cancel": 12, "hold": 5, "reprioritise": 4, "move": 4}
        kinds |= {"queue": 4, "drain": 3}
        kind = rng.choices(list(kinds), list(kinds.values()))[0]
        if kind in ("http", "nats"):
            self._ids.append(f"f{self._seed}-{len(self._ids)}")
            await (self._by_http if kind == "http" else self._by_nats)(self._ids[-1])
        elif kind == "queue":
            await self._set_queue(rng.choice((QUEUE, SURE)))
        elif kind == "drain":
            await self._drain(rng.choice(self._world.nodes))
        elif kind == "again" and self._ids:
            await rng.choice((self._by_http, self._by_nats))(rng.choice(self._ids))
        elif self.jobs:
            await self._control(kind, rng.choice(list(self.jobs.values())))

    def _submit(self, name: str) -> dict[str, Any]:
        """The same id is always the same request."""
        rng = random.Random(f"{self._seed}-{name}")
        seconds = rng.choices(list(SECONDS), list(SECONDS.values()))[0]
        code = 3 if rng.random() < 0.08 else 0
        program = self._world.tree / "load_tests" / "faults" / "witness.py"
        witness = [str(program), str(self._world.witness), str(seconds), str(code)]
        environment = {"python": PYTHON, "roots": [rng.choice(PACKAGES)]} if rng.random() < 0.1 else None
        return {
            "type": "submit",
            "id": name,
            "name": name,
            "entrypoint": ["python" if environment else sys.executable, *witness],
            "environment": environment,
            "tier": rng.choices(("cpu", "gpu1", "gpu2"), (5, 3, 1))[0],
            "grace_s": 1.0,
            "attempts_max": 50,
            "priority": rng.randint(-2, 2),
            "queue": rng.choice((QUEUE, QUEUE, SURE)),
            "preemptible": rng.random() < 0.5,
            "retries": rng.choice((0, 0, 1)),
        }

    async def _by_http(self, name: str) -> None:
        status, answer = await self._call("POST", "/v1/jobs", self._submit(name))
        if status in (200, 201):
            self.jobs[name] = answer["job"]
            self.acknowledged.append(Acknowledged(name, "submit", time.time()))
        elif status == 422:
            self.wrong.append(f"{name} was rejected: {answer}")

    async def _by_nats(self, name: str) -> None:
        try:
            connection = await nats.connect(
                self._world.nats_url.split(","),
                user=self._world.user,
                password=self._world.password,
                connect_timeout=2,
                max_reconnect_attempts=2,
                allow_reconnect=False,
                error_cb=_quiet,
            )
        except (nats.errors.Error, OSError, TimeoutError):
            self.unanswered += 1
            return
        try:
            body = json.dumps(self._submit(name)).encode()
            await connection.jetstream(timeout=CALL_S).publish(f"hr.v1.submit.{TEAM}.{USER}", body)
            self.acknowledged.append(Acknowledged(name, "submit", time.time()))
        except (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError):
            self.unanswered += 1
        finally:
            await connection.close()

    async def _control(self, kind: str, job: str) -> None:
        if kind == "cancel":
            status, _ = await self._call("POST", f"/v1/jobs/{job}/cancel", {"why": "the campaign"})
            if status == 200:
                self.acknowledged.append(Acknowledged(job, "cancel", time.time()))
        elif kind == "hold":
            await self._call("POST", f"/v1/jobs/{job}/hold", {})
            await asyncio.sleep(self._rng.uniform(0.5, 4.0))
            await self.release(job)
        elif kind == "move":
            await self._call("POST", f"/v1/jobs/{job}/move", {"before": self._rng.choice(list(self.jobs.values()))})
        else:
            await self._call("POST", f"/v1/jobs/{job}/{kind}", {"priority": self._rng.randint(-5, 5)})

    async def release(self, job: str, *, tries: int = 10) -> None:
        """Until somebody answered: a job that stays held is not the scheduler's fault."""
        await self._until_answered("POST", f"/v1/jobs/{job}/release", {}, tries)

    async def _set_queue(self, queue: str) -> None:
        """What makes others end: a guarantee. And what keeps jobs waiting, for a while."""
        rng, path = self._rng, f"/v1/queues/{TEAM}/{queue}"
        if rng.random() < 0.3:
            await self._call("PATCH", path, {"paused": True})
            await asyncio.sleep(rng.uniform(0.5, 4.0))
            await self._until_answered("PATCH", path, {"paused": False})
        else:
            guaranteed = rng.randint(1, GPUS) if queue == SURE else 0
            change = {
                "guaranteed_gpus": guaranteed,
                "weight": rng.choice((1.0, 3.0)),
                "user_gpus_max": rng.choice((None, 3)),
            }
            await self._call("PATCH", path, change)

    async def _drain(self, node: str) -> None:
        """A machine that is drained, half of the times with what runs there, and opened again."""
        await self._call("POST", f"/v1/nodes/{node}/drain", {"stop": self._rng.random() < 0.5, "why": "the campaign"})
        await asyncio.sleep(self._rng.uniform(1.0, 6.0))
        await self._until_answered("POST", f"/v1/nodes/{node}/uncordon", {})

    async def restore(self) -> None:
        """Nothing that operators did keeps a job waiting any more."""
        for queue in (QUEUE, SURE):
            change = {"paused": False, "guaranteed_gpus": 0, "user_gpus_max": None}
            await self._until_answered("PATCH", f"/v1/queues/{TEAM}/{queue}", change, 30)
        for node in self._world.nodes:
            await self._until_answered("POST", f"/v1/nodes/{node}/uncordon", {}, 30)

    async def _until_answered(self, method: str, path: str, body: object, tries: int = 10) -> None:
        for _ in range(tries):
            status, _ = await self._call(method, path, body)
            if status in (200, 404, 409):
                return
            await asyncio.sleep(1.0)

    async def _call(self, method: str, path: str, body: object) -> tuple[int, Any]:
        """Status and answer; 0 for none."""
        gateway = self._rng.choice(self._world.gateways)
        status, answer = await asyncio.to_thread(call, gateway, method, path, body)
        if status == 0:
            self.unanswered += 1
        elif status not in KNOWN:
            self.wrong.append(f"{method} {path}: {status} {answer}")
        return status, answer


async def _quiet(error: Exception) -> None:
    """nats-py would print it: a lost connection is the campaign's everyday life."""


def call(gateway: str, method: str, path: str, body: object = None, *, timeout_s: float = CALL_S) -> tuple[int, Any]:
    """One call of REST; status 0 when nobody answered."""
    request = urllib.request.Request(
        gateway + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": f"Bearer {TOKEN}", "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return answer.status, _decoded(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, _decoded(error.read())
    except (OSError, ValueError):
        return 0, None


class Piece(NamedTuple):
    """Of an output. A line that stands for missing bytes may be shorter than they were: `offset` says where it is."""

    data: bytes = b""
    offset: int = 0
    is_all: bool = False


def fetch(url: str) -> Piece:
    """A piece of output; an empty one when nobody answered."""
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {TOKEN}"})
    try:
        with urllib.request.urlopen(request, timeout=CALL_S) as answer:
            headers = answer.headers
            return Piece(answer.read(), int(headers["hr-offset"]), headers["hr-complete"] == "1")
    except OSError:
        return Piece()


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body
