"""An upgrade finds the secrets of the installation in the cluster, and keeps them."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import helm_python
import pytest
import yaml

from tests.support import charts

CHART = helm_python.Chart.load(charts.CHART)
SECRETS = {"name": "secrets", "singularName": "", "namespaced": True, "kind": "Secret", "verbs": ["get", "list"]}
DISCOVERY: dict[str, Any] = {
    "/version": {"major": "1", "minor": "31", "gitVersion": "v1.31.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [SECRETS]},
}


class Cluster(ThreadingHTTPServer):
    """An API server that has nothing but Secrets."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.secrets: dict[str, dict[str, str]] = {}
        """Name → data."""

    def render(self, **values: Any) -> dict[tuple[str, str], Any]:
        """As `helm upgrade` renders here."""
        config = helm_python.Config(kube_apiserver=f"http://127.0.0.1:{self.server_port}", namespace="ml")
        given = charts.values("minimal", **values)
        texts = config.render(CHART, given, name="headrace", namespace="ml", is_upgrade=True)
        found = [one for path, text in texts.items() if path.endswith(".yaml") for one in yaml.safe_load_all(text)]
        return {(one["kind"], one["metadata"]["name"]): one for one in found if one}


class _Handler(BaseHTTPRequestHandler):
    server: Cluster

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name = path.removeprefix("/api/v1/namespaces/ml/secrets/")
        body, status = DISCOVERY.get(path), 200
        if body is None and name in self.server.secrets:
            metadata = {"name": name, "namespace": "ml"}
            body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": self.server.secrets[name]}
        elif body is None:
            status = 404
            body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_secrets_are_drawn_once_and_kept(cluster: Cluster) -> None:
    first = cluster.render()["Secret", "headrace"]["data"]
    cluster.secrets["headrace"] = first
    assert cluster.render()["Secret", "headrace"]["data"] == first
    del cluster.secrets["headrace"]["scrape-token"]
    later = cluster.render()["Secret", "headrace"]["data"]
    assert {name: value for name, value in later.items() if name != "scrape-token"} == first
    assert later["scrape-token"]


def test_the_scrape_token_of_a_secret_of_ones_own_is_found(cluster: Cluster) -> None:
    cluster.secrets["ours"] = {"scrape-token": base64.b64encode(b"hush").decode()}
    objects = cluster.render(metrics={"serviceMonitor": True}, **{"global": {"headraceSecret": "ours"}})
    assert ("Secret", "ours") not in objects
    tokens = json.loads(objects["ConfigMap", "headrace"]["data"]["headrace.json"])["tokens"]
    identity = {"team": "default", "user": "prometheus", "scrapes": True}
    assert tokens == {hashlib.sha256(b"hush").hexdigest(): identity}
