"""The RayCluster: what it says of machines can be read back, and KubeRay's own schema takes it."""

import os
from pathlib import Path

import jsonschema
import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controlplane.pool import raycluster
from controlplane.pool.machines import GIB, Amounts
from controlplane.pool.raycluster import Group, Settings, Shape, shape_of
from runtime.pod import OWN_FOLDER_DEFAULT
from runtime.users import NEEDED

SETTINGS = Settings(
    name="pool", namespace="headrace", pool="research", node_image="node:1", ray_version="2.60.0", token_secret="token"
)
KEPT = msgspec.structs.replace(SETTINGS, head_claim="pool-head", attempt_uids="200000-265535")
SHARED = Path(__file__).parents[4] / "shared" / "data" / "kuberay" / "ray.io_rayclusters.yaml"
CRD = Path(os.environ.get("HEADRACE_RAYCLUSTER_CRD", SHARED))


def a_group(*hosts, gpus=8, deleting=(), model="A100"):
    shape = Shape(Amounts(95_000, 700 * GIB, gpus), model if gpus else "")
    return Group(
        shape=shape,
        hosts=tuple(sorted(hosts)),
        replicas=len(hosts),
        deleting=tuple(sorted(deleting)),
        template=raycluster.template_of(SETTINGS, shape),
    )


def as_seen(body):
    more = {"uid": "u", "resourceVersion": "7", "generation": 3}
    return body | {"metadata": body["metadata"] | more}


NAMES = st.lists(st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), unique=True, max_size=5)


@given(st.lists(st.tuples(st.integers(0, 8), NAMES, NAMES), max_size=4, unique_by=lambda one: one[0]))
def test_what_is_written_is_read_back(drawn):
    groups = [a_group(*hosts, gpus=gpus, deleting=deleting) for gpus, hosts, deleting in drawn]
    seen = raycluster.read(as_seen(raycluster.render(SETTINGS, groups)), SETTINGS)
    assert not seen.problem
    assert sorted(seen.groups, key=lambda one: one.shape) == sorted(groups, key=lambda one: one.shape)
    assert (seen.uid, seen.version, seen.generation) == ("u", "7", 3)


def test_what_is_as_it_should_be_differs_in_nothing():
    body = raycluster.render(SETTINGS, [a_group("a", "b")])
    assert raycluster.differs(body, as_seen(body)) == ""


def test_what_others_add_is_left_alone():
    body = raycluster.render(SETTINGS, [a_group("a")])
    seen = as_seen(body) | {"status": {"state": "ready"}}
    seen["metadata"] = seen["metadata"] | {"annotations": seen["metadata"]["annotations"] | {"theirs": "x"}}
    assert raycluster.differs(body, seen) == ""


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "enableInTreeAutoscaling"), True),
        (("spec", "workerGroupSpecs"), []),
        (("metadata", "labels"), {}),
        (("spec", "upgradeStrategy"), {"type": "Recreate"}),
    ],
)
def test_drift_is_told_by_the_path_of_the_field(path, value):
    body = raycluster.render(SETTINGS, [a_group("a")])
    seen = as_seen(body)
    seen[path[0]] = seen[path[0]] | {path[1]: value}
    assert raycluster.differs(body, seen).startswith("$." + ".".join(path))


