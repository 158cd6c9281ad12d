"""The one configuration: a file, then the environment, then flags; the later wins.

The file is TOML (or JSON, by its name) with the names below. Every scalar can also be set as
`HEADRACE_<NAME>` or as `--set <name>=<value>`. A mistake is a ConfigurationError that names the key and its origin.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from events import streams, uids
from events.messages import GPU_MILLI, Resources, Tier

GIB: Final = 1024**3
ALTERNATIVES_MAX: Final = 8
"""Of the nodes that a tier may be on: each is in every job's specification."""
STREAM_BYTES_MIN: Final = 2 * 1024**2
ENVIRONMENT_PREFIX: Final = "HEADRACE_"
_NOT_SETTINGS: Final = frozenset({"STATE", "URL", "TOKEN"})
"""`HEADRACE_*` names that belong to the laptop's side."""


class ConfigurationError(Exception):
    """The configuration cannot be used. The message names the key, where it came from, and what would be right."""


class Identity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who a bearer token stands for."""

    team: str
    user: str
    operator: bool = False
    scrapes: bool = False
    """May do nothing but `GET /metrics`, and sees there the numbers of all teams' jobs."""


class Team(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tenant: its queues (the first is its default), and the tiers it may use (empty: all)."""

    queues: tuple[str, ...] = ("default",)
    tiers: tuple[str, ...] = ()


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be configured, with its default."""

    # where things are
    state: str = ""
    """Folder of everything this installation keeps on this machine."""
    nats_url: str = "nats://127.0.0.1:4222"
    """Of one server, or of several, separated by commas."""
    nats_user: str = ""
    nats_password: str = ""
    replicas: int = 1
    """Of LEDGER and REQUESTS: 1 with one NATS server, 3 with three."""
    blobs_url: str = ""
    """Empty: the folder `blobs` in `state`."""
    ray_address: str = ""
    """Of Ray's head, for capacity: `ray://<host>:10001`, or `<host>:<port>` on a node of the cluster itself."""
    host: str = "127.0.0.1"
    gateway_port: int = 8470
    otlp_port: int = 8471
    """OTLP/HTTP at monitoring. 0: any free port."""
    otlp_url: str = ""
    """As jobs reach it. Empty: `http://<host>:<otlp_port>`."""

    otlp_secret: str = ""
    """Signs the tokens by which an attempt may write its own series; the same for monitoring and every runner."""
    node_folder: str = ""
    """Where a node keeps its attempts and caches. Empty: the folder `nodes` in `state`."""
    hosts_file: str = ""
    """Of the machines that are ours (`controlplane.hosts`), where there is no Kubernetes. Empty: whatever joins Ray is.
    """
    attempt_uids: str = ""
    """Users of the nodes that attempts run as, each as one of its own: `200000-265535`. Empty: as the node itself."""
    # Kubernetes; without it, nodes are what joins Ray
    kubernetes_pool: str = ""
    """Of machines with the label `headrace.dev/pool=<this>`, all are ours."""
    kubernetes_namespace: str = "headrace"
    kubernetes_cluster: str = "headrace"
    """Name of the RayCluster that is kept on them."""
    kubernetes_node_image: str = ""
    """Of its pods: our runtime, and Ray."""
    kubernetes_ray_version: str = ""
    """What Ray is in that image."""
    kubernetes_token_secret: str = "headrace-ray-token"
    """Name of the Secret with the token of the shared Ray cluster."""
    kubernetes_node_secret: str = ""
    """Name of a Secret whose keys are environment variables of its nodes: credentials of the blob store."""
    kubernetes_head_claim: str = ""
    """Name of a PersistentVolumeClaim in which Ray's head keeps what it knows. Empty: it forgets all with its pod."""
    kubeconfig: str = ""
    """Empty: the service account of the pod that the service runs in."""

    health_port: int = -1
    """`/healthz` and `/readyz` of each process. -1: no such door; 0: any free port."""

    # who may do what
    teams: dict[str, Team] = msgspec.field(default_factory=lambda: {"default": Team()})
    tokens: dict[str, Identity] = {}
    """SHA-256 (hex) of a bearer token → whose it is."""

    # what there is to use
    tiers: tuple[Tier, ...] = (
        Tier(name="cpu", resources=Resources(cpus=1, memory_bytes=2 * GIB), note="one core"),
        Tier(name="gpu1", resources=Resources(cpus=8, memory_bytes=60 * GIB, gpus=1), note="one GPU"),
        Tier(name="gpu2", resources=Resources(cpus=16, memory_bytes=120 * GIB, gpus=2), note="two GPUs of one node"),
        Tier(name="gpu8", resources=Resources(cpus=64, memory_bytes=480 * GIB, gpus=8), note="a whole node"),
    )
    default_tier: str = "cpu"

    # limits and times
    time_limit_s_default: float | None = None
    time_limit_s_max: float = 30 * 86_400.0
    grace_s_default: float = 30.0
    grace_s_max: float = 600.0
    attempts_max_default: int = 3
    heartbeat_s: float = 5.0
    suspect_s: float = 20.0
    lease_s: float = 900.0
    """A node silent for longer (and the margins of design 7) has lost its attempts. 0: only evidence decides."""
    leader_lease_s: float = 3.0
    backfill_depth: int = 1
    """How many jobs that do not fit now have a reservation that later ones must not delay."""
    preempt_min_run_s: float = 300.0
    """No attempt is preempted before it has run for so long."""
    fair_half_life_s: float = 86_400.0
    """In fair shares, use that is so old counts half. 0: only what is held now counts."""
    packing: Literal["best_fit", "fgd"] = "best_fit"
    """Which node a job gets, of those that have room: that with the least left over, or that of whose GPUs the least
    idles in vain for the kinds of work that there are."""
    control_wait_s: float = 600.0
    """How long a control waits for the submit that it overtook."""
    archive_after_s: float = 7 * 86_400.0
    """A job that has been over for so long is moved from the ledger to the archive. 0: never."""
    remember_s: float = 7 * 86_400.0
    """For how much longer the ledger keeps a mark in the place of a job that was archived."""
    ledger_bytes_max: int = streams.LEDGER.bytes_max
    """Of LEDGER, in the store of NATS. Nine tenths are for new jobs, the rest for what becomes of them."""
    requests_bytes_max: int = streams.REQUESTS_BYTES_MAX
    """Of the requests of each team that wait."""
    metrics_bytes_max: int = streams.METRICS.bytes_max
    logs_bytes_max: int = streams.LOGS.bytes_max
    dead_bytes_max: int = streams.DEAD.bytes_max
    source_bytes_max: int = 500 * 1024**2
    environment_builds: bool = True
    """Whether a package without a wheel may be built while an environment is solved: its code runs in the service."""

    @property
    def streams(self) -> tuple[streams.Stream, ...]:
        """Every stream of this installation, with its limit."""
        limits = {
            streams.LEDGER: self.ledger_bytes_max,
            streams.METRICS: self.metrics_bytes_max,
            streams.LOGS: self.logs_bytes_max,
            streams.DEAD: self.dead_bytes_max,
            streams.REQUESTS: self.requests_bytes_max,
            **{streams.requests(team): self.requests_bytes_max for team in self.teams},
        }
        return tuple(msgspec.structs.replace(stream, bytes_max=limit) for stream, limit in limits.items())

    @property
    def has_pool(self) -> bool:
        """Whether somebody else says which machines are ours, so that the service `pool` has something to do."""
        return bool(self.kubernetes_pool or self.hosts_file)

    @property
    def blobs(self) -> str:
        return self.blobs_url or f"file://{Path(self.state).absolute()}/blobs"

    @property
    def otlp(self) -> str:
        return self.otlp_url or f"http://{self.host}:{self.otlp_port}"

    def tier(self, name: str) -> Tier | None:
        return next((tier for tier in self.tiers if tier.name == name), None)


def load(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, str]) -> Configuration:
    """The configuration from all three origins. Raises ConfigurationError."""
    raw: dict[str, Any] = {}
    origin: dict[str, str] = {}
    if file is not None:
        raw = _read(file)
        origin = dict.fromkeys(raw, str(file))
    for name, value in environ.items():
        key = name.removeprefix(ENVIRONMENT_PREFIX)
        if name != key and key not in _NOT_SETTINGS and key.lower() in _SCALARS:
            raw[key.lower()] = value
            origin[key.lower()] = f"environment variable {name}"
    for key, value in flags.items():
        if key not in _SCALARS:
            raise ConfigurationError(f"--set {key}: no such key; there are {', '.join(sorted(_SCALARS))}")
        raw[key] = value
        origin[key] = f"flag --set {key}"
    return _convert(raw, origin)


