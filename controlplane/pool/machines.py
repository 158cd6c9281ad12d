"""What Kubernetes says of a node or a pod, as far as we go by it. Pure; whatever it says, nothing here raises.

An object that cannot be read as expected is not passed over: it has a `problem`, which an operator reads in
`headrace status`.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Final, NamedTuple

import msgspec

from controlplane.pool.quantities import BadQuantity, quantity

POOL_LABEL: Final = "headrace.dev/pool"
"""On a node, and as its taint: the pool that it is reserved for."""
DRAIN_MARK: Final = "headrace.dev/drain"
"""As a node's label or annotation: end what runs there and let it go; its value says why."""
TEMPLATE: Final = "headrace.dev/template"
"""As a pod's annotation: the version of Ray and a digest of all else that it was made by."""
HOSTNAME: Final = "kubernetes.io/hostname"
"""As a node's label: set by its kubelet, mostly the node's own name."""
CLUSTER_LABEL: Final = "ray.io/cluster"
GROUP_LABEL: Final = "ray.io/group"
NODE_TYPE_LABEL: Final = "ray.io/node-type"
GIB: Final = 1024**3
GPU: Final = "nvidia.com/gpu"
GPU_MODEL_LABEL: Final = "nvidia.com/gpu.product"
"""Set by NVIDIA's GPU feature discovery."""

NOTICES: Final = (
    "ToBeDeletedByClusterAutoscaler",
    "aws-node-termination-handler/scheduled-maintenance",
    "aws-node-termination-handler/spot-itn",
    "cloud.google.com/impending-node-termination",
    "karpenter.sh/disrupted",
    "node.cloudprovider.kubernetes.io/shutdown",
)
"""Taints by which a node is said to go away soon."""
TOLERATED: Final = (
    POOL_LABEL,
    GPU,
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/unschedulable",
)
"""Taints that our pods tolerate. Of a cordoned node too: a pod that has died comes back where it was, and never pends;
a node that we let go has no pod of ours because there is no replica for it."""

WAITS_CHARACTERS_MAX: Final = 200
"""Of what a kubelet says of a container."""


class Amounts(msgspec.Struct, frozen=True, order=True):
    """Of a machine, or what pods ask for of it."""

    milli_cpus: int = 0
    memory_bytes: int = 0
    gpus: int = 0

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(
            self.milli_cpus + other.milli_cpus, self.memory_bytes + other.memory_bytes, self.gpus + other.gpus
        )


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A node of Kubernetes that has our pool's label, or had it."""

    name: str
    host: str = ""
    """As a pod's affinity names it."""
    uid: str = ""
    reserved: bool = True
    """Whether it has our pool's label. What has it no more was given back to others."""
    ready: bool = False
    cordoned: bool = False
    notice: str = ""
    """Why it is about to go away; empty: it is not."""
    blocked: str = ""
    """Why no new pod of ours could be on it; one that is there already may stay."""
    problem: str = ""
    """What of it cannot be read, or makes it of no use."""
    allocatable: Amounts = Amounts()
    gpu_model: str = ""


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """A pod of our RayCluster that is not its head."""

    name: str
    group: str
    node: str = ""
    """Where it is; empty: not placed yet."""
    hosts: tuple[str, ...] = ()
    """Where it may be: the group's list of names when it was made. Empty: that cannot be read."""
    terminating: bool = False
    is_over: bool = False
    """It failed or has ended: KubeRay deletes it and makes another."""
    template: str = ""
    """By which template it was made; empty: it does not say."""
    ready: bool = False
    waits: str = ""
    """Why its container does not run, as the kubelet says; empty: it runs, or nobody says."""


class Requests(NamedTuple):
    """What one pod asks for of the node that it is on."""

    node: str
    amounts: Amounts


class _Metadata(msgspec.Struct):
    name: str = ""
    uid: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    deletionTimestamp: str | None = None  # noqa: N815