def test_the_same_quantity_in_other_words_is_no_drift():
    body = raycluster.render(SETTINGS, [a_group("a")])
    seen = raycluster.render(SETTINGS, [a_group("a")])
    limits = seen["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]["limits"]
    limits["memory"] = "700Gi"
    assert raycluster.differs(body, as_seen(seen)) == ""
    limits["memory"] = "701Gi"
    assert raycluster.differs(body, as_seen(seen)).endswith("limits.memory")


def test_one_that_is_not_ours_is_not_touched():
    body = as_seen(raycluster.render(SETTINGS, []))
    body["metadata"]["labels"] = {"team": "others"}
    assert "is not ours" in raycluster.read(body, SETTINGS).problem


def test_one_that_is_being_deleted_is_not_written():
    body = as_seen(raycluster.render(SETTINGS, []))
    body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert "being deleted" in raycluster.read(body, SETTINGS).problem


@pytest.mark.parametrize("broken", [{}, {"spec": {}}, {"spec": {"containers": []}}, {"spec": None}])
def test_a_group_that_is_not_as_we_write_it_is_a_problem_with_its_name(broken):
    body = as_seen(raycluster.render(SETTINGS, [a_group("a")]))
    body["spec"]["workerGroupSpecs"][0]["template"] = broken
    seen = raycluster.read(body, SETTINGS)
    assert body["spec"]["workerGroupSpecs"][0]["groupName"] in seen.malformed
    assert not seen.problem


def test_machines_that_differ_by_less_than_a_core_and_a_gib_have_one_shape():
    assert shape_of(Amounts(95_900, 700 * GIB + 5, 8), "A100") == shape_of(Amounts(95_100, 701 * GIB - 1, 8), "A100")
    assert shape_of(Amounts(95_900, 700 * GIB, 8), "A100") != shape_of(Amounts(95_900, 700 * GIB, 8), "H100")


# -- KubeRay's schema ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schema():
    if not CRD.exists():
        pytest.skip(f"no RayCluster CRD at {CRD}: set HEADRACE_RAYCLUSTER_CRD to KubeRay's ray.io_rayclusters.yaml")
    crd = yaml.load(CRD.read_text(), yaml.CSafeLoader)
    return next(one["schema"]["openAPIV3Schema"] for one in crd["spec"]["versions"] if one["name"] == "v1")


def unknown(value, schema, path="$"):
    """Paths of fields that the server would refuse or drop."""
    if isinstance(value, list):
        return [found for each in value for found in unknown(each, schema.get("items", {}), f"{path}[]")]
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    if "additionalProperties" in schema or path == "$.metadata":
        return []
    fields = schema.get("properties", {})
    found = [f"{path}.{name}" for name in value if name not in fields and path != "$"]
    return found + [
        one for name, each in value.items() if name in fields for one in unknown(each, fields[name], f"{path}.{name}")
    ]


@pytest.mark.parametrize("settings", [SETTINGS, KEPT], ids=["nothing kept", "kept"])
@pytest.mark.parametrize("nodes", [0, 1, 3, 100])
def test_the_rendered_cluster_meets_the_schema_of_kuberay(schema, nodes, settings):
    groups = [
        a_group(*(f"gpu-{number}" for number in range(nodes)), deleting=["pod-1"]),
        a_group(*(f"cpu-{number}" for number in range(nodes)), gpus=0),
    ]
    body = raycluster.render(settings, groups)
    jsonschema.Draft202012Validator(schema).validate(body)
    assert unknown(body, schema) == []


def test_a_field_that_the_schema_does_not_know_is_found(schema):
    body = raycluster.render(SETTINGS, [a_group("a")])
    body["spec"]["workerGroupSpecs"][0]["replica"] = 1
    assert unknown(body, schema) == ["$.spec.workerGroupSpecs[].replica"]


def containers(**fields):
    settings = Settings(
        name="pool", namespace="n", pool="p", node_image="i", ray_version="2", token_secret="t", **fields
    )
    spec = raycluster.render(settings, [a_group("a")])["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"]["containers"][0] for group in groups]


def test_nodes_are_root_with_six_capabilities_where_attempts_have_users_and_the_head_never_is():
    head, node = (each["securityContext"] for each in containers(attempt_uids="200000-265535"))
    assert (node["runAsUser"], node["capabilities"]["drop"]) == (0, ["ALL"])
    assert set(node["capabilities"]["add"]) == set(NEEDED.values())
    assert not node["allowPrivilegeEscalation"]
    assert [head, head] == [each["securityContext"] for each in containers()]
    assert (head["runAsNonRoot"], head["capabilities"]) == (True, {"drop": ["ALL"]})


