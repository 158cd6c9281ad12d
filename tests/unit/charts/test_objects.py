"""Every object of the chart is one that Kubernetes takes, and runs with no more rights than it needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import helm_python
import pytest
from kubernetes.client import ApiClient

from controlplane.main import SERVICES
from tests.support import charts
from tests.support.charts import CASES, NATS, containers, of, pods, rendered, values

CUSTOM = {"ServiceMonitor", "HTTPRoute"}
"""Kinds that the official client has no model of."""


@pytest.mark.parametrize("case", CASES)
def test_helm_finds_nothing_to_complain_of(case: str, tmp_path: Path) -> None:
    chart = charts.copied(tmp_path, nats=bool(NATS))
    report = helm_python.lint(chart, values(case), strict=True, namespace="ml")
    found = [message["error"] for message in report["messages"] if message["severity"] > 1]
    expected = set() if NATS else {"chart directory is missing these dependencies: nats"}
    assert {*found, *report["errors"]} == expected


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_what_the_api_knows_key_by_key(case: str) -> None:
    objects = rendered(values(case), nats=bool(NATS) and case != "external-nats")
    client = ApiClient()
    for (kind, name), one in objects.items():
        if kind not in CUSTOM:
            model = client.deserialize(json.dumps(one), f"V1{kind}", None)
            assert _missing(one, client.sanitize_for_serialization(model), f"{kind}/{name}") == []


def _missing(given: Any, known: Any, path: str) -> list[str]:
    """Paths that the model has dropped, or changed."""
    if isinstance(given, dict) and isinstance(known, dict):
        return [lost for key, value in given.items() for lost in _missing(value, known.get(key), f"{path}.{key}")]
    if isinstance(given, list) and isinstance(known, list) and len(given) == len(known):
        return [lost for at, value in enumerate(given) for lost in _missing(value, known[at], f"{path}[{at}]")]
    return [] if given == known or given in ({}, [], None) else [path]


def test_a_key_that_the_api_does_not_know_would_be_found() -> None:
    client = ApiClient()
    one = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"port": [{"port": 1}]}}
    model = client.deserialize(json.dumps(one), "V1Service", None)
    assert _missing(one, client.sanitize_for_serialization(model), "s") == ["s.spec.port"]


def test_custom_objects_point_at_the_gateway() -> None:
    objects = rendered(values("everything"))
    service = objects["Service", "headrace-gateway"]
    monitor, route = objects["ServiceMonitor", "headrace"], objects["HTTPRoute", "headrace"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert [end["port"] for end in monitor["spec"]["endpoints"]] == [port["name"] for port in service["spec"]["ports"]]
    assert route["spec"]["rules"][0]["backendRefs"] == [{"name": "headrace-gateway", "port": 8470}]
    backend = objects["Ingress", "headrace"]["spec"]["rules"][0]["http"]["paths"][0]["backend"]
    assert backend == {"service": {"name": "headrace-gateway", "port": {"name": "http"}}}


# -- pods --------------------------------------------------------------------------------------------------------------


def test_every_service_has_its_deployment() -> None:
    objects = rendered(values("minimal"))
    assert {name.removeprefix("headrace-") for name in of("Deployment", objects)} == set(SERVICES)
    for name, template in pods(objects).items():
        command = template["spec"]["containers"][0]["command"]
        if name != "headrace-uninstall":
            assert command[:4] == ["python", "-m", "controlplane", name.removeprefix("headrace-")]


def test_what_may_run_twice_does_and_what_may_not_never_does() -> None:
    deployments = of("Deployment", rendered(values("minimal")))
    twice = {"submission", "environments", "scheduling", "gateway", "pool"}
    for name, one in deployments.items():
        spec, is_one = one["spec"], name.removeprefix("headrace-") not in twice
        assert spec["replicas"] == (1 if is_one else 2)
        assert spec["strategy"]["type"] == ("Recreate" if is_one else "RollingUpdate")
        assert ("topologySpreadConstraints" in spec["template"]["spec"]) is not is_one


@pytest.mark.parametrize("case", CASES)
def test_pods_meet_the_restricted_standard(case: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    objects = rendered(values(case), nats=bool(NATS) and case != "external-nats")
    for name, template in pods(objects).items():
        pod = template["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        kinds = {kind for volume in pod.get("volumes", ()) for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "projected"}, name
        for container in containers(template):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            if not name.endswith("-nats"):
                assert context["readOnlyRootFilesystem"] is True, name
                assert set(container["resources"]) == {"requests", "limits"}, name


def test_only_who_asks_the_api_server_has_a_token_for_it() -> None:
    with_token = {
        name: template["spec"]["serviceAccountName"]
        for name, template in pods(rendered(values("minimal"))).items()
        if template["spec"]["automountServiceAccountToken"]
    }
    assert with_token == {"headrace-pool": "headrace-pool", "headrace-uninstall": "headrace-uninstall"}


def test_no_service_of_kubernetes_becomes_a_setting() -> None:
    """A Service `headrace-gateway` would give each pod HEADRACE_GATEWAY_PORT=tcp://…, and no service would start."""
    for name, template in pods(rendered(values("minimal"))).items():
        assert template["spec"]["enableServiceLinks"] is False, name


