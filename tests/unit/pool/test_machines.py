import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.pool import machines
from controlplane.pool.machines import GIB, Amounts, Requests

POOL = "research"


def a_node(**changes):
    node = {
        "metadata": {"name": "n1", "uid": "u", "labels": {machines.POOL_LABEL: POOL}},
        "spec": {},
        "status": {
            "allocatable": {"cpu": "95500m", "memory": "1.5Ti", "nvidia.com/gpu": "8"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = node
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return node


def seen(**changes):
    return machines.machine(a_node(**changes), POOL)


def test_what_is_allocatable_is_read():
    machine = seen(metadata__labels={machines.POOL_LABEL: POOL, machines.GPU_MODEL_LABEL: "A100"})
    assert machine.allocatable == Amounts(95_500, 1536 * GIB, 8)
    assert (machine.ready, machine.cordoned, machine.reserved, machine.gpu_model) == (True, False, True, "A100")
    assert not machine.problem
    assert not machine.notice
    assert not machine.blocked


def test_a_model_without_gpus_is_none():
    labels = {machines.POOL_LABEL: POOL, machines.GPU_MODEL_LABEL: "A100"}
    assert seen(metadata__labels=labels, status__allocatable={"cpu": "4", "memory": "8Gi"}).gpu_model == ""


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"status__allocatable": None}, "nothing of what is allocatable"),
        ({"status__allocatable": {"cpu": "0", "memory": "1Gi"}}, "no CPU or no memory"),
        ({"status__allocatable": {"cpu": "4"}}, "no CPU or no memory"),
        ({"status__allocatable": {"cpu": "eight", "memory": "1Gi"}}, "cpu: 'eight' is no quantity"),
        ({"status__allocatable": {"cpu": "8", "memory": "1.5 Ti"}}, "memory: '1.5 Ti' is no quantity"),
        ({"status__allocatable": ["cpu"]}, "cannot be read"),
        ({"spec__taints": "none"}, "cannot be read"),
        ({"metadata__labels": ["a"]}, "cannot be read"),
    ],
)
def test_what_cannot_be_used_has_a_problem(changes, problem):
    assert problem in seen(**changes).problem


def test_zero_gpus_are_none():
    assert seen(status__allocatable={"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "0"}).allocatable.gpus == 0


@pytest.mark.parametrize(
    ("taint", "notice", "blocked"),
    [
        ({"key": machines.POOL_LABEL, "value": POOL, "effect": "NoSchedule"}, "", ""),
        ({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}, "", ""),
        ({"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}, "", ""),
        ({"key": "team", "value": "other", "effect": "NoSchedule"}, "", "has the taint team:NoSchedule"),
        ({"key": "team", "value": "other", "effect": "PreferNoSchedule"}, "", ""),
        ({"key": "team", "effect": "NoExecute"}, "which ends all pods", "has the taint team:NoExecute"),
        ({"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}, "has the taint karpenter.sh", "karpenter.sh"),
        ({"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}, "", "disk-pressure"),
    ],
)
def test_taints(taint, notice, blocked):
    machine = seen(spec__taints=[taint])
    assert (notice in machine.notice) if notice else not machine.notice
    assert (blocked in machine.blocked) if blocked else not machine.blocked


@pytest.mark.parametrize("where", ["metadata__labels", "metadata__annotations"])
def test_a_drain_mark_is_a_notice_with_its_reason(where):
    marks = {machines.POOL_LABEL: POOL, machines.DRAIN_MARK: "new disks"}
    assert seen(**{where: marks}).notice == "new disks"


def test_a_node_with_another_pool_is_not_reserved_any_more():
    assert not seen(metadata__labels={machines.POOL_LABEL: "other"}).reserved
    assert not seen(metadata__labels={}).reserved


def test_a_pod_asks_for_its_containers_or_for_the_largest_that_runs_before_them():
    def container(cpu, memory, **more):
        return {"resources": {"requests": {"cpu": cpu, "memory": memory}}, **more}

    spec = {
        "nodeName": "n1",
        "containers": [container("500m", "1Gi"), container("250m", "1Gi"), {}],
        "initContainers": [container("2", "512Mi"), container("100m", "1Gi", restartPolicy="Always")],
        "overhead": {"cpu": "1m"},
    }
    assert machines.requests({"metadata": {}, "spec": spec}) == Requests("n1", Amounts(2001, 3 * GIB))


def test_a_pod_that_cannot_be_read_asks_for_everything():
    spec = {"nodeName": "n1", "containers": [{"resources": {"requests": {"cpu": "lots"}}}]}
    asked = machines.requests({"metadata": {}, "spec": spec})
    assert asked is not None
    assert asked.amounts.memory_bytes > 10**15


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_is_over_asks_for_nothing(phase):
    assert machines.requests({"metadata": {}, "spec": {"nodeName": "n1"}, "status": {"phase": phase}}) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "metadata",
                    "spec",
                    "status",
                    "name",
                    "labels",
                    "allocatable",
                    "cpu",
                    "taints",
                    "key",
                    "containers",
                    "nodeName",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_the_server_says_is_read_or_has_a_problem(raw):
    machines.machine(raw, POOL)
    machines.worker(raw)
    machines.requests(raw)