def test_kuberay_finds_probes_and_gives_none_of_its_own():
    """`initLivenessAndReadinessProbe` of KubeRay sets what is nil."""
    for container in containers():
        assert {"livenessProbe", "readinessProbe"} <= container.keys()
    head, node = containers()
    assert head["livenessProbe"] == node["livenessProbe"], "neither asks for Ray"
    assert "/ray" not in str(node["livenessProbe"]["exec"]["command"]).replace("/headrace", "")


def test_rays_session_is_below_a_folder_of_process_1():
    spec = raycluster.render(SETTINGS, [a_group("a")])["spec"]
    folders = [group["rayStartParams"]["temp-dir"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    assert folders == [f"{OWN_FOLDER_DEFAULT}/ray"] * 2


def test_nodes_and_not_the_head_have_the_credentials_of_the_blob_store():
    settings = Settings(
        name="pool", namespace="n", pool="p", node_image="i", ray_version="2", token_secret="t", node_secret="blobs"
    )
    spec = raycluster.render(settings, [a_group("a")])["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    given = [group["template"]["spec"]["containers"][0].get("envFrom") for group in groups]
    assert given == [None, [{"secretRef": {"name": "blobs"}}]]


def test_no_container_of_ours_starts_ray_without_a_token():
    body = raycluster.render(SETTINGS, [a_group("a"), a_group("b", gpus=0)])
    templates = [one["template"] for one in (body["spec"]["headGroupSpec"], *body["spec"]["workerGroupSpecs"])]
    for template in templates:
        for container in template["spec"]["containers"]:
            assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]


def test_the_head_alone_forks_without_grpc():
    head, node = containers()
    assert raycluster.FORKS_BARE in head["env"]
    assert raycluster.FORKS_BARE not in node["env"]


def test_a_head_with_a_claim_keeps_what_it_knows_there_and_its_nodes_wait_for_it():
    spec = raycluster.render(KEPT, [a_group("a"), a_group("b", gpus=0)])["spec"]
    head = spec["headGroupSpec"]["template"]["spec"]
    (container,), (volume,) = head["containers"], head["volumes"]
    (mount,) = container["volumeMounts"]
    assert volume == {"name": mount["name"], "persistentVolumeClaim": {"claimName": "pool-head"}}
    env = {one["name"]: one.get("value") for one in container["env"]}
    assert env["RAY_gcs_storage"] == "rocksdb"
    assert Path(env["RAY_gcs_storage_path"]).parent == Path(mount["mountPath"])
    assert container["securityContext"]["runAsNonRoot"], "it would not need a group to write there"
    assert head["securityContext"]["fsGroup"] == 10001
    for group in spec["workerGroupSpecs"]:
        env = {one["name"]: one.get("value") for one in group["template"]["spec"]["containers"][0]["env"]}
        assert env["RAY_gcs_rpc_server_reconnect_timeout_s"] == "600"
        assert not any(name.startswith("RAY_gcs_storage") for name in env), "the head's alone"


def test_a_head_without_a_claim_keeps_nothing():
    spec = raycluster.render(SETTINGS, [a_group("a")])["spec"]
    head = spec["headGroupSpec"]["template"]["spec"]
    assert not {"volumes", "securityContext"} & head.keys()
    for template in (head, spec["workerGroupSpecs"][0]["template"]["spec"]):
        assert not any(one["name"].startswith("RAY_gcs") for one in template["containers"][0]["env"])


def test_a_claim_is_another_template_of_the_nodes():
    shape = shape_of(Amounts(95_000, 700 * GIB, 8), "")
    kept = msgspec.structs.replace(SETTINGS, head_claim="pool-head")
    assert raycluster.template_of(kept, shape) != raycluster.template_of(SETTINGS, shape)
    other = msgspec.structs.replace(SETTINGS, head_claim="another")
    assert raycluster.template_of(kept, shape) == raycluster.template_of(other, shape), "that is the head's alone"
