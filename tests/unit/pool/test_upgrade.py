"""Which pod is made anew next, and when none is; what holds under random events is in test_against_kuberay.py."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.pool import raycluster
from controlplane.pool.core import Reserved
from controlplane.pool.machines import GIB, Amounts, Machine, Worker
from controlplane.pool.raycluster import Settings, Shape, shape_of
from controlplane.pool.standing import UPGRADE, Standing
from controlplane.pool.upgrade import TRIES_MAX, Member, held, next_step
from events import messages as m

SETTINGS = Settings(
    name="pool", namespace="headrace", pool="research", node_image="node:1", ray_version="2.60.0", token_secret="token"
)
NEWER = msgspec.structs.replace(SETTINGS, node_image="node:2")
HAS = Amounts(96_000, 700 * GIB, 8)
SHAPE = shape_of(HAS, "")
OLD, NEW = (raycluster.template_of(each, SHAPE) for each in (SETTINGS, NEWER))
DRAINED = Standing("drained", "kubernetes", why=UPGRADE)


def a_machine(name, **fields):
    return Machine(**{"name": name, "host": name, "uid": name, "ready": True, "allocatable": HAS} | fields)


def a_pod(node, template=OLD, **fields):
    given = {"name": f"p-{node}", "group": SHAPE.group, "node": node, "template": template, "ready": True}
    return Worker(**given | fields)


OPEN = Standing("ready")


def a_member(name, template=OLD, standing=OPEN, *, heard=True, pod=None, tries=0, **fields):
    return Member(a_machine(name, **fields), pod or a_pod(name, template), NEW, standing, heard, tries)


class World:
    """A core beside a scheduler that does as it is told; KubeRay is played by hand."""

    def __init__(self, *names):
        self.standing = {name: Standing("ready", seen_at=1.0) for name in names}
        self.now, self.version, self.replicas = 0.0, 0, set()
        self.want(SETTINGS, machines=[a_machine(name) for name in names])
        self.decide()
        for name in names:
            self.core.on_worker(a_pod(name))
        self.settle()

    def want(self, settings, machines=()):
        """The operator wants this: another process of ours, that lists all there is."""
        known = getattr(self, "core", None)
        self.core = Reserved(settings)
        self.core.on_cluster(known.cluster if known else None)
        self.core.on_workers(known.workers.values() if known else ())
        self.core.on_machines(machines or known.machines.values())
        self.core.on_pods({}, self.now)

    def decide(self):
        """Runners of ready pods are heard; gives what was said and the pods that are named."""
        self.now += 1.0
        for pod in self.core.workers.values():
            if pod.ready and pod.node in self.standing:
                self.standing[pod.node] = self.standing[pod.node]._replace(seen_at=self.now)
        self.core.on_standing(dict(self.standing))
        decisions = self.core.decide(self.now)
        self.core.check()
        for say in decisions.say:
            self.standing[say.node] = {
                m.DrainNode: Standing("drained", "kubernetes", why=getattr(say.change, "why", ""), seen_at=self.now),
                m.UncordonNode: Standing("ready", seen_at=self.now),
            }[type(say.change)]
        if decisions.write is not None:
            self.version += 1
            metadata = {"uid": "c", "resourceVersion": str(self.version), "generation": self.version}
            seen = decisions.write.body | {"metadata": decisions.write.body["metadata"] | metadata}
            self.core.on_cluster(raycluster.read(seen, SETTINGS))
            self.replicas |= {group.replicas for group in self.core.cluster.groups}
        said = [(say.node, type(say.change).__name__) for say in decisions.say]
        return said, [name for group in self.core.cluster.groups for name in group.deleting]

    def settle(self):
        for _ in range(4):
            self.decide()

    def replace(self, name, template, *, ready=True):
        """KubeRay makes another pod in the place of one."""
        node = self.core.workers[name].node
        self.core.on_worker_gone(name)
        self.core.on_worker(a_pod(node, template, name=f"new-{template[-3:]}-{node}", ready=ready))


def test_a_pod_carries_a_digest_of_what_it_was_made_by():
    same = [SETTINGS, msgspec.structs.replace(SETTINGS, name="another", namespace="n")]
    others = {"node_image": "node:2", "ray_version": "2.61.0", "grace_s": 5, "node_secret": "s", "token_secret": "t"}
    assert len({raycluster.template_of(each, SHAPE) for each in same}) == 1
    changed = [msgspec.structs.replace(SETTINGS, **{name: value}) for name, value in others.items()]
    assert len({raycluster.template_of(each, SHAPE) for each in (SETTINGS, *changed)}) == len(others) + 1
    assert raycluster.template_of(SETTINGS, Shape(HAS, "H100")) != OLD
    assert raycluster.ray_version_of(OLD) == "2.60.0"


def test_where_its_pods_may_be_is_no_part_of_a_template():
    one, two = (
        raycluster.render(SETTINGS, [raycluster.Group(shape=SHAPE, hosts=hosts, replicas=len(hosts))])
        for hosts in (("a",), ("a", "b"))
    )
    said = [each["spec"]["workerGroupSpecs"][0]["template"]["metadata"] for each in (one, two)]
    assert said[0] == said[1]


def test_nodes_are_drained_and_made_anew_one_after_the_other_with_as_many_replicas_all_the_time():
    world = World("a", "b")
    world.want(NEWER)
    world.settle()
    assert world.standing["a"].why == UPGRADE
    assert world.standing["b"].state == "ready"
    assert world.decide() == ([], ["p-a"])
    world.replace("p-a", NEW, ready=False)
    world.settle()
    assert world.standing["b"].state == "ready", "the first one does not work yet"
    world.core.on_worker(a_pod("a", NEW, name="new-a"))
    world.core.on_worker_gone(f"new-{NEW[-3:]}-a")
    world.settle()
    assert world.standing["a"].state == "ready"
    assert (world.standing["b"].state, world.standing["b"].why) == ("drained", UPGRADE)
    world.replace("p-b", NEW)
    world.settle()
    assert world.standing["b"].state == "ready"
    assert "upgrade" not in world.core.problems
    assert world.replicas == {2}


def test_a_template_that_does_not_work_ends_at_its_first_node_and_an_older_one_is_taken_again():
    world = World("a", "b", "c")
    world.want(NEWER)
    world.settle()
    world.core.on_worker_gone("p-a")
    world.core.on_worker(a_pod("a", NEW, name="bad", ready=False, waits="ImagePullBackOff: no such image"))
    for _ in range(100):
        said, named = world.decide()
        assert not said
        assert set(named) <= {"p-a"}
    assert "the new pod bad on a is not ready: ImagePullBackOff" in world.core.problems["upgrade"]
    assert "2 of 3" in world.core.problems["upgrade"]
    world.want(SETTINGS)
    world.settle()
    assert "bad" in world.decide()[1]
    world.replace("bad", OLD)
    world.settle()
    assert {standing.state for standing in world.standing.values()} == {"ready"}
    assert "upgrade" not in world.core.problems


def test_a_drain_is_decided_anew_by_what_is_there_at_that_moment():
    world = World("a")
    world.want(NEWER)
    world.decide()
    world.core.on_standing({"a": OPEN})
    assert world.core.decide(world.now).drains_for_upgrade
    world.core.on_standing({"a": DRAINED})
    assert not world.core.decide(world.now).drains_for_upgrade


def test_a_node_that_is_not_needed_any_more_is_opened_with_its_pod_as_it_is():
    world = World("a", "b")
    world.want(NEWER)
    world.standing = {name: OPEN._replace(busy=True) for name in "ab"}
    world.decide()
    said, _ = world.decide()
    assert said == [("a", "DrainNode")]
    world.standing["a"] = DRAINED._replace(state="draining", busy=True)
    assert world.decide() == ([], [])
    world.want(SETTINGS)
    world.settle()
    assert world.standing["a"].state == "ready"


def test_nothing_is_named_before_the_raycluster_says_what_is_wanted():
    """KubeRay would make the next pod by the template of before."""
    world = World("a")
    world.want(NEWER)
    world.core.on_standing({"a": DRAINED})
    decisions = world.core.decide(world.now)
    (group,) = decisions.write.body["spec"]["workerGroupSpecs"]
    assert group["template"]["spec"]["containers"][0]["image"] == "node:2"
    assert group["scaleStrategy"]["workersToDelete"] == []


def test_nor_before_the_scheduler_was_heard():
    world = World("a")
    world.want(NEWER)
    world.core.on_cluster(raycluster.read(as_written(world), SETTINGS))
    assert world.core.decide(world.now) == (None, (), False)


def as_written(world):
    write = world.core.decide(world.now).write
    return write.body | {"metadata": write.body["metadata"] | {"uid": "c", "resourceVersion": "99", "generation": 99}}


@pytest.mark.parametrize(
    ("members", "drained"),
    [
        ([a_member("a"), a_member("b", standing=Standing("suspected"), pod=a_pod("b", ready=False))], "b"),
        ([a_member("a", standing=Standing("ready", busy=True)), a_member("b")], "b"),
        ([a_member("b"), a_member("a")], "a"),
        ([a_member("a", blocked="has a taint"), a_member("b")], "b"),
        ([a_member("a", ready=False), a_member("b")], "b"),
        ([a_member("a", standing=Standing("cordoned", "ada", busy=True)), a_member("b")], "b"),
        ([a_member("a"), a_member("b", standing=DRAINED._replace(busy=True))], ""),
        ([a_member("a"), a_member("b", NEW, heard=False)], ""),
        ([a_member("a"), a_member("b", pod=a_pod("b", NEW, ready=False))], ""),
        ([a_member("a"), a_member("b")._replace(pod=None)], ""),
        ([a_member("a", template=NEW), a_member("b", template=NEW)], ""),
    ],
)
def test_the_node_on_which_the_least_is_lost_is_drained_first_and_none_while_another_is_down(members, drained):
    step = next_step(members)
    assert (step.drain, step.name) == (drained, "")


@pytest.mark.parametrize(
    ("standing", "named"),
    [
        (DRAINED, "p-a"),
        (DRAINED._replace(state="draining", busy=True), ""),
        (DRAINED._replace(state="suspected"), "p-a"),
        (Standing("cordoned", "ada"), "p-a"),
        (Standing("gone"), "p-a"),
        (None, "p-a"),
        (Standing("ready"), ""),
    ],
)
def test_a_pod_is_named_when_nothing_runs_and_nothing_can_be_placed_there(standing, named):
    assert next_step([a_member("a", standing=standing)]).name == named


def test_another_version_of_ray_is_told_and_not_done_node_by_node():
    newer = msgspec.structs.replace(SETTINGS, ray_version="2.61.0")
    wanted = raycluster.template_of(newer, SHAPE)
    step = next_step([a_member("a")._replace(wanted=wanted), a_member("b")._replace(wanted=wanted)])
    assert (step.drain, step.name) == ("", "")
    assert "runs Ray 2.60.0, and 2.61.0 is wanted" in step.why


def test_a_pod_that_never_carries_its_template_is_not_made_anew_for_ever():
    world = World("a")
    world.want(NEWER)
    named = set()
    for number in range(3 * TRIES_MAX):
        world.settle()
        named |= {*world.decide()[1]}
        world.now += 60.0
        for name in [*world.core.workers]:
            if name in named:
                world.core.on_worker_gone(name)
                world.core.on_worker(a_pod("a", "", name=f"stripped-{number}"))
    assert len(named) == TRIES_MAX
    assert "still not as the RayCluster says" in world.core.problems["upgrade"]


def test_only_one_that_was_drained_for_it_stays_closed():
    made = a_member("b", NEW, standing=DRAINED, heard=False)
    assert held([a_member("a", standing=DRAINED), made, a_member("c", standing=DRAINED)]) == {"b"}
    assert held([a_member("a", standing=DRAINED), a_member("c", standing=DRAINED)]) == {"a"}
    assert held([a_member("a", NEW, standing=DRAINED)]) == set()


def test_a_node_that_somebody_cordons_while_it_is_drained_for_it_stays_closed_until_they_open_it():
    world = World("a", "b")
    world.want(NEWER)
    world.settle()
    assert world.standing["a"].why == UPGRADE
    world.standing["a"] = world.standing["a"]._replace(cordoned_by="ada")
    world.settle()
    world.replace("p-a", NEW)
    world.settle()
    assert world.standing["a"].is_upgraded, "opened again, though ada cordoned it"
    assert world.standing["b"].is_upgraded, "the next waits for ada"
    world.replace("p-b", NEW)
    world.settle()
    assert world.standing["b"].state == "ready"
    assert world.core.problems == {}
    assert world.decide()[0] == []


def test_a_runner_of_the_pod_before_is_not_taken_for_that_of_the_new_one():
    """What the scheduler says first, after the new pod was seen, may be from before it."""
    world = World("a")
    world.want(NEWER)
    world.settle()
    world.replace("p-a", NEW)
    world.core.on_standing({"a": DRAINED._replace(seen_at=100.0)})
    assert world.core.decide(world.now).say == ()
    world.core.on_standing({"a": DRAINED._replace(seen_at=100.0)})
    assert world.core.decide(world.now).say == ()
    world.core.on_standing({"a": DRAINED._replace(seen_at=101.0)})
    (say,) = world.core.decide(world.now).say
    assert say.change == m.UncordonNode()


MEMBERS = st.lists(
    st.builds(
        lambda standing, pod, heard, ready, blocked: (standing, pod, heard, ready, blocked),
        st.sampled_from([None, Standing("ready"), Standing("ready", busy=True), DRAINED, Standing("cordoned", "ada")]),
        st.sampled_from(["none", "old", "old, not ready", "new", "new, not ready"]),
        st.booleans(),
        st.booleans(),
        st.sampled_from(["", "has a taint"]),
    ),
    max_size=5,
)


@given(MEMBERS)
def test_there_is_one_step_at_most_and_never_a_busy_or_open_node_loses_its_pod(drawn):
    members = []
    for number, (standing, kind, heard, ready, blocked) in enumerate(drawn):
        name = f"n{number}"
        pod = a_pod(name, NEW if kind.startswith("new") else OLD, ready="not" not in kind)
        made = a_member(name, standing=standing, heard=heard, pod=pod, ready=ready, blocked=blocked)
        members.append(made._replace(pod=None) if kind == "none" else made)
    step = next_step(members)
    assert not (step.drain and step.name)
    begun = {one.machine.name for one in members if one.is_drained and one.is_outdated}
    unproven = [one for one in members if one.pod is None or (one.pod.template == NEW and not one.is_new)]
    if step.drain:
        assert not begun
        assert not unproven
    if step.name:
        (chosen,) = (one for one in members if one.pod is not None and one.pod.name == step.name)
        assert chosen.is_outdated
        assert chosen.is_closed
        assert not unproven
        assert not begun or chosen.machine.name in begun
    assert bool(step.why) >= any(one.is_outdated for one in members)
