"""Slurm beside us, if it is installed: a controller and a node daemon of our own, on this machine, in their own folder.

Debian's `slurm-wlm` and `munge` bring all of it. Two figures: how fast `sbatch` takes jobs in, one call a job, and how
fast a job array, its best case, gets through to its end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from controlplane.embedded.plan import free_ports

PROGRAMS: Final = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
READY_S: Final = 30.0
LIMIT_S: Final = 120.0
CALLERS: Final = 4
SLOTS: Final = 64
"""CPUs that the node says it has: a `true` needs none for long."""

_CONFIG: Final = """\
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmdParameters=config_overrides
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,defer_batch
MaxArraySize=10001
MaxJobCount=20000
NodeName={host} NodeAddr=127.0.0.1 CPUs={slots} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def measure(jobs: int) -> dict[str, Any]:
    """What Slurm does with so many jobs; or why it could not be asked."""
    missing = [program for program in PROGRAMS if _path(program) is None]
    if missing:
        return {"slurm": {"skipped": f"not installed: {', '.join(missing)} (Debian: slurm-wlm, munge)"}}
    if os.geteuid() != 0:
        return {"slurm": {"skipped": "its daemons are started as root here"}}
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/var/tmp") as folder:
        try:
            with a_cluster(Path(folder)) as environ:
                return {"slurm": _rates(jobs, environ)}
        except (TimeoutError, subprocess.SubprocessError) as error:
            return {"slurm": {"skipped": f"it did not work here: {error}"}}


def _rates(jobs: int, environ: dict[str, str]) -> dict[str, Any]:
    began = time.monotonic()
    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(lambda _: _sbatch(environ), range(jobs)))
    submitted = time.monotonic() - began
    _drained(environ)
    ended = time.monotonic() - began
    began = time.monotonic()
    _sbatch(environ, f"--array=1-{jobs}")
    _drained(environ)
    array = time.monotonic() - began
    version = _output([str(_path("sbatch")), "--version"], environ)
    return {
        "version": version.split()[-1],
        "jobs": jobs,
        "sbatch_per_s": round(jobs / submitted, 1),
        "jobs_per_s": round(jobs / ended, 1),
        "array_jobs_per_s": round(jobs / array, 1),
    }


def _sbatch(environ: dict[str, str], *more: str) -> None:
    command = [str(_path("sbatch")), "--parsable", "--output=/dev/null", "--cpus-per-task=1", *more, "--wrap=true"]
    subprocess.run(command, env=environ, check=True, capture_output=True, timeout=LIMIT_S)


def _drained(environ: dict[str, str]) -> None:
    """Wait until the queue is empty."""
    _until(lambda: not _output([str(_path("squeue")), "--noheader"], environ).strip(), LIMIT_S, "Slurm's queue")


@contextlib.contextmanager
def a_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """A controller and one node while inside; gives the environment of its commands."""
    folder.chmod(0o755)
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    config = folder / "slurm.conf"
    ports = {"port": free_port(), "node_port": free_port()}
    config.write_text(_CONFIG.format(host=host, folder=folder, slots=SLOTS, **ports))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    environ = os.environ | {"SLURM_CONF": str(config)}
    with contextlib.ExitStack() as stack:
        munge = [f"--socket={folder}/munge.socket", f"--key-file={key}", f"--pid-file={folder}/munge.pid"]
        munge += [f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
        stack.enter_context(_daemon(["munged", "--foreground", "--force", *munge], environ, folder))
        _until((folder / "munge.socket").exists, READY_S, "munged")
        stack.enter_context(_daemon(["slurmctld", "-D", "-f", str(config)], environ, folder))
        stack.enter_context(_daemon(["slurmd", "-D", "-f", str(config), "-N", host], environ, folder))
        sinfo = [str(_path("sinfo")), "--noheader", "--format=%T"]
        _until(lambda: "idle" in _output(sinfo, environ), READY_S, "Slurm's node")
        yield environ


@contextlib.contextmanager
def _daemon(command: list[str], environ: dict[str, str], folder: Path) -> Iterator[None]:
    with (folder / f"{command[0]}.out").open("wb") as log:
        process = subprocess.Popen([str(_path(command[0])), *command[1:]], env=environ, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _output(command: list[str], environ: dict[str, str]) -> str:
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=30).stdout


def _until(reached: Any, limit_s: float, what: str) -> None:
    end = time.monotonic() + limit_s
    while not reached():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} was not ready after {limit_s:.0f} s")
        time.sleep(0.1)


def _path(program: str) -> str | None:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def free_port() -> int:
    return free_ports(1)[0]
