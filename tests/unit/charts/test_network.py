"""Who reaches whom, by the chart's policies as Kubernetes reads them: only the gateway and the OTLP door are open."""

from __future__ import annotations

import pytest

from tests.support.charts import lets_in, pods, rendered, values

OBJECTS = rendered(values("minimal"))
PODS = {
    **{name.removeprefix("headrace-"): one["metadata"]["labels"] for name, one in pods(OBJECTS).items()},
    "head": {"ray.io/cluster": "headrace", "ray.io/node-type": "head"},
    "node": {"ray.io/cluster": "headrace", "ray.io/node-type": "worker"},
    "nats": {"app.kubernetes.io/name": "nats", "app.kubernetes.io/instance": "headrace"},
    "stranger": {"app": "stranger"},
    "another head": {"ray.io/cluster": "another", "ray.io/node-type": "head"},
    "another's gateway": {
        "app.kubernetes.io/name": "headrace",
        "app.kubernetes.io/instance": "another",
        "app.kubernetes.io/component": "gateway",
    },
}
SERVICES = {"submission", "environments", "scheduling", "monitoring", "gateway", "capacity", "pool", "uninstall"}
EVERYBODY = set(PODS)


@pytest.mark.parametrize(
    ("pod", "port", "comers"),
    [
        ("gateway", "http", EVERYBODY),
        ("gateway", 8080, set()),
        ("monitoring", "otlp", EVERYBODY),
        ("monitoring", 8080, set()),
        ("scheduling", 8080, set()),
        ("capacity", 30_000, set()),
        ("node", 6379, {"head", "node"}),
        ("node", 30_000, {"head", "node"}),
        ("head", 6379, {"head", "node"}),
        ("head", 8265, {"head", "node"}),
        ("head", 10001, {"head", "node", "capacity"}),
        ("nats", 4222, SERVICES | {"head", "node"}),
        ("nats", 6222, {"nats"}),
        ("nats", 8222, set()),
    ],
)
def test_who_comes_in(pod: str, port: int | str, comers: set[str]) -> None:
    assert {name for name, labels in PODS.items() if lets_in(OBJECTS, PODS[pod], port, labels)} == comers


def test_pods_of_others_are_none_of_our_business() -> None:
    for name in ("stranger", "another head", "another's gateway"):
        assert lets_in(OBJECTS, PODS[name], 1, PODS["stranger"])


def test_doors_can_be_narrowed_and_nodes_still_write_their_numbers() -> None:
    edge = [{"podSelector": {"matchLabels": {"app": "edge"}}}]
    narrow = rendered(values("minimal", networkPolicy={"gatewayFrom": edge, "otlpFrom": edge, "natsFrom": edge}))
    for pod, port in (("gateway", "http"), ("monitoring", "otlp"), ("nats", 4222)):
        assert lets_in(narrow, PODS[pod], port, {"app": "edge"})
        assert not lets_in(narrow, PODS[pod], port, PODS["stranger"])
    assert lets_in(narrow, PODS["monitoring"], "otlp", PODS["node"])


def test_policies_can_be_left_out() -> None:
    assert lets_in(rendered(values("external-nats")), PODS["node"], 6379, PODS["stranger"])
