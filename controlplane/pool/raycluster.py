"""The RayCluster that stands on the reserved machines: groups of machines → the object, and back. Pure.

One group for each shape of machine. Its pods may only be on the machines that are named in it, one on each, so that the
number of replicas and the list of names say the same. A group is never removed, since KubeRay leaves its pods behind
then (ray-project/kuberay issue 1739): it stays, with no replica and no machine.

`workerGroupSpecs` is one atomic list for server-side apply, so the whole of it is ours.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from controlplane.pool.machines import GIB, GPU, HOSTNAME, POOL_LABEL, TEMPLATE, Amounts
from controlplane.pool.quantities import BadQuantity, quantity

API_VERSION: Final = "ray.io/v1"
KIND: Final = "RayCluster"
MANAGER: Final = "headrace-pool"
"""Our name as a field manager of server-side apply."""
OWNER_LABEL: Final = "app.kubernetes.io/managed-by"
OWNER: Final = "headrace"
MODEL_ANNOTATION: Final = "headrace.dev/gpu-model"
OVERWRITE: Final = "ray.io/overwrite-container-cmd"
NO_MACHINE: Final = "headrace.dev-none"
"""In place of the names of a group without machines: a list of values must not be empty."""
TEMPLATE_SEPARATOR: Final = "-"
CONTAINER: Final = "ray-worker"
VOLUME: Final = "headrace"
HEAD_VOLUME: Final = "head"
HEAD_FOLDER: Final = "/var/lib/headrace-head"
"""Where the head's claim is mounted."""
USER: Final = 10001
"""Of our images, where nothing else is said: the group that may write to the head's claim."""
KEEPS: Final = (
    {"name": "RAY_gcs_storage", "value": "rocksdb"},
    {"name": "RAY_gcs_storage_path", "value": f"{HEAD_FOLDER}/gcs"},
)
"""Of a head with a claim (docs.ray.io, "GCS fault tolerance with embedded RocksDB": alpha). As plain variables, because
`gcsFaultToleranceOptions.backend` of the RayCluster is in no release of KubeRay yet."""
WAITS_FOR_HEAD: Final = {"name": "RAY_gcs_rpc_server_reconnect_timeout_s", "value": "600"}
"""Of the nodes of such a head: Ray's own 60 s are less than a volume may need to come to another machine."""
CPU_STEP: Final = 1000
MEMORY_STEP: Final = GIB
"""Machines that differ by less than a core and a GiB have one shape."""
OBJECT_STORE_BYTES: Final = 256 * 1024**2
"""Of Ray. No job's data goes through it."""
POD_FOLDER: Final = "/tmp/headrace-pod"
"""Of process 1, and nobody else may look into it: its signs of life, and Ray's session below."""
SILENT_S: Final = 60
"""A process 1 that has given no sign of life for so long is silent (it gives one each 10 s)."""
GCS_PORT: Final = 6379
DEMANDS_TOKEN: Final = {"name": "RAY_AUTH_MODE", "value": "token"}
"""So that Ray does not start without a token at all. KubeRay says the same, and gives the token, if it knows
`authOptions`; what it finds here it leaves as it is (`SetContainerTokenAuthEnvVars`)."""
TOO_OLD: Final = (
    "KubeRay's CRD is older than 1.6, or a webhook changes what is written. Apply the CRD of KubeRay 1.6 or newer by "
    "hand (`helm upgrade` leaves CRDs as they are); it is tried again every five minutes"
)
FORKS_BARE: Final = {"name": "GRPC_ENABLE_FORK_SUPPORT", "value": "false"}
"""Of the head: without it a server that it forks for Ray Client now and then dies at its first step (3 of 70 here, 0 of
66 with it), and who connects is told so after 40 s (ray-project/ray issue 63202)."""
CAPABILITIES: Final = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID")
"""What the runner of a node needs for attempts with users of their own (`runtime.users.NEEDED`)."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator decides of the RayCluster, beside its machines."""

    name: str
    namespace: str
    pool: str
    node_image: str
    """Of the head and of the nodes: our runtime and its Ray."""
    ray_version: str
    token_secret: str
    """Name of the Secret that holds the token of the shared cluster."""
    node_secret: str = ""
    """Name of a Secret whose keys are environment variables of the nodes. Empty: none."""
    head_claim: str = ""
    """Name of the PersistentVolumeClaim in which the head keeps what it knows. Empty: nothing is kept."""
    head_milli_cpus: int = 2000
    head_memory_bytes: int = 8 * GIB
    grace_s: int = 660
    """For what runs on a node, before its container is killed: a job's longest grace, and a minute."""
    node_folder: str = "/var/lib/headrace"
    """Below which a node keeps its attempts and caches, as long as its pod lives."""
    attempt_uids: str = ""
    """Users that attempts run as. Empty: that of the node, which then is not root."""
    service_account: str = ""


