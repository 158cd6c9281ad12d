"""What the embedded stack consists of, as data: folders, secrets, ports, configuration, commands."""

from __future__ import annotations

import errno
import getpass
import glob
import hashlib
import os
import random
import secrets
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from controlplane.config import Configuration, Identity, load
from controlplane.embedded.children import Child
from controlplane.embedded.files import write_private
from controlplane.nats_server import binary, configuration

T = TypeVar("T")

PORTS: Final = range(20_000, 32_768)
"""Linux gives outgoing connections those from 32768 on: a service that starts again must find its port free."""

SERVICES: Final = ("submission", "environments", "scheduling", "monitoring", "gateway")
USER: Final = "headrace"
TEAM: Final = "default"
OBJECT_STORE_BYTES: Final = 100 * 1024**2
"""Ray carries no data of ours: the least that it takes."""
MEMORY_SHARE: Final = 0.8
"""Of the machine's memory that attempts may use; the rest is for the stack and the system."""


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """Made once a state folder, kept in `secrets.json` (0600)."""

    token: str
    nats_password: str
    otlp_secret: str
    ray_token: str


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """Kept in `ports.json`, so that a stack that starts again is found where it was."""

    nats: int
    ray: int
    gateway: int
    otlp: int


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known before the first process starts."""

    state: Path
    node: str
    gpus: int
    secrets: Secrets
    ports: Ports
    config: Configuration
    ray_folder: Path
    split: bool = False
    ray_dashboard: int = 0
    """Port of Ray's own dashboard and Jobs API; 0: neither."""

    @property
    def config_file(self) -> Path:
        return self.state / "run" / "config.json"

    @property
    def ray_address(self) -> str:
        return f"127.0.0.1:{self.ports.ray}"


