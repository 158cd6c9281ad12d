"""Slurm beside us, if it is installed: a controller and a node daemon of our own, on this machine, in their own folder.

Debian's `slurm-wlm` and `munge` bring all of it. `measure` has two figures: how fast `sbatch` takes jobs in, one call a
job, and how fast a job array, its best case, gets through to its end. `load_tests.waits` uses the same cluster.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
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
PARAMETERS: Final = "batch_sched_delay=0,sched_min_interval=0,defer_batch"
"""Of the scheduler, for throughput: it looks at once, but not at each submit."""

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
SchedulerParameters={parameters}
MaxArraySize=10001
MaxJobCount=20000
NodeName={host} NodeAddr=127.0.0.1 CPUs={slots} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def measure(jobs: int) -> dict[str, Any]:
    """How fast Slurm is with so many jobs; or why it could not be asked."""
    return beside(lambda environ: _rates(jobs, environ))


def beside(asked: Callable[[dict[str, str]], dict[str, Any]], *, cpus: int = SLOTS) -> dict[str, Any]:
    """What is measured on a cluster whose node has so many CPUs, as peer `slurm`; or why it could not be asked.

    `asked` is given the environment of Slurm's commands.
    """
    missing = [program for program in PROGRAMS if _path(program) is None]
    if missing:
        return {"slurm": {"skipped": f"not installed: {', '.join(missing)} (Debian: slurm-wlm, munge)"}}
    if os.geteuid() != 0:
        return {"slurm": {"skipped": "its daemons are started as root here"}}
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/var/tmp") as folder:
        try:
            with a_cluster(Path(folder), cpus=cpus) as environ:
                return {"slurm": {"version": version(environ), **asked(environ)}}
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
    return {
        "jobs": jobs,
        "sbatch_per_s": round(jobs / submitted, 1),
        "jobs_per_s": round(jobs / ended, 1),
        "array_jobs_per_s": round(jobs / array, 1),
    }


def _sbatch(environ: dict[str, str], *more: str) -> None:
    called(environ, "sbatch", "--output=/dev/null", "--cpus-per-task=1", *more, "--wrap=true")


def called(environ: dict[str, str], program: str, *words: str) -> str:
    """What one of its commands says. Raises subprocess.SubprocessError."""
    command = [str(_path(program)), *words]
    done = subprocess.run(command, env=environ, check=True, capture_output=True, text=True, timeout=LIMIT_S)
    return done.stdout.strip()


def version(environ: dict[str, str]) -> str:
    return called(environ, "sbatch", "--version").split()[-1]


def reconfigure(environ: dict[str, str], parameters: str) -> None:
    """Give the scheduler other parameters, while its jobs stay as they are. Empty: its defaults."""
    config = Path(environ["SLURM_CONF"])
    lines = [line for line in config.read_text().splitlines() if not line.startswith("SchedulerParameters=")]
    lines += [f"SchedulerParameters={parameters}"] if parameters else []
    config.write_text("\n".join(lines) + "\n")
    called(environ, "scontrol", "reconfigure")


def _drained(environ: dict[str, str]) -> None:
    """Wait until the queue is empty."""
    _until(lambda: not _output([str(_path("squeue")), "--noheader"], environ).strip(), LIMIT_S, "Slurm's queue")


@contextlib.contextmanager
def a_cluster(folder: Path, *, cpus: int = SLOTS) -> Iterator[dict[str, str]]:
    """A controller and one node while inside; gives the environment of its commands."""
    folder.chmod(0o755)
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    config = folder / "slurm.conf"
    ports = {"port": free_port(), "node_port": free_port()}
    config.write_text(_CONFIG.format(host=host, folder=folder, slots=cpus, parameters=PARAMETERS, **ports))
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
        try:
            yield environ
        finally:
            called(environ, "scancel", f"--user={getpass.getuser()}")
            _drained(environ)  # what runs outlives the daemons


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