class Shape(msgspec.Struct, frozen=True, order=True):
    """What machines of one group have for us."""

    amounts: Amounts
    gpu_model: str = ""

    @property
    def group(self) -> str:
        """The name of its group: a DNS label, the same for the same shape."""
        parts = [f"cpu{self.amounts.milli_cpus // 1000}", f"mem{self.amounts.memory_bytes // GIB}"]
        if self.amounts.gpus:
            parts.insert(0, f"gpu{self.amounts.gpus}")
        exactly = f"{self.amounts.milli_cpus} {self.amounts.memory_bytes} {self.amounts.gpus} {self.gpu_model}"
        return "-".join([*parts, hashlib.sha256(exactly.encode()).hexdigest()[:6]])


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The machines of one shape that a pod of ours stands on, or should."""

    shape: Shape
    hosts: tuple[str, ...] = ()
    """What their label `kubernetes.io/hostname` says, sorted."""
    replicas: int = 0
    """As many as there are hosts; else somebody else wrote it."""
    deleting: tuple[str, ...] = ()
    """Names of pods that KubeRay is told to delete, sorted."""
    template: str = ""
    """Of the pods that KubeRay makes by it, as the RayCluster was seen."""


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """The RayCluster as it was seen."""

    uid: str
    version: str
    """metadata.resourceVersion: the guard of the next write."""
    generation: int
    groups: tuple[Group, ...] = ()
    problem: str = ""
    """Why we must not write it."""
    malformed: str = ""
    """Why its groups cannot be read: somebody else has written them."""
    body: Mapping[str, Any] = {}


def shape_of(left: Amounts, gpu_model: str) -> Shape:
    """Of a machine with so much left for us."""
    return Shape(
        Amounts(
            left.milli_cpus // CPU_STEP * CPU_STEP, left.memory_bytes // MEMORY_STEP * MEMORY_STEP, max(0, left.gpus)
        ),
        gpu_model,
    )


def render(settings: Settings, groups: Sequence[Group]) -> dict[str, Any]:
    """The whole object as it is applied, but for the guard."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": settings.name,
            "namespace": settings.namespace,
            "labels": {OWNER_LABEL: OWNER, POOL_LABEL: settings.pool},
            "annotations": {OVERWRITE: "true"},
        },
        "spec": {
            "rayVersion": settings.ray_version,
            "enableInTreeAutoscaling": False,
            "upgradeStrategy": {"type": "None"},
            "authOptions": {"mode": "token", "secretName": settings.token_secret},
            "headGroupSpec": _head(settings),
            "workerGroupSpecs": [_group(settings, group) for group in sorted(groups, key=lambda one: one.shape)],
        },
    }


