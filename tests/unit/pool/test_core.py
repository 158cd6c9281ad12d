"""The pool's core, one rule at a time; what holds under random events is in test_against_kuberay.py."""

import pytest

from controlplane.pool import raycluster
from controlplane.pool.core import ASKED_S, NAMED_S, Reserved
from controlplane.pool.machines import GIB, Amounts, Machine, Worker
from controlplane.pool.raycluster import Settings, shape_of
from controlplane.pool.standing import Standing
from events import messages as m

SETTINGS = Settings(
    name="pool", namespace="headrace", pool="research", node_image="node:1", ray_version="2.60.0", token_secret="token"
)
HAS = Amounts(96_000, 700 * GIB, 8)
GROUP = shape_of(HAS, "").group


def a_machine(name, **fields):
    return Machine(**{"name": name, "host": name, "uid": name, "ready": True, "allocatable": HAS} | fields)


def a_pod(name, node="", **fields):
    template = raycluster.template_of(SETTINGS, shape_of(HAS, ""))
    return Worker(**{"name": name, "group": GROUP, "node": node, "template": template} | fields)


class World:
    """A core that has seen some machines; writes are taken at once."""

    def __init__(self, *machines, asked=None):
        self.core = Reserved(SETTINGS)
        self.version = 0
        self.core.on_cluster(None)
        self.core.on_workers([])
        self.core.on_machines(machines)
        self.core.on_pods(asked or {}, 0.0)
        self.core.on_standing({})

    def decide(self, now=0.0):
        decisions = self.core.decide(now)
        self.core.check()
        if decisions.write is not None:
            self.version += 1
            metadata = {"uid": "c", "resourceVersion": str(self.version), "generation": self.version}
            body = decisions.write.body
            self.seen = body | {"metadata": body["metadata"] | metadata}
            self.core.on_cluster(raycluster.read(self.seen, SETTINGS))
        return decisions

    @property
    def group(self):
        return next(iter(self.core.cluster.groups), None)

    def pods(self, *pods):
        for pod in pods:
            self.core.on_worker(pod)


@pytest.fixture
def two():
    """Two members with a pod each."""
    world = World(a_machine("a"), a_machine("b"))
    world.decide()
    world.pods(a_pod("p-a", "a"), a_pod("p-b", "b"))
    return world


def test_nothing_is_written_before_everything_was_seen():
    core = Reserved(SETTINGS)
    assert core.decide(0.0).write is None
    core.on_cluster(None)
    core.on_machines([a_machine("a")])
    assert core.decide(0.0).write is None
    core.on_workers([])
    assert core.decide(0.0).write is not None


def test_machines_of_one_shape_are_one_group_with_as_many_replicas(two):
    assert (two.group.hosts, two.group.replicas, two.group.deleting) == (("a", "b"), 2, ())
    assert two.decide().write is None


@pytest.mark.parametrize(
    "fields",
    [
        {"ready": False},
        {"cordoned": True},
        {"notice": "spot"},
        {"blocked": "a taint"},
        {"problem": "cannot be read"},
        {"reserved": False},
    ],
)
def test_a_machine_that_something_speaks_against_does_not_join(fields):
    world = World(a_machine("a", **fields))
    world.decide()
    assert world.group is None


@pytest.mark.parametrize(
    ("asked", "joins"),
    [
        (Amounts(48_000, 350 * GIB), True),
        (Amounts(48_001, 0), False),
        (Amounts(0, 350 * GIB + 1), False),
        (Amounts(0, 0, 1), False),
    ],
)
def test_a_machine_joins_when_half_of_it_is_free_and_all_gpus(asked, joins):
    world = World(a_machine("a"), asked={"a": asked})
    world.decide()
    assert (world.group is not None) == joins
    assert ("a" in world.core.problems) != joins


def test_what_others_ask_for_is_not_ours():
    world = World(a_machine("a"), asked={"a": Amounts(1500, 10 * GIB)})
    world.decide()
    assert world.group.shape.amounts == Amounts(94_000, 690 * GIB, 8)


def test_a_machine_that_others_are_on_is_looked_at_again_after_a_while():
    world = World(a_machine("a"), asked={"a": Amounts(gpus=1)})
    assert not world.decide(1.0).look_at_pods
    assert world.core.wake_at() == ASKED_S
    assert world.decide(ASKED_S).look_at_pods
    world.core.on_pods({}, ASKED_S)
    world.decide(ASKED_S)
    assert world.group.hosts == ("a",)
    assert world.core.wake_at() is None


