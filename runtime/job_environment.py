"""The environment variables of an attempt: a clean base, then what the user asked for, then ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from events import otlp_token, ranks
from events.messages import Launch

SYSTEM_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
PASSED_ON: Final = (
    *(
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "TZ",
        "LD_LIBRARY_PATH",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
    ),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
"""What a job takes over from the node: how to reach the world from there. Nothing else of ours or of Ray's."""


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """Where an attempt runs. `virtual_env` is None for the node's own interpreter, found in `bin`."""

    node: str
    job_folder: Path
    attempt_folder: Path
    pythonpath: Path
    bin: Path
    virtual_env: Path | None = None
    temporary: Path | None = None
    """A way to `scratch` that is short (`short_way`); None: its own path."""
    otlp_url: str = ""
    otlp_secret: str = ""

    @property
    def scratch(self) -> Path:
        return self.attempt_folder / "scratch"

    @property
    def spool(self) -> Path:
        return self.attempt_folder / "spool"


def mark(attempt_folder: Path) -> str:
    """The entry that every process of an attempt carries in its environment, and nobody else does."""
    return f"HEADRACE_SCRATCH={attempt_folder / 'scratch'}"


def variables(launch: Launch, around: Surroundings, node_environ: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of an attempt."""
    base = {name: node_environ[name] for name in PASSED_ON if name in node_environ}
    base |= {
        "PATH": f"{around.bin}:{SYSTEM_PATH}",
        "TMPDIR": str(around.temporary or around.scratch),
        "PYTHONUNBUFFERED": "1",
    }
    base.setdefault("LANG", "C.UTF-8")
    asked = {**base, **launch.env}
    if "PATH" in launch.env:  # the job's packages stay in front, whatever the user adds
        asked["PATH"] = f"{around.bin}:{launch.env['PATH']}"
    ours = _ours(launch, around) | _telemetry(launch, around)
    ours["PYTHONPATH"] = os.pathsep.join(filter(None, (str(around.pythonpath), launch.env.get("PYTHONPATH"))))
    return {**asked, **ours}


def of_gang(launch: Launch) -> dict[str, str]:
    """What a part of a gang needs to find the others, once it is known where they meet.

    One process a node is started, so its rank is its node's. `torchrun` starts others below itself and gives each its
    own: it takes what it must know from PET_*, so that `torchrun train.py` is a whole command.
    """
    gang = launch.gang
    if gang is None or gang.meeting is None:
        return {}
    rank, size, address, port = str(gang.rank), str(gang.size), gang.meeting.address, str(gang.meeting.port)
    return {
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
        "RANK": rank,
        "LOCAL_RANK": "0",
        "WORLD_SIZE": size,
        "NODE_RANK": rank,
        "PET_NNODES": size,
        "PET_NODE_RANK": rank,
        "PET_NPROC_PER_NODE": str(max(1, len(launch.allocation.gpus))),
        "PET_MASTER_ADDR": address,
        "PET_MASTER_PORT": port,
    }


def _ours(launch: Launch, around: Surroundings) -> dict[str, str]:
    found = {
        "HEADRACE_JOB": launch.ref.job,
        "HEADRACE_TEAM": launch.ref.team,
        "HEADRACE_USER": launch.user,
        "HEADRACE_ATTEMPT": str(launch.ref.attempt),
        "HEADRACE_NAME": launch.name,
        "HEADRACE_NODE": around.node,
        "HEADRACE_JOB_DIR": str(around.job_folder),
        "HEADRACE_SCRATCH": str(around.scratch),
        "HEADRACE_SPOOL": str(around.spool),
        "HEADRACE_NODES": str(launch.gang.size if launch.gang is not None else 1),
        "HEADRACE_RANK": str(ranks.of(launch)),
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, launch.allocation.gpus)),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # so that an index is the same GPU to CUDA and to who watches it
        "HEADRACE_GPU_SHARE": f"{launch.allocation.gpu_milli / 1000:g}" if launch.allocation.gpus else "0",
    }
    if launch.task is not None:
        found |= {
            "HEADRACE_ARRAY": launch.task.array,
            "HEADRACE_ARRAY_INDEX": str(launch.task.index),
            "HEADRACE_ARRAY_SIZE": str(launch.task.size),
        }
    if around.virtual_env is not None:
        found["VIRTUAL_ENV"] = str(around.virtual_env)
    return found


def _telemetry(launch: Launch, around: Surroundings) -> dict[str, str]:
    found = {}
    if launch.traceparent:
        found["TRACEPARENT"] = launch.traceparent
    if around.otlp_url and around.otlp_secret:
        token = otlp_token.mint(around.otlp_secret.encode(), launch.ref)
        attributes = {"headrace.job": launch.ref.job, "headrace.attempt": str(launch.ref.attempt)}
        attributes |= {"headrace.rank": str(launch.gang.rank)} if launch.gang is not None else {}
        found |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": around.otlp_url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{token}",
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
            "OTEL_RESOURCE_ATTRIBUTES": ",".join(f"{key}={quote(value)}" for key, value in attributes.items()),
            "OTEL_SERVICE_NAME": launch.name,
        }
    return found