def _head(settings: Settings) -> dict[str, Any]:
    amounts = {"cpu": _cpu(settings.head_milli_cpus), "memory": str(settings.head_memory_bytes)}
    return {
        "rayStartParams": {
            "num-cpus": "0",
            "object-store-memory": str(OBJECT_STORE_BYTES),
            "temp-dir": f"{POD_FOLDER}/ray",
            "dashboard-host": "127.0.0.1",
        },
        "template": {
            "metadata": {"labels": {OWNER_LABEL: OWNER}},
            "spec": {
                "containers": [_container(settings, "ray-head", amounts, is_node=False)],
                "terminationGracePeriodSeconds": 30,
                **_account(settings),
                **_kept(settings),
            },
        },
    }


def _kept(settings: Settings) -> dict[str, Any]:
    """The head's volume, that its user can write to. KubeRay makes another head when the pod of the last one is gone:
    there are never two that want it.
    """
    if not settings.head_claim:
        return {}
    return {
        "volumes": [{"name": HEAD_VOLUME, "persistentVolumeClaim": {"claimName": settings.head_claim}}],
        "securityContext": {"fsGroup": USER, "fsGroupChangePolicy": "OnRootMismatch"},
    }


def template_of(settings: Settings, shape: Shape) -> str:
    """What a pod of this shape is made by today: the version of Ray, and a digest of all but where it may be."""
    rendered = _worker(settings, Group(shape=shape))
    del rendered["template"]["spec"]["affinity"]
    said = msgspec.json.encode([rendered, settings.token_secret], order="sorted")
    return f"{settings.ray_version}{TEMPLATE_SEPARATOR}{hashlib.sha256(said).hexdigest()[:12]}"


def ray_version_of(template: str) -> str:
    """Empty: it does not say."""
    return template.rpartition(TEMPLATE_SEPARATOR)[0]


def _group(settings: Settings, group: Group) -> dict[str, Any]:
    worker = _worker(settings, group)
    worker["template"]["metadata"]["annotations"][TEMPLATE] = template_of(settings, group.shape)
    return {
        "groupName": group.shape.group,
        "replicas": group.replicas,
        "minReplicas": group.replicas,
        "maxReplicas": group.replicas,
        "numOfHosts": 1,
        "scaleStrategy": {"workersToDelete": list(group.deleting)},
        **worker,
    }


def _worker(settings: Settings, group: Group) -> dict[str, Any]:
    """How a pod of a group is made."""
    amounts = group.shape.amounts
    limits = {"cpu": _cpu(amounts.milli_cpus), "memory": str(amounts.memory_bytes)}
    if amounts.gpus:
        limits[GPU] = str(amounts.gpus)
    return {
        "rayStartParams": {"object-store-memory": str(OBJECT_STORE_BYTES), "temp-dir": f"{POD_FOLDER}/ray"},
        "template": {
            "metadata": {
                "labels": {OWNER_LABEL: OWNER},
                "annotations": {MODEL_ANNOTATION: group.shape.gpu_model},
            },
            "spec": {
                "affinity": _affinity(settings, group.hosts),
                "tolerations": _tolerations(settings, gpus=bool(amounts.gpus)),
                "containers": [_container(settings, CONTAINER, limits, is_node=True)],
                "volumes": [{"name": VOLUME, "emptyDir": {}}],
                "terminationGracePeriodSeconds": settings.grace_s,
                **_account(settings),
            },
        },
    }


def _account(settings: Settings) -> dict[str, Any]:
    account = {"serviceAccountName": settings.service_account} if settings.service_account else {}
    return account | {"automountServiceAccountToken": False}