def test_who_leaves_is_named_in_the_same_write_and_for_a_while_longer(two):
    two.core.on_machine_gone("b")
    decisions = two.decide(10.0)
    assert decisions.write.afresh
    assert (two.group.hosts, two.group.replicas, two.group.deleting) == (("a",), 1, ("p-b",))
    two.core.on_worker_gone("p-b")
    assert two.decide(20.0).write is None
    assert two.decide(20.0 + NAMED_S - 1).write is None
    assert two.decide(20.0 + NAMED_S).write.afresh
    assert two.group.deleting == ()


def test_a_group_is_never_removed(two):
    two.core.on_machine_gone("a")
    two.core.on_machine_gone("b")
    two.decide()
    assert (two.group.hosts, two.group.replicas) == ((), 0)


def test_nobody_is_let_go_while_a_pod_of_the_group_is_being_made():
    world = World(a_machine("a"), a_machine("b"))
    world.decide()
    world.pods(a_pod("p-b", "b"))
    world.core.on_machine_gone("b")
    world.decide()
    assert (world.group.hosts, world.group.replicas) == (("a", "b"), 2)
    assert "all pods of this group live" in world.core.problems[GROUP]
    world.pods(a_pod("p-a", "a"))
    world.decide()
    assert (world.group.hosts, world.group.deleting) == (("a",), ("p-b",))


@pytest.mark.parametrize("dying", [{"terminating": True}, {"is_over": True}])
def test_nor_while_one_is_being_replaced(two, dying):
    two.pods(a_pod("p-a", "a", **dying))
    two.core.on_machine_gone("b")
    two.decide()
    assert two.group.replicas == 2


def test_a_pod_that_stands_nowhere_is_not_named_while_a_machine_lacks_one():
    world = World(a_machine("a"), a_machine("b"))
    world.decide()
    world.pods(a_pod("p-1"), a_pod("p-2"))
    world.core.on_machine_gone("b")
    world.decide()
    assert world.group.replicas == 2, "either may be about to stand on a"
    world.pods(a_pod("p-1", "a"))
    world.decide()
    assert (world.group.hosts, world.group.deleting) == (("a",), ("p-2",))


def test_a_pod_that_stands_by_an_older_list_makes_its_machine_a_member(two):
    two.core.on_machine(a_machine("c"))
    two.core.on_standing({"c": Standing("ready", busy=True)})
    two.pods(a_pod("p-c", "c"))
    two.decide()
    assert (two.group.hosts, two.group.deleting) == (("a", "b", "c"), ())


def test_a_pod_on_a_machine_that_nobody_knows_is_named(two):
    two.pods(a_pod("p-c", "c"))
    two.decide()
    assert (two.group.hosts, two.group.deleting) == (("a", "b"), ("p-c",))


def test_a_pod_of_an_older_list_that_has_no_machine_left_is_made_anew():
    world = World(a_machine("a"), a_machine("b"))
    world.decide()
    world.pods(a_pod("p-a", "a"), a_pod("p-old", hosts=("a", "gone")), a_pod("p-new", hosts=("a", "b")))
    world.decide()
    assert (world.group.replicas, world.group.deleting) == (2, ("p-old",)), "b is for p-new"


def test_a_machine_joins_again_only_when_the_last_pod_of_ours_there_is_gone(two):
    two.core.on_machine_gone("b")
    two.decide()
    two.pods(a_pod("p-b", "b", terminating=True))
    two.core.on_machine(a_machine("b", uid="another"))
    two.core.on_pods({}, 0.0)
    two.decide()
    assert two.group.hosts == ("a",)
    two.core.on_worker_gone("p-b")
    two.decide()
    assert two.group.hosts == ("a", "b")


def test_a_cordoned_machine_is_let_go_when_nothing_runs_there(two):
    two.core.on_machine(a_machine("b", cordoned=True))
    two.core.on_standing({"b": Standing("ready", busy=True)})
    decisions = two.decide()
    assert [(say.node, type(say.change)) for say in decisions.say] == [("b", m.CordonNode)]
    two.core.on_standing({"b": Standing("cordoned", "kubernetes", busy=True)})
    assert two.decide() == (None, (), False)
    two.core.on_standing({"b": Standing("cordoned", "kubernetes")})
    two.decide()
    assert two.group.hosts == ("a",)


def test_nobody_is_let_go_before_the_scheduler_was_heard():
    world = World(a_machine("a"))
    world.core = Reserved(SETTINGS)
    world.core.on_cluster(None)
    world.core.on_workers([])
    world.core.on_machines([a_machine("a")])
    world.core.on_pods({}, 0.0)
    world.decide()
    world.pods(a_pod("p-a", "a"))
    world.core.on_machine(a_machine("a", cordoned=True))
    assert world.decide().write is None
    world.core.on_standing({})
    assert world.decide().write is not None