def prepare(state: Path, *, gpus: int | None, split: bool, ray_dashboard: int = 0) -> Plan:
    """Make folders, secrets and ports, or find those of last time. Raises ConfigurationError, OSError."""
    for folder in ("run", "logs", "nats", "blobs", "nodes"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    state.chmod(0o700)
    keys = _kept(state / "secrets.json", Secrets, _new_secrets)
    ports = _kept(state / "ports.json", Ports, _new_ports)
    if not all(_is_free(port) for port in msgspec.structs.astuple(ports)):
        (state / "ports.json").unlink()
        ports = _kept(state / "ports.json", Ports, _new_ports)
    own = state / "headrace.toml"
    config = load(own if own.exists() else None, os.environ, {})
    team = next(iter(config.teams), TEAM)
    plan = Plan(
        state=state,
        node=socket.gethostname(),
        gpus=len(glob.glob("/dev/nvidia[0-9]*")) if gpus is None else gpus,
        secrets=keys,
        ports=ports,
        config=msgspec.structs.replace(
            config,
            state=str(state),
            nats_url=f"nats://127.0.0.1:{ports.nats}",
            nats_user=USER,
            nats_password=keys.nats_password,
            ray_address=f"127.0.0.1:{ports.ray}",
            gateway_port=ports.gateway,
            otlp_port=ports.otlp,
            otlp_secret=keys.otlp_secret,
            tokens={
                **config.tokens,
                hashlib.sha256(keys.token.encode()).hexdigest(): Identity(team=team, user=user_name(), operator=True),
            },
        ),
        ray_folder=_ray_folder(state),
        split=split,
        ray_dashboard=ray_dashboard,
    )
    write_private(plan.config_file, msgspec.json.encode(plan.config))
    return plan


def children(plan: Plan) -> list[Child]:
    """The processes of the stack, in the order in which they start."""
    base = [sys.executable, "-m", "controlplane"]
    options = ["--config", str(plan.config_file)]
    groups = [(name,) for name in SERVICES] if plan.split else [SERVICES]
    services = [
        Child(name=group[0] if plan.split else "services", command=(*base, *group, *options)) for group in groups
    ]
    environment = ray_environment(plan.secrets.ray_token)
    return [
        nats_child(plan),
        Child(name="ray", command=ray_command(plan), environment=environment, ready_port=plan.ports.ray, stop_s=2.0),
        *services,
        Child(name="capacity", command=(*base, "capacity", *options), environment=environment, after="ray"),
    ]


def nats_child(plan: Plan) -> Child:
    """NATS from the wheel, with its configuration written to the state folder."""
    file = plan.state / "run" / "nats.conf"
    monitor_port = free_ports(1)[0]
    text = configuration(
        name=plan.node,
        host="127.0.0.1",
        port=plan.ports.nats,
        store=plan.state / "nats",
        user=USER,
        password=plan.secrets.nats_password,
        monitor_port=monitor_port,
    )
    write_private(file, text.encode())
    return Child(
        name="nats",
        command=(binary(), "-c", str(file)),
        ready_port=plan.ports.nats,
        health_url=f"http://127.0.0.1:{monitor_port}/healthz",
        store=str(plan.state / "nats"),
    )


def ray_command(plan: Plan) -> tuple[str, ...]:
    """One head that is the node as well. Ray listens on wildcard addresses: the token is the wall."""
    dashboard = ("--dashboard-host=127.0.0.1", f"--dashboard-port={plan.ray_dashboard}") if plan.ray_dashboard else ()
    return (
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
        f"--port={plan.ports.ray}",
        "--node-ip-address=127.0.0.1",
        f"--num-cpus={os.cpu_count() or 1}",
        f"--num-gpus={plan.gpus}",
        f"--memory={int(_memory_bytes() * MEMORY_SHARE)}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--include-dashboard={'true' if plan.ray_dashboard else 'false'}",
        *dashboard,
        "--dashboard-agent-listen-port=0",
        f"--labels=hr.node={plan.node}",
        f"--temp-dir={plan.ray_folder}",
    )


def ray_environment(token: str) -> dict[str, str]:
    """What Ray's processes and whoever connects to them have in common."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_memory_monitor_refresh_ms": "0",  # it would end the runner first: attempts are bounded by us
        "RAY_gcs_rpc_server_reconnect_timeout_s": "5",  # a head that died is not waited for: all of Ray starts anew
        "RAY_worker_niceness": "0",  # 15 by default: attempts would start late, and inherit it
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # nothing of ours needs Ray's drain
        "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",  # a SIGTERM is no failure: no stack traces
        "PYTHONDONTWRITEBYTECODE": "",  # without its .pyc files Ray takes four times as long to start
        "RAY_DISABLE_IMPORT_WARNING": "1",
    }


def stack_file(plan: Plan, *, started_at: float) -> bytes:
    """What the CLI reads to find the stack (`stack.json`, 0600)."""
    return msgspec.json.encode(
        {
            "version": 1,
            "url": f"http://127.0.0.1:{plan.ports.gateway}",
            "token": plan.secrets.token,
            "pid": os.getpid(),
            "started_at": started_at,
            "nats": plan.config.nats_url,
            "nats_user": USER,
            "nats_password": plan.secrets.nats_password,
            "otlp": plan.config.otlp,
            "ray": str(plan.ray_folder),
            "ray_address": plan.ray_address,
            "node": plan.node,
            "log": str(plan.state / "logs"),
        }
    )


def user_name() -> str:
    """Who runs this stack; a machine without a user database gives `user`."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "user"


def free_ports(count: int, *, among: range = PORTS) -> list[int]:
    """Ports of loopback that nobody listens on now, and that no outgoing connection will ever take.

    Each is given once a minute at most, by whatever process of this machine: who asked may take his time to listen.
    Raises OSError if there are not so many.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(among, len(among)):
        if len(found) == count:
            break
        if _is_reserved(port):
            found.append(port)
    if len(found) < count:
        raise OSError(errno.EADDRINUSE, f"fewer than {count} of the ports {among.start} to {among.stop - 1} are free")
    return found


def _kept(file: Path, kind: type[T], make: Callable[[], T]) -> T:
    """What the file holds; made and kept there the first time."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except FileNotFoundError:
        made = make()
        write_private(file, msgspec.json.encode(made))
        return made


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _is_reserved(port: int) -> bool:
    """Whether the port was free, and is kept for the caller now.

    A connection that its server ends first leaves the server's port in TIME_WAIT, for a minute in Linux (tcp(7)). With
    SO_REUSEADDR, which servers have, one may listen there all the same; a bind without it, such as this one, fails.
    """
    try:
        with socket.socket() as door:
            door.bind(("127.0.0.1", port))
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what is in TIME_WAIT has to have it as well
            door.listen()
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                door.accept()[0].close()
    except OSError:
        return False
    return True


def _new_ports() -> Ports:
    nats, ray, gateway, otlp = free_ports(4)
    return Ports(nats=nats, ray=ray, gateway=gateway, otlp=otlp)


def _new_secrets() -> Secrets:
    return Secrets(
        token=secrets.token_urlsafe(32),
        nats_password=secrets.token_urlsafe(32),
        otlp_secret=secrets.token_urlsafe(32),
        ray_token=secrets.token_hex(32),
    )


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _ray_folder(state: Path) -> Path:
    """A short path of our own (Ray's sockets may be 107 bytes long), below a folder that nobody else can enter."""
    mark = hashlib.sha256(str(state).encode()).hexdigest()[:10]
    folder = Path("/tmp") / f"headrace-{os.getuid()}-{mark}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or not folder.is_dir():
        raise PermissionError(f"{folder} is not a private folder of this user: remove it")
    return folder / "ray"  # Ray opens its own folder to everybody (0777)