def _container(settings: Settings, name: str, amounts: dict[str, str], *, is_node: bool) -> dict[str, Any]:
    """Its process 1 is ours: `runtime.pod`."""
    container: dict[str, Any] = {
        "name": name,
        "image": settings.node_image,
        "command": ["python", "-m", "runtime.pod", *([settings.node_folder] if is_node else [])],
        "resources": {"limits": amounts, "requests": dict(amounts)},
        "securityContext": _security(root=is_node and bool(settings.attempt_uids)),
        "env": [DEMANDS_TOKEN],
        **_probes(is_node=is_node),
    }
    keeps = bool(settings.head_claim)
    if is_node:
        node_name = {"name": "HEADRACE_NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
        container["env"] += [node_name, *([WAITS_FOR_HEAD] if keeps else [])]
        container["volumeMounts"] = [{"name": VOLUME, "mountPath": settings.node_folder}]
        if settings.node_secret:
            container["envFrom"] = [{"secretRef": {"name": settings.node_secret}}]
    else:
        container["env"] += [FORKS_BARE, *(KEEPS if keeps else [])]
        if keeps:
            container["volumeMounts"] = [{"name": HEAD_VOLUME, "mountPath": HEAD_FOLDER}]
    return container


def _security(*, root: bool) -> dict[str, Any]:
    """Within Pod Security's `baseline` with root, within `restricted` without."""
    user: dict[str, Any] = {"runAsUser": 0, "runAsGroup": 0} if root else {"runAsNonRoot": True}
    return {
        **user,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]} | ({"add": list(CAPABILITIES)} if root else {}),
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _probes(*, is_node: bool) -> dict[str, Any]:
    """Ours, because KubeRay gives a container without any those that end it when its raylet has been dead for ten
    minutes, and all attempts with it (`initLivenessAndReadinessProbe`).

    Alive: process 1 goes round. Ready: Ray runs; a head, to whom others come, when its door is open.
    """
    alive = {
        "exec": {"command": probe(f"{POD_FOLDER}/alive")},
        "periodSeconds": 30,
        "timeoutSeconds": 10,
        "failureThreshold": 10,
    }
    if is_node:
        ready = {"exec": {"command": probe(f"{POD_FOLDER}/ray-runs")}, "periodSeconds": 10, "timeoutSeconds": 10}
    else:
        ready = {"tcpSocket": {"port": GCS_PORT}, "periodSeconds": 5, "timeoutSeconds": 5}
    return {"livenessProbe": alive, "readinessProbe": ready | {"failureThreshold": 3}}


def probe(file: str, *, silent_s: int = SILENT_S) -> list[str]:
    """Fails unless this file was touched lately. Two small programs; an interpreter would cost ten times as much."""
    return ["sh", "-c", f'test -n "$(find {file} -newermt "-{silent_s} seconds")"']


def _affinity(settings: Settings, hosts: Sequence[str]) -> dict[str, Any]:
    """On these machines and no other, and one on each.

    By the label of the host's name and not by `metadata.name`: a field takes one name a term, and this list is in each
    pod.
    """
    named = {"key": HOSTNAME, "operator": "In", "values": list(hosts) or [NO_MACHINE]}
    ours = {"matchLabels": {"ray.io/cluster": settings.name, "ray.io/node-type": "worker"}}
    return {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [named]}]}
        },
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": ours, "topologyKey": HOSTNAME}]
        },
    }


def _tolerations(settings: Settings, *, gpus: bool) -> list[dict[str, Any]]:
    """Not ready and unreachable without limit of time: whether a node is lost, its lease decides."""
    always = [
        {"key": POOL_LABEL, "operator": "Equal", "value": settings.pool},
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists"},
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists"},
        {"key": "node.kubernetes.io/unschedulable", "operator": "Exists"},
    ]
    return [*always, {"key": GPU, "operator": "Exists"}] if gpus else always