def endpoint(address: str) -> tuple[str, int]:
    """Host and port of an address of Ray's head: of Ray Client (`ray://head:10001`), or of its GCS (`head:6379`).

    Raises ValueError that says what would be right.
    """
    parts = _RAY_ADDRESS.fullmatch(address)
    if not parts or not 0 < int(parts["port"]) < 65536:
        raise ValueError(f"not {address!r}, but ray://<host>:<port>, or <host>:<port> on a node of the cluster itself")
    return parts["host"].strip("[]"), int(parts["port"])


_RAY_ADDRESS: Final = re.compile(r"(ray://)?(?P<host>[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")


_SCALARS: Final = frozenset(
    field.name for field in msgspec.structs.fields(Configuration) if field.name not in {"teams", "tokens", "tiers"}
)


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text()
        raw = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, JSONDecodeError, UnicodeDecodeError; too deep
        raise ConfigurationError(f"{file}: cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigurationError(f'{file}: must be an object with settings, such as {{"replicas": 3}}')
    return raw


def _convert(raw: dict[str, Any], origin: dict[str, str]) -> Configuration:
    unknown = sorted(set(raw) - {field.name for field in msgspec.structs.fields(Configuration)})
    if unknown:
        raise ConfigurationError(f"{origin[unknown[0]]}: no such key: {unknown[0]}")
    for key, value in raw.items():  # one by one, so that an error can name its origin
        try:
            msgspec.convert({key: value}, Configuration, strict=False)
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"{origin[key]}: {key}: {error}") from error
    config = msgspec.convert(raw, Configuration, strict=False)
    _check(config)
    return config