class _Taint(msgspec.Struct):
    key: str = ""
    value: str | None = None
    effect: str = ""


class _Condition(msgspec.Struct):
    type: str = ""
    status: str = ""


class _NodeSpec(msgspec.Struct):
    unschedulable: bool | None = None
    taints: list[_Taint] | None = None


class _NodeStatus(msgspec.Struct):
    allocatable: dict[str, str | int | float] | None = None
    conditions: list[_Condition] | None = None


class _Node(msgspec.Struct):
    metadata: _Metadata
    spec: _NodeSpec = msgspec.field(default_factory=_NodeSpec)
    status: _NodeStatus = msgspec.field(default_factory=_NodeStatus)


class _Resources(msgspec.Struct):
    requests: dict[str, str | int | float] | None = None


class _Container(msgspec.Struct):
    resources: _Resources | None = None
    restartPolicy: str | None = None  # noqa: N815


class _PodSpec(msgspec.Struct):
    nodeName: str | None = None  # noqa: N815
    containers: list[_Container] = []
    affinity: Any = None
    initContainers: list[_Container] | None = None  # noqa: N815
    overhead: dict[str, str | int | float] | None = None


class _Waiting(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _ContainerState(msgspec.Struct):
    waiting: _Waiting | None = None


class _ContainerStatus(msgspec.Struct):
    state: _ContainerState | None = None


class _PodStatus(msgspec.Struct):
    phase: str | None = None
    conditions: list[_Condition] | None = None
    containerStatuses: list[_ContainerStatus] | None = None  # noqa: N815


class _Pod(msgspec.Struct):
    metadata: _Metadata
    spec: _PodSpec = msgspec.field(default_factory=_PodSpec)
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)


def name_of(raw: Any) -> str:
    """Of any object; empty: it has none."""
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""


def machine(raw: Any, pool: str) -> Machine:
    """What a node is to us."""
    name = name_of(raw)
    try:
        node = msgspec.convert(raw, _Node)
        allocatable = _amounts(node.status.allocatable or {}, round_up=False)
    except (msgspec.ValidationError, BadQuantity) as error:
        return Machine(name=name, host=name, problem=f"cannot be read: {error}")
    labels = node.metadata.labels or {}
    taints = node.spec.taints or []
    conditions = {condition.type: condition.status for condition in node.status.conditions or []}
    return Machine(
        name=name,
        host=labels.get(HOSTNAME) or name,
        uid=node.metadata.uid,
        reserved=labels.get(POOL_LABEL) == pool,
        ready=conditions.get("Ready") == "True",
        cordoned=bool(node.spec.unschedulable),
        notice=_notice(node.metadata, taints),
        blocked=next((_blocking(taint) for taint in taints if _blocking(taint)), ""),
        problem=_problem(node, allocatable),
        allocatable=allocatable,
        gpu_model=labels.get(GPU_MODEL_LABEL, "") if allocatable.gpus else "",
    )


def _problem(node: _Node, allocatable: Amounts) -> str:
    if node.status.allocatable is None:
        return "says nothing of what is allocatable on it"
    if allocatable.milli_cpus <= 0 or allocatable.memory_bytes <= 0:
        return "has no CPU or no memory that is allocatable"
    return ""


def _notice(metadata: _Metadata, taints: list[_Taint]) -> str:
    for marks in (metadata.labels, metadata.annotations):
        if marks and DRAIN_MARK in marks:
            return marks[DRAIN_MARK] or f"marked with {DRAIN_MARK}"
    if metadata.deletionTimestamp is not None:
        return "is being deleted"
    for taint in taints:
        if taint.key in NOTICES:
            return f"has the taint {taint.key}"
        if taint.effect == "NoExecute" and taint.key not in TOLERATED:
            return f"has the taint {taint.key}, which ends all pods on it"
    return ""


