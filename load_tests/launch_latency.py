"""How long from a published submit to the first line of the user's own Python: `python -m load_tests.launch_latency`.

A warm node, a cached environment, one job after the other with a pause between (`--pause 0`: without). The moment of
submission is taken just before the message is published on NATS; the job's first line takes its own time and writes it
down. Beside it, in the same run and on the
same Ray, the same script by `ray job submit`.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec
import nats

from events import subjects
from events.identity import job_id
from events.messages import EnvironmentRequest, Submit
from load_tests.stack import Stack, percentile, report, running, until

TEAM: Final = "default"
STAMP: Final = """import time; t = time.time()
import os, sys
with open(sys.argv[1] + ".new", "w") as file:
    file.write(repr(t))
os.rename(sys.argv[1] + ".new", sys.argv[1])
"""


async def measure(stack: Stack, jobs: int, folder: Path, *, pause_s: float) -> list[dict[str, float]]:
    """Milliseconds from submit to each hop, a job."""
    about = stack.about
    connection = await nats.connect(about["nats"], user=about["nats_user"], password=about["nats_password"])
    stream = connection.jetstream()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    rows = []
    user = getpass.getuser()
    for number in range(jobs + 1):
        stamp = folder / f"stamp-{number}"
        submit = Submit(
            id=f"latency-{number}",
            entrypoint=("python", str(folder / "stamp.py"), str(stamp)),
            environment=EnvironmentRequest(python=python),
        )
        body = msgspec.json.encode(submit)
        submitted = time.time()
        await stream.publish(subjects.submit(TEAM, user), body)
        published = time.time()
        await asyncio.to_thread(until, stamp.exists, limit_s=120, what="the job")
        line = float(stamp.read_text())
        view = await asyncio.to_thread(_ended, stack, f"latency-{number}", user)
        await asyncio.sleep(pause_s)  # what the job left to do (shipping, sealing) is not part of the next one's launch
        if number:  # the first one builds the environment
            at = {entry["type"]: entry["at"] for entry in view["history"]}
            moments = {"published": published, **at, "started": view["started_at"], "first_line": line}
            rows.append({name: 1000 * (moment - submitted) for name, moment in moments.items()})
    await connection.close()
    return rows


def _ended(stack: Stack, client_id: str, user: str) -> dict[str, Any]:
    return stack.wait(job_id(team=TEAM, user=user, client_id=client_id))


def ray_jobs(stack: Stack, port: int, jobs: int, folder: Path) -> list[float]:
    """Milliseconds from the call of `ray job submit` to the first line of the script."""
    token = json.loads((stack.state / "secrets.json").read_text())["ray_token"]
    environ = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    times = []
    for number in range(jobs):
        stamp = folder / f"ray-{number}"
        command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--no-wait", "--address"]
        command += [f"http://127.0.0.1:{port}", "--", sys.executable, str(folder / "stamp.py"), str(stamp)]
        submitted = time.time()
        subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
        until(stamp.exists, limit_s=120, what="the Ray job")
        times.append(1000 * (float(stamp.read_text()) - submitted))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between an end and the next submit")
    parser.add_argument("--ray-jobs", type=int, default=10, help="jobs by `ray job submit`; 0: none")
    parser.add_argument("--ray-port", type=int, default=28265)
    options = parser.parse_args()
    flags = ["--ray-dashboard", str(options.ray_port)] if options.ray_jobs else []
    with running(*flags) as stack:
        folder = stack.state / "stamps"
        folder.mkdir()
        (folder / "stamp.py").write_text(STAMP)
        rows = asyncio.run(measure(stack, options.jobs, folder, pause_s=options.pause))
        peer = ray_jobs(stack, options.ray_port, options.ray_jobs, folder) if options.ray_jobs else []
    figures: dict[str, Any] = {"jobs": len(rows)}
    for hop in rows[0]:
        values = [row[hop] for row in rows if hop in row]
        figures[hop] = {"p50_ms": round(percentile(values, 0.5), 1), "p99_ms": round(percentile(values, 0.99), 1)}
        print(f"{hop:12}  p50 {percentile(values, 0.5):7.1f} ms   p99 {percentile(values, 0.99):7.1f} ms")
    peers = {}
    if peer:
        peers["ray job submit"] = {
            "jobs": len(peer),
            "p50_ms": round(percentile(peer, 0.5)),
            "max_ms": round(max(peer)),
        }
    report("launch_latency", figures, peers)


if __name__ == "__main__":
    main()
