"""`python -m controlplane.embedded --state DIR`: bring the stack up, keep it up, end it on SIGTERM.

`headrace up` starts this detached and reads `starting.ndjson` for what it is doing and `stack.json` for where it is.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Final

from controlplane.config import ConfigurationError
from controlplane.embedded import attempts
from controlplane.embedded.children import LOG, Children, end_leftovers, wait_until
from controlplane.embedded.files import write_private
from controlplane.embedded.plan import Plan, children, prepare, stack_file
from controlplane.embedded.probe import Probe
from events import logs

START_S_MAX: Final = 120.0


class Progress:
    """What the starting stack says of itself, a JSON object a line."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.write_text("")

    def say(self, text: str) -> None:
        self._append({"at": time.time(), "text": text})
        LOG.info(text)

    def fail(self, error: str, hint: str) -> None:
        self._append({"at": time.time(), "error": error, "hint": hint})
        LOG.error(error, extra={"hint": hint})

    def _append(self, line: dict[str, object]) -> None:
        with self._file.open("a") as stream:
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def main() -> int:
    """The command line. Gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m controlplane.embedded", description="Headrace on this machine")
    parser.add_argument("--state", required=True, help="folder of everything this stack keeps")
    parser.add_argument("--gpus", type=int, default=None, help="GPUs to declare (default: those of this machine)")
    parser.add_argument("--split", action="store_true", help="every service in a process of its own")
    parser.add_argument(
        "--ray-dashboard", type=int, default=0, metavar="PORT", help="Ray's own dashboard (default: none)"
    )
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    options = parser.parse_args()
    logs.configure(options.log_level)
    state = Path(options.state).absolute()
    state.mkdir(parents=True, exist_ok=True)
    lock = os.open(state / "embedded.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"error: a stack runs in {state} already", file=sys.stderr)
        return 1
    progress = Progress(state / "starting.ndjson")
    try:
        plan = prepare(state, gpus=options.gpus, split=options.split, ray_dashboard=options.ray_dashboard)
    except (ConfigurationError, OSError) as error:
        progress.fail(str(error), f"see {state / 'headrace.toml'}")
        return 1
    return asyncio.run(_run(plan, progress))


async def _run(plan: Plan, progress: Progress) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    record = plan.state / "run" / "children.json"
    stack = plan.state / "stack.json"
    for stale in (stack, plan.state / "gateway.json"):
        stale.unlink(missing_ok=True)
    left = end_leftovers(record)
    if left:
        progress.say(f"ended {left} processes that an earlier stack had left")
    family = Children(children(plan), logs=plan.state / "logs", record=record)
    started = time.time()
    family.start()
    stopping = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(_bring_up(plan, family, progress, started))
    failing = asyncio.create_task(family.failed())
    try:
        await asyncio.wait({stopping, starting, failing}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            if failing.done():
                await failing
            if not starting.result():
                return 1
            write_private(stack, stack_file(plan, started_at=started))
            progress.say(f"up in {time.time() - started:.1f} s")
            await asyncio.wait({stopping, failing}, return_when=asyncio.FIRST_COMPLETED)
        return 0 if stopping.done() else 1
    finally:
        stack.unlink(missing_ok=True)
        for task in (stopping, starting, failing):
            task.cancel()
        await family.stop()  # with it the runner, which would start again what is ended now
        await attempts.end_all(plan.state / "nodes" / plan.node)
        shutil.rmtree(plan.ray_folder.parent, ignore_errors=True)


async def _bring_up(plan: Plan, family: Children, progress: Progress, started: float) -> bool:
    """Follow the start until a node is ready; False when it takes too long, with the reason said."""
    hint = f"look into {plan.state / 'logs'}"
    probe = Probe(f"http://127.0.0.1:{plan.ports.gateway}", plan.secrets.token, since=started)
    try:
        async with asyncio.timeout(START_S_MAX):
            await family.up("nats")
            progress.say("NATS is up")
            if not await wait_until((plan.state / "gateway.json").exists, limit_s=START_S_MAX):
                progress.fail("the services do not come up", hint)
                return False
            progress.say("services are up")
            await family.up("ray")
            progress.say("Ray is up")
            node = await probe.node()
            progress.say(f"node {node['node']} is ready")
    except TimeoutError:
        progress.fail(f"the stack did not come up in {START_S_MAX:.0f} s", hint)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