def _blocking(taint: _Taint) -> str:
    if taint.effect not in {"NoSchedule", "NoExecute"} or taint.key in TOLERATED:
        return ""
    return f"has the taint {taint.key}:{taint.effect}, which our pods do not tolerate"


def worker(raw: Any) -> Worker | None:
    """What a pod with our cluster's label is to us; None: no worker."""
    try:
        pod = msgspec.convert(raw, _Pod)
    except msgspec.ValidationError:
        return None
    labels = pod.metadata.labels or {}
    if labels.get(NODE_TYPE_LABEL) != "worker" or not labels.get(GROUP_LABEL):
        return None
    return Worker(
        name=pod.metadata.name,
        group=labels[GROUP_LABEL],
        node=pod.spec.nodeName or "",
        hosts=_hosts(pod.spec.affinity),
        terminating=pod.metadata.deletionTimestamp is not None,
        is_over=pod.status.phase in {"Succeeded", "Failed"},
        template=(pod.metadata.annotations or {}).get(TEMPLATE, ""),
        ready=any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions or []),
        waits=_waits(pod.status),
    )


def _waits(status: _PodStatus) -> str:
    waiting = [one.state.waiting for one in status.containerStatuses or [] if one.state and one.state.waiting]
    said = f"{waiting[0].reason}: {waiting[0].message}" if waiting else ""
    return " ".join(said.split())[:WAITS_CHARACTERS_MAX].rstrip(": ")


def _hosts(affinity: Any) -> tuple[str, ...]:
    try:
        terms = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        named = [host for term in terms for label in term["matchExpressions"] for host in label["values"]]
    except (KeyError, TypeError):
        return ()
    return tuple(host for host in named if isinstance(host, str))


def requests(raw: Any) -> Requests | None:
    """What a pod asks for of its node: of its containers together, or of the largest of those that run before them.

    None: of nothing, since it is on no node, or is over. One that cannot be read asks for all, so that its node is not
    taken for empty. As in "Pod Overhead" and "Sidecar Containers" of the Kubernetes documentation.
    """
    try:
        pod = msgspec.convert(raw, _Pod)
        if not pod.spec.nodeName or pod.status.phase in {"Succeeded", "Failed"}:
            return None
        at_once = _total([*pod.spec.containers, *(one for one in pod.spec.initContainers or [] if _stays(one))])
        before = [_asked(one) for one in pod.spec.initContainers or [] if not _stays(one)]
        most = Amounts(
            max([at_once.milli_cpus, *(one.milli_cpus for one in before)]),
            max([at_once.memory_bytes, *(one.memory_bytes for one in before)]),
            max([at_once.gpus, *(one.gpus for one in before)]),
        )
        return Requests(pod.spec.nodeName, most + _amounts(pod.spec.overhead or {}, round_up=True))
    except (msgspec.ValidationError, BadQuantity):
        spec = raw.get("spec") if isinstance(raw, dict) else None
        node = spec.get("nodeName") if isinstance(spec, dict) else None
        return Requests(node, _ALL) if isinstance(node, str) else None


_ALL: Final = Amounts(2**53, 2**53, 2**20)


def _stays(container: _Container) -> bool:
    """Whether it runs on beside the others (a sidecar)."""
    return container.restartPolicy == "Always"


def _asked(container: _Container) -> Amounts:
    return _amounts((container.resources.requests if container.resources else None) or {}, round_up=True)


def _total(containers: list[_Container]) -> Amounts:
    total = Amounts()
    for container in containers:
        total += _asked(container)
    return total


def _amounts(raw: dict[str, str | int | float], *, round_up: bool) -> Amounts:
    """Raises BadQuantity."""

    def whole(name: str, times: int = 1) -> int:
        try:
            value: Fraction = quantity(raw.get(name, 0)) * times
        except BadQuantity as error:
            raise BadQuantity(f"{name}: {error}") from error
        return math.ceil(value) if round_up else math.floor(value)

    return Amounts(whole("cpu", 1000), whole("memory"), whole(GPU))
