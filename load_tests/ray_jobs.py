"""How long from `ray job submit` to the first line of the script, through Headrace and to Ray itself:
`python -m load_tests.ray_jobs`.

Ray's own command and its own client, unmodified, against the gateway of a stack and, in the same run, against the
dashboard of the Ray that this stack runs on; in turns, so that both have the same machine. A warm node, no packages to
install. `command` is the whole of the command line, most of which is the start of Ray's client; `client` is
`JobSubmissionClient.submit_job` of a process that is up; `folder` is the same with a new working folder each time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from ray.job_submission import JobSubmissionClient

from load_tests.launch_latency import STAMP
from load_tests.stack import Stack, percentile, report, running, until

WAIT_S: Final = 120.0


class Side(NamedTuple):
    """Where jobs are submitted to, and who one is there."""

    url: str
    headers: dict[str, str]

    def client(self) -> JobSubmissionClient:
        return JobSubmissionClient(self.url, headers=dict(self.headers))

    def command(self, entrypoint: str) -> None:
        words = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--no-wait", "--", *entrypoint.split()]
        environ = {**os.environ, "RAY_ADDRESS": self.url, "RAY_JOB_HEADERS": json.dumps(self.headers)}
        subprocess.run(words, env=environ, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def sides(stack: Stack, port: int) -> dict[str, Side]:
    """Headrace, and Ray unless there is no port for its dashboard."""
    token = json.loads((stack.state / "secrets.json").read_text())["ray_token"] if port else ""
    found = {"headrace": Side(stack.about["url"], {"Authorization": f"Bearer {stack.about['token']}"})}
    if port:
        found["ray"] = Side(f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {token}"})
    return found


def first_line_ms(submit: Callable[[str], object], script: str, stamp: Path) -> float:
    """Milliseconds from before a submit to the first line of the job."""
    submitted = time.time()
    submit(f"{sys.executable} {script} {stamp}")
    until(stamp.exists, limit_s=WAIT_S, what="the job")
    return 1000 * (float(stamp.read_text()) - submitted)


def measure(side: Side, folder: Path, name: str, jobs: int, rows: dict[str, list[float]]) -> None:
    """One job of each way."""
    client = side.client()
    stamp = folder / f"{name}-{jobs}"
    script = str(folder / "stamp.py")
    command = first_line_ms(side.command, script, stamp.with_suffix(".command"))
    alone = first_line_ms(lambda words: client.submit_job(entrypoint=words), script, stamp.with_suffix(".client"))
    code = folder / f"code-{name}-{jobs}"
    code.mkdir()
    (code / "stamp.py").write_text(f"{STAMP}\n# {name} {jobs}\n")
    env = {"working_dir": str(code)}
    submit: Callable[[str], object] = lambda words: client.submit_job(entrypoint=words, runtime_env=dict(env))  # noqa: E731
    packed = first_line_ms(submit, "stamp.py", stamp.with_suffix(".folder"))
    for way, took in (("command", command), ("client", alone), ("folder", packed)):
        rows.setdefault(f"{name} {way}", []).append(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=20, help="of each way, on each side")
    parser.add_argument("--ray-port", type=int, default=28265, help="of Ray's dashboard; 0: without the peer")
    options = parser.parse_args()
    flags = ["--ray-dashboard", str(options.ray_port)] if options.ray_port else []
    rows: dict[str, list[float]] = {}
    with running(*flags) as stack:
        folder = stack.state / "stamps"
        folder.mkdir()
        (folder / "stamp.py").write_text(STAMP)
        for number in range(options.jobs + 1):
            for name, side in sides(stack, options.ray_port).items():
                measure(side, folder, name, number, rows if number else {})  # the first ones warm up
    figures: dict[str, dict[str, Any]] = {"headrace": {}, "ray": {}}
    for way, values in rows.items():
        name, _, what = way.partition(" ")
        p50, p90 = round(percentile(values, 0.5)), round(percentile(values, 0.9))
        figures[name][what] = {"jobs": len(values), "p50_ms": p50, "p90_ms": p90, "max_ms": round(max(values))}
        print(f"{way:18}  p50 {p50:6} ms   p90 {p90:6} ms   max {max(values):6.0f} ms")
    report("ray_jobs", figures["headrace"], {"ray": figures["ray"]} if figures["ray"] else {})


if __name__ == "__main__":
    main()