def test_probes_ask_each_services_own_door() -> None:
    for name, one in of("Deployment", rendered(values("minimal"))).items():
        container = one["spec"]["template"]["spec"]["containers"][0]
        assert {"name": "health", "containerPort": 8080} in container["ports"], name
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}, name
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}, name


def test_images_are_named_by_digest_where_there_is_one() -> None:
    images = {c["image"] for template in pods(rendered(values("everything"))).values() for c in containers(template)}
    assert images == {"registry/headrace/control-plane@sha256:" + "1" * 64}
    images = {c["image"] for template in pods(rendered(values("minimal"))).values() for c in containers(template)}
    assert images == {"headrace/control-plane:0.1.0"}


def test_what_pods_are_given_is_in_the_secret_and_the_volumes() -> None:
    objects = rendered(values("minimal"))
    keys, claims = set(objects["Secret", "headrace"]["data"]), of("PersistentVolumeClaim", objects)
    for name, template in pods(objects).items():
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        for container in containers(template):
            references = [one["valueFrom"]["secretKeyRef"] for one in container.get("env", ()) if "valueFrom" in one]
            assert {one["name"] for one in references} <= {"headrace"}, name
            assert {one["key"] for one in references} <= keys, name
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= set(volumes), name
        claimed = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
        assert claimed == (set(claims) if name == "headrace-monitoring" else set())


def test_rays_token_is_given_to_capacity_alone() -> None:
    given = {
        name
        for name, template in pods(rendered(values("minimal"))).items()
        for container in containers(template)
        for variable in container.get("env", ())
        if variable["name"] == "RAY_AUTH_TOKEN"
    }
    assert given == {"headrace-capacity"}


def test_selectors_choose_the_pods_that_they_are_for() -> None:
    objects = rendered(values("everything"))
    labels = {name: template["metadata"]["labels"] for name, template in pods(objects).items()}
    for kind, selected in (
        ("Deployment", lambda one: one["spec"]["selector"]["matchLabels"]),
        ("Service", lambda one: one["spec"]["selector"]),
        ("PodDisruptionBudget", lambda one: one["spec"]["selector"]["matchLabels"]),
    ):
        for name, one in of(kind, objects).items():
            if name != "headrace-nodes":
                chosen = [pod for pod, its in labels.items() if selected(one).items() <= its.items()]
                assert chosen == [name.replace("-otlp", "-monitoring")], (kind, name)


def test_an_eviction_of_a_nodes_pod_is_never_allowed() -> None:
    """By a number: a RayCluster has no `scale`, without which Kubernetes cannot reckon with `maxUnavailable`."""
    budget = rendered(values("minimal"))["PodDisruptionBudget", "headrace-nodes"]["spec"]
    assert budget["minAvailable"] > 10_000
    assert budget["selector"]["matchLabels"] == {"ray.io/cluster": "headrace", "ray.io/node-type": "worker"}


# -- names -------------------------------------------------------------------------------------------------------------

CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding"}


@pytest.mark.parametrize("one", [("headrace", "a"), ("a", "b"), ("b", "a")])
@pytest.mark.parametrize("other", [("headrace", "b"), ("a", "a")])
def test_two_installations_share_no_name_of_the_whole_cluster(one: tuple[str, str], other: tuple[str, str]) -> None:
    names = []
    for release, namespace in (one, other):
        objects = rendered(values("everything"), release=release, namespace=namespace)
        names.append({(kind, name) for kind, name in objects if kind in CLUSTER_WIDE})
        assert all(item["metadata"].get("namespace", namespace) == namespace for item in objects.values())
    assert names[0]
    assert not names[0] & names[1]


def test_names_stay_short_enough_for_what_kuberay_puts_behind_them() -> None:
    objects = rendered(values("minimal"), release="r" * 53)
    assert max(len(name) for kind, name in objects if kind not in CLUSTER_WIDE) <= 63
    assert len(objects["Role", next(name for name in of("Role", objects) if name.endswith("-pool"))]["rules"]) == 5


def test_the_table_in_the_docs_is_that_of_the_objects() -> None:
    text = charts.PAGE.read_text()
    assert text == charts.page(text), "run python -m tests.support.charts"
