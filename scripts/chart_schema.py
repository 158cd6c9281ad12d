"""Writes `charts/headrace/values.schema.json`: `python scripts/chart_schema.py`.

Every object refuses unknown names, but for what is Kubernetes' own (resources, tolerations, …) and the chart of NATS.
What `config` takes is taken from `controlplane.config`, so that a mistake is told before anything is installed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from controlplane.config import Configuration  # noqa: E402

FILE = ROOT / "charts" / "headrace" / "values.schema.json"
FROM_THE_RELEASE = {
    *("state", "host", "health_port", "nats_url", "nats_user", "nats_password", "replicas", "blobs_url", "ray_address"),
    *("gateway_port", "otlp_port", "otlp_url", "otlp_secret", "node_folder", "attempt_uids", "kubeconfig"),
    "hosts_file",  # for machines without Kubernetes
    *("kubernetes_pool", "kubernetes_namespace", "kubernetes_cluster", "kubernetes_node_image"),
    *("kubernetes_ray_version", "kubernetes_token_secret", "kubernetes_node_secret", "kubernetes_head_claim"),
}
"""Settings that follow from other values: they are refused below `config`."""

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
YES_NO: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}
TEXTS: Schema = {"type": "array", "items": TEXT}
OBJECTS: Schema = {"type": "array", "items": OBJECT}
BY_TEXT: Schema = {"type": "object", "additionalProperties": TEXT}
PORT: Schema = {"type": "integer", "minimum": 1024, "maximum": 65535}
LABEL: Schema = {"type": "string", "pattern": "^[a-z0-9A-Z]([-a-z0-9A-Z_.]{0,61}[a-z0-9A-Z])?$"}


def strict(**properties: Schema) -> Schema:
    """An object with these names and no other."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


def image(**more: Schema) -> Schema:
    digest = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
    return strict(repository={"type": "string", "minLength": 1}, digest=digest, tag=TEXT, **more)


def service(*, several: bool, **more: Schema) -> Schema:
    counted = {"replicas": {"type": "integer", "minimum": 1, "maximum": 20}} if several else {}
    return strict(resources=strict(requests=OBJECT, limits=OBJECT, claims=OBJECTS), **counted, **more)


def configuration() -> tuple[Schema, Schema]:
    """What `config` takes, and what that refers to."""
    schema = msgspec.json.schema(Configuration, ref_template="#/$defs/{name}")
    found: Schema = schema["$defs"].pop("Configuration")
    properties = {name: one for name, one in found["properties"].items() if name not in FROM_THE_RELEASE}
    for one in [*properties.values(), *(p for d in schema["$defs"].values() for p in d.get("properties", {}).values())]:
        one.pop("default", None)
    for one in schema["$defs"].values():
        one.setdefault("additionalProperties", False)
    properties["teams"]["minProperties"] = 1
    properties["tokens"]["propertyNames"] = {"pattern": "^[0-9a-f]{64}$"}
    return {"type": "object", "additionalProperties": False, "properties": properties}, schema["$defs"]


def schema() -> str:
    config, definitions = configuration()
    values = strict(
        **{"global": strict(headraceSecret=TEXT, image=OBJECT, labels=BY_TEXT)},
        pool=service(several=True, name=LABEL),
        blobs=strict(
            url={"type": "string", "pattern": "^([a-z0-9]+://.+)?$", "not": {"pattern": "^file:"}}, existingSecret=TEXT
        ),
        image=image(pullPolicy={"enum": ["Always", "IfNotPresent", "Never"]}),
        node=strict(
            image=image(),
            rayVersion=TEXT,
            folder={"type": "string", "pattern": "^/"},
            attemptUids={"type": "string", "pattern": "^([0-9]+-[0-9]+)?$"},
            head=strict(
                persistence=strict(enabled=YES_NO, size=TEXT, storageClassName=TEXT, existingClaim=TEXT),
            ),
        ),
        imagePullSecrets=TEXTS,
        config=config,
        listen=TEXT,
        bus=strict(url={"type": "string", "pattern": "^((nats|tls)://.+)?$"}, user=TEXT, replicas={"enum": [1, 3, 5]}),
        submission=service(several=True),
        environments=service(several=True),
        scheduling=service(several=True),
        gateway=service(several=True, port=PORT),
        capacity=service(several=False),
        monitoring=service(
            several=False, port=PORT, persistence=strict(size=TEXT, storageClassName=TEXT, existingClaim=TEXT)
        ),
        nodeSelector=BY_TEXT,
        tolerations=OBJECTS,
        priorityClassName=TEXT,
        networkPolicy=strict(enabled=YES_NO, gatewayFrom=OBJECTS, otlpFrom=OBJECTS, natsFrom=OBJECTS),
        ingress=strict(enabled=YES_NO, className=TEXT, annotations=BY_TEXT, host=TEXT, tlsSecret=TEXT),
        httpRoute=strict(enabled=YES_NO, parentRefs=OBJECTS, hostnames=TEXTS),
        metrics=strict(serviceMonitor=YES_NO, interval=TEXT, labels=BY_TEXT, dashboard=YES_NO, dashboardLabels=BY_TEXT),
        nats={"type": "object", "required": ["enabled"], "properties": {"enabled": YES_NO}},
    )
    whole = {"$schema": "http://json-schema.org/draft-07/schema#", **values, "$defs": definitions}
    return json.dumps(whole, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(schema())
    print(f"written: {FILE}", file=sys.stderr)