def test_who_leads_again_lets_nobody_go_by_what_the_scheduler_said_before(two):
    two.core.on_standing({"b": Standing("cordoned", "kubernetes")})
    two.core.on_lead()
    two.core.on_machine(a_machine("b", cordoned=True))
    assert two.decide() == (None, (), False)
    assert two.core.on_standing({"b": Standing("cordoned", "kubernetes")}), "nothing new, though nothing was known"
    two.decide()
    assert two.group.hosts == ("a",)


def test_a_notice_stops_what_runs_there(two):
    two.core.on_machine(a_machine("b", notice="spot"))
    two.core.on_standing({"b": Standing("ready", busy=True)})
    (say,) = two.decide().say
    assert say.change == m.DrainNode(why="spot", stop=True)
    two.core.on_standing({"b": Standing("draining", "kubernetes", busy=True)})
    assert two.decide() == (None, (), False)


def test_a_machine_that_is_there_again_is_opened_by_who_closed_it(two):
    two.core.on_standing({"b": Standing("cordoned", "kubernetes")})
    (say,) = two.decide().say
    assert say.change == m.UncordonNode()
    two.core.on_standing({"b": Standing("cordoned", "ada")})
    assert two.decide().say == ()


def test_a_machine_that_is_gone_is_given_up_until_the_scheduler_knows(two):
    two.core.on_standing({"b": Standing("ready", busy=True)})
    two.core.on_machine_gone("b")
    (say,) = two.decide().say
    assert isinstance(say.change, m.GiveUpNode)
    assert two.decide().say != ()
    two.core.on_standing({"b": Standing("gone")})
    assert two.decide().say == ()


@pytest.mark.parametrize("by_a_list", [True, False])
def test_a_new_machine_of_an_old_name_is_not_given_up_for_the_old_one(two, by_a_list):
    """Its boot id says that the old one is gone; by its name, what runs on the new one would be given up."""
    two.core.on_standing({"b": Standing("ready", busy=True)})
    if by_a_list:
        two.core.on_machines([a_machine("a"), a_machine("b", uid="another")])
    else:
        two.core.on_machine_gone("b")
        two.core.on_machine(a_machine("b", uid="another"))
    assert two.decide() == (None, (), False)


def test_a_list_without_a_machine_says_that_it_is_gone(two):
    two.core.on_standing({"b": Standing("ready")})
    two.core.on_machines([a_machine("a")])
    (say,) = two.decide().say
    assert say.node == "b"
    assert two.group.hosts == ("a",)


def test_not_ready_changes_nothing(two):
    two.core.on_standing({"b": Standing("ready")})
    two.core.on_machine(a_machine("b", ready=False))
    assert two.decide() == (None, (), False)


def test_groups_that_somebody_else_has_broken_are_put_back(two):
    broken = two.seen | {"metadata": two.seen["metadata"] | {"generation": 99, "resourceVersion": "99"}}
    broken["spec"] = broken["spec"] | {"workerGroupSpecs": [{"groupName": "theirs", "template": {}}]}
    two.core.on_cluster(raycluster.read(broken, SETTINGS))
    decisions = two.core.decide(0.0)
    assert decisions.write.version == "99"
    assert decisions.write.body["spec"]["workerGroupSpecs"] == two.seen["spec"]["workerGroupSpecs"]


def test_what_a_watch_says_late_is_passed_over_and_a_list_is_not(two):
    now = two.core.cluster
    older = two.seen | {"metadata": two.seen["metadata"] | {"generation": 0}}
    two.core.on_cluster(raycluster.read(older, SETTINGS))
    assert two.core.cluster is now
    two.core.on_cluster(raycluster.read(older, SETTINGS), listed=True)
    assert two.core.cluster.generation == 0


def test_what_the_server_would_not_keep_is_named_and_must_not_be_written():
    core = World(a_machine("a")).core
    write = core.decide(0.0).write
    assert write.lost_in(write.body) == ""
    theirs = write.body | {"status": {}, "metadata": write.body["metadata"] | {"uid": "u"}}
    assert write.lost_in(theirs) == "", "what the server adds is none of ours"
    for field in write.body["spec"]:
        dropped = write.body | {"spec": {name: one for name, one in write.body["spec"].items() if name != field}}
        is_said = write.body["spec"][field] not in ({}, [], "", False)
        assert (f"$.spec.{field}" in write.lost_in(dropped)) is is_said
    assert "$.spec.authOptions" in write.lost_in(write.body | {"spec": write.body["spec"] | {"authOptions": {}}})


def test_one_that_is_not_ours_is_not_written(two):
    theirs = two.seen | {"metadata": two.seen["metadata"] | {"labels": {}, "generation": 99}}
    two.core.on_cluster(raycluster.read(theirs, SETTINGS))
    two.core.on_machine_gone("b")
    assert two.decide().write is None
    assert "is not ours" in two.core.problems["pool"]