def _check(config: Configuration) -> None:
    names = [tier.name for tier in config.tiers]
    for tier in config.tiers:
        has = tier.resources
        if not 1 <= has.gpu_milli <= GPU_MILLI or (has.gpu_milli < GPU_MILLI and (has.gpus, has.nodes) != (1, 1)):
            raise ConfigurationError(
                f"tiers.{tier.name}.resources.gpu_milli: from 1 to {GPU_MILLI}, and less only with one GPU of one node"
            )
        if len(tier.on) > ALTERNATIVES_MAX:
            raise ConfigurationError(f"tiers.{tier.name}.on: at most {ALTERNATIVES_MAX} alternatives")
        for constraint in tier.on:
            for label, values in constraint.items():
                if not label or not values or not all(value.lstrip("!") for value in values):
                    raise ConfigurationError(
                        f'tiers.{tier.name}.on: such as [{{"gpu": ["A100"]}}, {{"gpu": ["V100"]}}]'
                    )
    if config.default_tier not in names:
        raise ConfigurationError(f"default_tier: no tier {config.default_tier!r}; there are {', '.join(names)}")
    for name, team in config.teams.items():
        if not team.queues:
            raise ConfigurationError(f"teams.{name}.queues: a team needs at least one queue")
        for allowed in team.tiers:
            if allowed not in names:
                raise ConfigurationError(f"teams.{name}.tiers: no tier {allowed!r}; there are {', '.join(names)}")
    for token, identity in config.tokens.items():
        if identity.team not in config.teams:
            raise ConfigurationError(f"tokens.{token[:8]}…: no team {identity.team!r}")
        if identity.scrapes and identity.operator:
            raise ConfigurationError(f"tokens.{token[:8]}…: either operator or scrapes, which may do nothing else")
    if config.hosts_file and config.kubernetes_pool:
        raise ConfigurationError("hosts_file: machines are listed there, or labelled in Kubernetes: not both")
    try:
        uids.parse(config.attempt_uids)
    except uids.BadRange as error:
        raise ConfigurationError(f"attempt_uids: {error}") from error
    if config.ray_address:
        try:
            endpoint(config.ray_address)
        except ValueError as error:
            raise ConfigurationError(f"ray_address: {error}") from error
    if config.archive_after_s < 0:
        raise ConfigurationError("archive_after_s: a number of seconds, or 0 for never")
    if config.remember_s < 1:
        raise ConfigurationError("remember_s: at least one second, and better days: see docs/operating.md")
    for name in ("ledger", "requests", "metrics", "logs", "dead"):
        if getattr(config, f"{name}_bytes_max") < STREAM_BYTES_MIN:
            raise ConfigurationError(f"{name}_bytes_max: at least {STREAM_BYTES_MIN}: the largest message has to fit")
    for name in ("backfill_depth", "preempt_min_run_s", "fair_half_life_s"):
        if not 0 <= getattr(config, name) < math.inf:
            raise ConfigurationError(f"{name}: a number that is not below 0")
    if not config.heartbeat_s < config.suspect_s:
        raise ConfigurationError("suspect_s: must be longer than heartbeat_s")