def _cpu(milli: int) -> str:
    return str(milli // 1000) if milli % 1000 == 0 else f"{milli}m"


# -- back ------------------------------------------------------------------------------------------------------------


class _Metadata(msgspec.Struct):
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815
    generation: int = 0
    labels: dict[str, str] | None = None
    deletionTimestamp: str | None = None  # noqa: N815


class _Scale(msgspec.Struct):
    workersToDelete: list[str] | None = None  # noqa: N815


class _Group(msgspec.Struct):
    groupName: str  # noqa: N815
    template: dict[str, Any]
    replicas: int | None = None
    scaleStrategy: _Scale | None = None  # noqa: N815


class _Spec(msgspec.Struct):
    workerGroupSpecs: list[_Group] | None = None  # noqa: N815


class _RayCluster(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)


_MALFORMED: Final = (KeyError, IndexError, TypeError, AttributeError, BadQuantity)


def read(raw: Mapping[str, Any], settings: Settings) -> Cluster:
    """What is said of our machines in a RayCluster. One that is not ours, or cannot be read, has a `problem`."""
    try:
        seen = msgspec.convert(raw, _RayCluster)
    except msgspec.ValidationError as error:
        return Cluster(uid="", version="", generation=0, problem=f"cannot be read: {error}", body=raw)
    metadata, labels = seen.metadata, seen.metadata.labels or {}
    problem, malformed, groups = "", "", []
    if labels.get(OWNER_LABEL) != OWNER or labels.get(POOL_LABEL) != settings.pool:
        problem = (
            f"RayCluster {settings.namespace}/{settings.name} is not ours: it lacks the labels {OWNER_LABEL}={OWNER} "
            f"and {POOL_LABEL}={settings.pool}"
        )
    elif metadata.deletionTimestamp is not None:
        problem = f"RayCluster {settings.namespace}/{settings.name} is being deleted"
    else:
        for group in seen.spec.workerGroupSpecs or []:
            try:
                groups.append(_read_group(group))
            except _MALFORMED as error:
                malformed = f"group {group.groupName!r} of the RayCluster is not as we write it: {error!r}"
    return Cluster(
        uid=metadata.uid,
        version=metadata.resourceVersion,
        generation=metadata.generation,
        groups=tuple(groups),
        problem=problem,
        malformed=malformed,
        body=raw,
    )


def _read_group(group: _Group) -> Group:
    spec, annotations = group.template["spec"], (group.template.get("metadata") or {}).get("annotations") or {}
    limits = spec["containers"][0]["resources"]["limits"]
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    hosts = (host for term in terms for label in term["matchExpressions"] for host in label["values"])
    shape = Shape(
        Amounts(
            int(quantity(limits["cpu"]) * 1000), int(quantity(limits["memory"])), int(quantity(limits.get(GPU, 0)))
        ),
        annotations.get(MODEL_ANNOTATION, ""),
    )
    deleting = (group.scaleStrategy.workersToDelete if group.scaleStrategy else None) or []
    return Group(
        shape=shape,
        hosts=tuple(sorted(host for host in hosts if host != NO_MACHINE)),
        replicas=group.replicas or 0,
        deleting=tuple(sorted(deleting)),
        template=annotations.get(TEMPLATE, ""),
    )


def differs(desired: Any, seen: Any) -> str:
    """The path of the first field that is not as it should be; empty: none. Fields that we do not say are left alone.

    Quantities are compared by what they mean: the server may write them in another way.
    """
    return _differs(desired, seen, "$")


def _differs(desired: Any, seen: Any, path: str) -> str:
    if isinstance(desired, dict):
        if not isinstance(seen, dict):
            return path
        for name, value in desired.items():
            if name not in seen and value in ({}, [], "", 0, False, None):
                continue
            if found := _differs(value, seen.get(name), f"{path}.{name}"):
                return found
        return ""
    if isinstance(desired, list):
        if not isinstance(seen, list) or len(desired) != len(seen):
            return path
        return next(
            (
                found
                for at, (mine, its) in enumerate(zip(desired, seen, strict=True))
                if (found := _differs(mine, its, f"{path}[{at}]"))
            ),
            "",
        )
    if desired == seen:
        return ""
    is_amount = re.search(r"\.(limits|requests)\.[^.]+", path) is not None
    return "" if is_amount and _same_amount(desired, seen) else path


def _same_amount(desired: Any, seen: Any) -> bool:
    try:
        return quantity(desired) == quantity(seen)
    except BadQuantity:
        return False
