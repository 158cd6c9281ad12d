"""What the chart hands to the services is a configuration that they take; a mistake in its values is told before."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import runpy
from pathlib import Path
from typing import Any

import helm_python
import msgspec
import pytest
import yaml

from controlplane.config import Configuration, Identity, load
from controlplane.pool.service import settings_of
from events.streams import GIB
from tests.support import charts
from tests.support.charts import CASES, NATS, Object, rendered, values

CHART = helm_python.Chart.load(charts.CHART)


def loaded(objects: dict[tuple[str, str], Object], folder: Path) -> Configuration:
    """As a service in a pod would read it: the file, then what the Secret puts into the environment."""
    file = folder / "headrace.json"
    name = next(name for kind, name in objects if kind == "ConfigMap" and not name.endswith(("-dashboard", "-config")))
    file.write_text(objects["ConfigMap", name]["data"]["headrace.json"])
    environ = {"HEADRACE_NATS_PASSWORD": "hush", "HEADRACE_OTLP_SECRET": "secret", "HOME": "/tmp"}
    return load(file, environ, {})


@pytest.mark.parametrize("case", CASES)
def test_the_services_take_the_configuration(case: str, tmp_path: Path) -> None:
    config = loaded(rendered(values(case)), tmp_path)
    settings = settings_of(config)
    assert (settings.namespace, settings.name) == ("ml", "headrace")
    assert settings.node_folder == config.node_folder
    assert settings.attempt_uids == config.attempt_uids == "200000-265535"
    assert (config.state, config.host, config.health_port) == ("/state", "0.0.0.0", 8080)
    assert config.replicas == (1 if case == "external-nats" else 3)


def test_what_was_set_is_in_it_and_what_follows_from_the_release(tmp_path: Path) -> None:
    objects = rendered(values("everything"))
    config = loaded(objects, tmp_path)
    assert set(config.teams) == {"vision", "speech"}
    assert config.teams["vision"].queues == ("default", "nightly")
    assert list(config.tokens.values()) == [Identity(team="vision", user="ada")]
    assert (config.ledger_bytes_max, config.lease_s) == (4 * GIB, 1200)
    assert (config.blobs_url, config.kubernetes_node_secret) == ("s3://research/headrace", "blob-credentials")
    assert config.kubernetes_node_image == "registry/headrace/node@sha256:" + "2" * 64
    assert config.kubernetes_token_secret == "our-secrets"
    assert (config.nats_url, config.nats_user) == ("nats://headrace-nats.ml.svc:4222", "headrace")
    service = objects["Service", "headrace-otlp"]
    assert config.otlp == f"http://{service['metadata']['name']}.ml.svc:{service['spec']['ports'][0]['port']}"
    assert config.ray_address == "ray://headrace-head-svc.ml.svc:10001"


def test_secrets_are_drawn_and_in_no_config_map() -> None:
    objects, others = rendered(values("minimal")), rendered(values("minimal"))
    drawn, again = (each["Secret", "headrace"]["data"] for each in (objects, others))
    assert set(drawn) == {"nats-password", "otlp-secret", "auth_token", "scrape-token"}
    plain = [base64.b64decode(value).decode() for value in drawn.values()]
    assert len(set(plain)) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9]{40}", value) for value in plain)
    assert not set(drawn.values()) & set(again.values())
    text = json.dumps([one for (kind, _), one in objects.items() if kind != "Secret"])
    assert [value for value in plain if value in text] == []


def test_a_secret_of_ones_own_is_used_and_none_is_made() -> None:
    objects = rendered(values("everything"))
    assert charts.of("Secret", objects) == {}
    names = set(re.findall(r'"secretKeyRef": {"name": "([^"]+)"', json.dumps(list(objects.values()))))
    assert names == {"our-secrets"}


def test_prometheus_has_a_token_that_can_do_nothing_but_scrape(tmp_path: Path) -> None:
    objects = rendered(values("minimal", metrics={"serviceMonitor": True}))
    monitor = objects["ServiceMonitor", "headrace"]["spec"]["endpoints"][0]
    assert monitor["authorization"]["credentials"] == {"name": "headrace", "key": "scrape-token"}
    token = base64.b64decode(objects["Secret", "headrace"]["data"]["scrape-token"])
    tokens = loaded(objects, tmp_path).tokens
    assert tokens == {hashlib.sha256(token).hexdigest(): Identity(team="default", user="prometheus", scrapes=True)}
    assert loaded(rendered(values("minimal")), tmp_path).tokens == {}


def test_a_change_of_the_configuration_starts_the_services_anew() -> None:
    def marks(**more: Any) -> set[str]:
        deployments = charts.of("Deployment", rendered(values("minimal", **more))).values()
        return {one["spec"]["template"]["metadata"]["annotations"]["checksum/configuration"] for one in deployments}

    assert len(marks()) == 1
    assert marks() == marks()
    assert marks() != marks(config={"lease_s": 1})


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"nodes": 1}, "'nodes' not allowed"),
        ({"gateway": {"replica": 3}}, "'replica' not allowed"),
        ({"config": {"lease": 1}}, "'lease' not allowed"),
        ({"config": {"nats_url": "x"}}, "'nats_url' not allowed"),
        ({"config": {"lease_s": "long"}}, "want number"),
        ({"config": {"packing": "worst"}}, "'best_fit', 'fgd'"),
        ({"config": {"teams": {"a": {"queue": ["b"]}}}}, "'queue' not allowed"),
        ({"config": {"tiers": [{"name": "x", "resources": {"cpu": 1}}]}}, "'cpu' not allowed"),
        ({"config": {"tokens": {"short": {"team": "a", "user": "b"}}}}, "short"),
        ({"image": {"digest": "latest"}}, "pattern"),
        ({"blobs": {"url": "file:///blobs"}}, "'not' failed"),
        ({"global": {"secret": "x"}}, "'secret' not allowed"),
        ({"capacity": {"replicas": 2}}, "'replicas' not allowed"),
        ({"monitoring": {"replicas": 2}}, "'replicas' not allowed"),
    ],
)
def test_values_that_are_no_values_are_refused(given: Object, said: str) -> None:
    with pytest.raises(helm_python.HelmValuesError, match=re.escape(said)):
        CHART.validate_schema(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "blobs.url is not set"),
        ({"blobs": {"url": "s3://b"}, "nats": {"enabled": False}}, "set bus.url"),
        ({"blobs": {"url": "s3://b"}, "bus": {"url": "nats://n:4222"}}, "set nats.enabled to false"),
        ({"blobs": {"url": "s3://b"}, "bus": {"user": "us"}}, "the user headrace"),
        ({"blobs": {"url": "s3://b"}, "nats": {"config": {"cluster": {"replicas": 2}}}}, "at least 3"),
        ({"blobs": {"url": "s3://b"}, "ingress": {"enabled": True}}, "set ingress.host"),
        ({"blobs": {"url": "s3://b"}, "httpRoute": {"enabled": True}}, "set httpRoute.parentRefs"),
    ],
)
def test_what_is_missing_is_named(given: Object, said: str) -> None:
    with pytest.raises(helm_python.HelmRenderError, match=re.escape(said)):
        rendered(given)


@pytest.mark.parametrize("case", CASES)
def test_the_values_of_the_cases_are_values(case: str) -> None:
    CHART.validate_schema(values(case))


def test_every_setting_is_either_a_value_or_follows_from_the_release() -> None:
    script = runpy.run_path(str(charts.ROOT / "scripts" / "chart_schema.py"))
    settings = {field.name for field in msgspec.structs.fields(Configuration)}
    text = (charts.CHART / "templates" / "_helpers.tpl").read_text()
    follows = {name for name in script["FROM_THE_RELEASE"] if f'"{name}"' in text}
    assert settings >= script["FROM_THE_RELEASE"]
    assert script["FROM_THE_RELEASE"] - follows == {"nats_password", "otlp_secret", "kubeconfig", "hosts_file"}
    assert set(CHART.schema["properties"]["config"]["properties"]) == settings - script["FROM_THE_RELEASE"]


@pytest.mark.parametrize(("script", "made", "file"), [
    ("chart_schema", "schema", "values.schema.json"), ("chart_readme", "page", "README.md")
])  # fmt: skip
def test_what_is_made_from_the_values_is_current(script: str, made: str, file: str) -> None:
    make = runpy.run_path(str(charts.ROOT / "scripts" / f"{script}.py"))[made]
    assert (charts.CHART / file).read_text() == make(), f"run python scripts/{script}.py"


def test_every_value_is_in_the_readme_and_in_the_schema() -> None:
    page = (charts.CHART / "README.md").read_text()
    assert [path for path in _paths(CHART.values, "") if f"`{path}`" not in page] == []
    assert set(CHART.values) == set(CHART.schema["properties"])


def _paths(given: Object, above: str) -> list[str]:
    """Of every value, but for what is not ours below `nats`, and what Kubernetes knows."""
    paths = []
    for name, value in given.items():
        path = f"{above}{name}"
        is_leaf = not isinstance(value, dict) or not value or name in {"nats", "resources", "dashboardLabels"}
        paths += [path] if is_leaf else _paths(value, f"{path}.")
    return paths


# -- the chart of NATS -------------------------------------------------------------------------------------------------


def test_the_volumes_of_nats_hold_all_streams_at_their_limits() -> None:
    """JetStream refuses a stream whose limit is beyond what the server may store."""
    size = yaml.safe_load((charts.CHART / "values.yaml").read_text())["nats"]["config"]["jetstream"]["fileStore"]
    assert size["pvc"]["size"].endswith("Gi")
    streams = Configuration().streams
    assert int(size["pvc"]["size"].removesuffix("Gi")) * GIB >= 1.5 * sum(one.bytes_max for one in streams)


@pytest.mark.skipif(not NATS, reason="HEADRACE_NATS_CHART names no chart of NATS")
def test_nats_is_three_servers_that_acknowledge_what_is_on_disk() -> None:
    objects = rendered(values("minimal"), nats=True)
    servers = objects["StatefulSet", "headrace-nats"]["spec"]
    assert servers["replicas"] == 3
    config = objects["ConfigMap", "headrace-nats-config"]["data"]["nats.conf"]
    assert '"sync_interval": "always"' in config
    assert '"password": $HEADRACE_NATS_PASSWORD' in config
    environment = {one["name"]: one for one in servers["template"]["spec"]["containers"][0]["env"]}
    password = environment["HEADRACE_NATS_PASSWORD"]["valueFrom"]["secretKeyRef"]
    assert password == {"name": "headrace", "key": "nats-password"}
    assert objects["Service", "headrace-nats"]["spec"]["ports"][0]["port"] == 4222
    assert len(servers["template"]["spec"]["containers"]) == 1
    own = rendered(values("everything"), nats=True)["StatefulSet", "headrace-nats"]
    assert '"name": "our-secrets"' in json.dumps(own)


@pytest.mark.skipif(not NATS, reason="HEADRACE_NATS_CHART names no chart of NATS")
def test_the_servers_are_those_that_the_url_names() -> None:
    for release in ("headrace", "our-nats", "x" * 53):
        objects = rendered(values("minimal"), release=release, nats=True)
        text = next(one for (kind, _), one in objects.items() if kind == "ConfigMap" and "headrace.json" in one["data"])
        host = json.loads(text["data"]["headrace.json"])["nats_url"].removeprefix("nats://").partition(".")[0]
        assert ("Service", host) in objects
        assert objects["Service", host]["spec"]["selector"]["app.kubernetes.io/instance"] == release


@pytest.mark.skipif(not NATS, reason="HEADRACE_NATS_CHART names no chart of NATS")
def test_the_chart_of_nats_is_of_the_version_that_is_asked_for() -> None:
    chart = yaml.safe_load((charts.CHART / "Chart.yaml").read_text())
    assert helm_python.Chart.load(NATS).version == chart["dependencies"][0]["version"]


def test_ray_is_the_one_that_is_installed() -> None:
    constraints = (charts.ROOT / "constraints.txt").read_text()
    assert f"ray=={CHART.values['node']['rayVersion']}\n" in constraints


@pytest.mark.parametrize(
    ("persistence", "claim", "made"),
    [
        ({}, "", False),
        ({"existingClaim": "ours"}, "", False),
        ({"enabled": True}, "headrace-head", True),
        ({"enabled": True, "existingClaim": "ours"}, "ours", False),
    ],
)
def test_the_heads_claim_is_made_unless_there_is_one(
    persistence: Object, claim: str, made: bool, tmp_path: Path
) -> None:
    objects = rendered(values("minimal", node={"head": {"persistence": persistence}}))
    settings = settings_of(loaded(objects, tmp_path))
    assert settings.head_claim == claim
    assert (("PersistentVolumeClaim", claim) in objects) is made
    assert ("PersistentVolumeClaim", "headrace-head") in objects or not made


def test_the_heads_volume_goes_with_the_release_for_so_does_what_it_knows_of() -> None:
    made = rendered(values("everything"))["PersistentVolumeClaim", "headrace-head"]
    assert "annotations" not in made["metadata"]
    assert made["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "fast",
        "resources": {"requests": {"storage": "10Gi"}},
    }
