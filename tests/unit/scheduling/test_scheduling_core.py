"""The scheduler's core, values in and values out."""

from __future__ import annotations

import msgspec
import pytest

from controlplane.scheduling.decisions import Broken, Settings
from events import messages as m
from events import subjects
from tests.support.worlds import TEAM, World, a_job, a_world, an_end


def kinds(facts: list[m.Fact]) -> list[str]:
    return [str(type(fact).__struct_config__.tag) for fact in facts]


def finished(facts: list[m.Fact]) -> m.Finished:
    return next(fact for fact in facts if isinstance(fact, m.Finished))


def test_a_job_is_placed_started_and_finished() -> None:
    world = a_world()
    world.submit(a_job(tier="gpu2"))
    assert kinds(world.settle()) == ["placed", "started"]
    world.end("j1", an_end())
    assert finished(world.settle()) == m.Finished(
        term=1, attempt=1, outcome="succeeded", reason="exit code 0", end=an_end()
    )
    assert world.core.nodes_view().nodes[0].free.gpus == tuple(range(8))
    assert world.attempts["n1"] == {}


def test_an_end_that_arrives_before_its_start_is_one_fact() -> None:
    world = a_world()
    world.submit(a_job())
    world.decide()
    world.obey()
    world.end("j1", an_end())
    assert kinds(world.decide()) == ["finished"]


def test_nothing_is_decided_by_who_does_not_lead() -> None:
    world = World()
    world.submit(a_job())
    assert world.core.decide(world.now).decisions == ()
    assert not world.core.hear(
        m.Exchange(node="n1", boot="b", runner="r", capacity=m.Capacity(cpus=1, memory_bytes=1)), 1
    )


def test_a_launch_is_sent_only_after_the_round_landed() -> None:
    world = a_world()
    world.submit(a_job())
    round_ = world.core.decide(world.now)
    assert world.core.desired("n1", world.now).attempts == ()
    world.core.landed(round_, world.now)
    assert [launch.ref.attempt for launch in world.core.desired("n1", world.now).attempts] == [1]
    assert round_.nodes == ("n1",)


def test_an_abandoned_round_leaves_nothing_behind() -> None:
    world = a_world()
    world.submit(a_job(tier="gpu8"))
    before = world.core.snapshot()
    first = world.core.decide(world.now)
    world.core.abandon(first)
    world.core.check()
    assert world.core.snapshot() == before
    assert world.core.decide(world.now).decisions == first.decisions


def test_a_cancel_that_comes_between_makes_the_placement_void() -> None:
    world = a_world()
    world.submit(a_job())
    round_ = world.core.decide(world.now)
    world.about("j1", m.CancelRequested(by="ada"))
    world.core.abandon(round_)
    assert world.state("j1") == "cancelled"
    assert world.decide() == []


def test_higher_priority_goes_first_and_then_the_order_of_submission() -> None:
    world = a_world(gpus=1)
    world.submit(a_job("a", tier="gpu1"), a_job("b", tier="gpu1"), a_job("c", tier="gpu1", priority=5))
    order = []
    for _ in range(3):
        placed = next(f for f in world.decide() if isinstance(f, m.Placed))
        job = next(iter(world.core.desired("n1", world.now).attempts)).ref.job
        order.append(job)
        world.obey()
        world.end(job, an_end())
        assert placed.attempt == 1
        del world.attempts["n1"][(TEAM, job)]
        world.core.hear(m.Exchange(node="n1", boot="b1", runner="r", capacity=world.capacities["n1"]), world.now)
        round_ = world.core.decide(world.now)
        world.commit(round_)
    assert order == ["c", "a", "b"]


def test_moved_jobs_go_where_they_were_moved() -> None:
    world = a_world(nodes=0)
    world.submit(*(a_job(name) for name in "abcd"))
    world.about("d", m.Moved(by="ada", before="b"))
    world.about("a", m.Moved(by="ada", after="c"))
    world.about("c", m.Moved(by="ada"))
    order = sorted("abcd", key=lambda job: world.core.why(TEAM, job, 0).position)  # type: ignore[union-attr]
    assert order == ["c", "d", "b", "a"]


def test_a_held_job_waits_for_its_release() -> None:
    world = a_world()
    world.submit(a_job(), held=True)
    assert world.decide() == []
    assert world.summary("j1") == "it is held; release it to let it run"
    world.about("j1", m.Released(by="ada"))
    assert kinds(world.decide()) == ["placed"]


def test_a_job_waits_for_its_environment_and_gets_its_lock() -> None:
    world = a_world()
    world.submit(a_job(environment="sha256:ab"))
    assert world.decide() == []
    assert world.summary("j1") == "its environment waits to be built"
    world.write(subjects.environment("sha256:ab"), m.EnvironmentBuilding(builder="e1"))
    assert world.summary("j1") == "its environment is being built"
    ready = m.EnvironmentReady(lock="sha256:cd", python="3.11.7", platform="linux", packages=3)
    world.write(subjects.environment("sha256:ab"), ready)
    assert kinds(world.decide()) == ["placed"]
    launch = world.core.desired("n1", world.now).attempts[0]
    assert (launch.lock, launch.python) == ("sha256:cd", "3.11.7")


def test_a_job_whose_environment_failed_ends_with_the_reason() -> None:
    world = a_world()
    world.submit(a_job(environment="sha256:ab"), held=True)
    world.write(subjects.environment("sha256:ab"), m.EnvironmentFailed(reason="no version of torch for Python 3.14"))
    end = finished(world.decide())
    assert (end.outcome, end.attempt) == ("failed", 0)
    assert end.reason == "its environment could not be made: no version of torch for Python 3.14"


def test_a_job_that_no_node_can_hold_waits_and_hinders_nobody() -> None:
    world = a_world(gpus=2)
    world.submit(a_job("big", tier="gpu8", priority=9), a_job("small", tier="gpu2"))
    assert kinds(world.decide()) == ["placed"]
    assert world.summary("big").startswith("no node is large enough: it asks for 32 CPUs, 64 GiB and 8 GPUs")


def test_a_job_that_does_not_fit_keeps_a_node_for_itself() -> None:
    world = a_world(nodes=2)
    world.submit(*(a_job(f"s{number}", tier="gpu2") for number in range(5)))
    world.settle()
    world.submit(a_job("big", tier="gpu8"), *(a_job(f"t{number}", tier="gpu2") for number in range(5)))
    world.settle()
    where = {world.gpus(f"t{number}")[0] for number in range(5) if world.state(f"t{number}") == "running"}
    kept = "n1" if where == {"n2"} else "n2"
    assert len(where) <= 1
    for number in range(5):
        if world.gpus(f"s{number}")[0] == kept:
            world.end(f"s{number}", an_end(), node=kept)
    world.settle()
    assert world.state("big") == "running"
    assert world.gpus("big") == (kept, tuple(range(8)))


def test_small_jobs_are_packed_and_whole_nodes_stay_whole() -> None:
    world = a_world(nodes=3)
    world.submit(*(a_job(f"j{number}", tier="gpu2") for number in range(4)))
    world.decide()
    assert len({world.gpus(f"j{number}")[0] for number in range(4)}) == 1
    assert sorted(world.gpus(f"j{number}")[1] for number in range(4)) == [(0, 1), (2, 3), (4, 5), (6, 7)]


def test_queues_are_served_by_their_weights() -> None:
    world = a_world(gpus=8)
    world.queue("heavy", weight=3)
    world.queue("light", weight=1)
    world.submit(*(a_job(f"h{n}", tier="gpu1", queue="heavy") for n in range(8)))
    world.submit(*(a_job(f"l{n}", tier="gpu1", queue="light") for n in range(8)))
    world.decide()
    assert {view.queue: view.gpus for view in world.core.queues_view().queues} == {"heavy": 6, "light": 2}


def test_a_queue_never_holds_more_than_its_limits() -> None:
    world = a_world()
    world.queue(running_max=2)
    world.submit(*(a_job(f"j{n}") for n in range(3)))
    world.settle()
    assert world.summary("j2") == "queue default runs 2 of at most 2 jobs"
    world.queue(running_max=None, gpus_max=2)
    world.submit(a_job("g1", tier="gpu2", priority=3), a_job("g2", tier="gpu1", priority=2))
    world.settle()
    assert world.state("g1") == "running"
    assert world.summary("g2") == "queue default holds 2 of at most 2 GPUs, it asks for 1"


def test_a_paused_queue_starts_nothing() -> None:
    world = a_world()
    world.queue(paused=True)
    world.submit(a_job())
    assert world.decide() == []
    assert world.summary("j1") == "queue default is paused by ada"


def test_a_cancelled_job_stops_on_its_node_and_then_ends() -> None:
    world = a_world()
    world.submit(a_job())
    world.settle()
    world.about("j1", m.CancelRequested(by="ada", why="wrong data"))
    assert world.core.take_changed(urgent=True) == ["n1"]
    assert world.core.desired("n1", world.now).attempts == ()
    assert world.decide() == []
    world.obey()
    world.exchange()
    end = finished(world.decide())
    assert (end.outcome, end.reason) == ("cancelled", "cancelled by ada: wrong data")


def test_a_cancelled_job_that_never_reached_its_node_ends_after_two_exchanges() -> None:
    world = a_world()
    world.submit(a_job())
    world.decide()
    world.about("j1", m.CancelRequested(by="ada"))
    world.exchange()
    assert world.decide() == []
    world.exchange()
    assert finished(world.decide()).outcome == "cancelled"


@pytest.mark.parametrize(
    ("end", "outcome", "reason"),
    [
        (an_end(exit_code=3), "failed", "exit code 3"),
        (an_end("signalled", signal=11), "failed", "killed by SIGSEGV"),
        (an_end("time_limit", signal=15), "failed", "over its time limit of 2 h"),
        (an_end("out_of_memory", signal=9), "failed", "out of memory"),
        (
            an_end("start_failed", message="no such file: trian.py"),
            "failed",
            "the entrypoint could not be started: no such file: trian.py",
        ),
    ],
)
def test_a_program_that_failed_by_itself_is_not_tried_again(end: m.AttemptEnd, outcome: str, reason: str) -> None:
    world = a_world()
    world.submit(a_job(time_limit_s=7200))
    world.settle()
    world.end("j1", end)
    fact = finished(world.decide())
    assert (fact.outcome, fact.reason) == (outcome, reason)


def test_an_attempt_that_broke_off_is_tried_again_a_little_later_and_not_for_ever() -> None:
    world = a_world()
    world.submit(a_job(attempts_max=2))
    world.settle()
    world.end("j1", an_end("supervisor_lost"))
    assert kinds(world.settle()) == ["requeued"]
    assert world.core.wake_at() == world.now + 1
    assert "broke off" in world.summary("j1")
    world.now += 1
    assert kinds(world.settle()) == ["placed", "started"]
    world.end("j1", an_end("source_failed", message="blob missing"))
    fact = finished(world.settle())
    assert fact.reason == "the source could not be laid out on the node: blob missing (it was attempt 2 of 2)"


def test_a_silent_node_is_suspected_then_lost_and_its_jobs_run_elsewhere() -> None:
    world = a_world(nodes=2)
    world.submit(a_job(tier="gpu8"))
    world.settle()
    home, _ = world.gpus("j1")
    other = "n2" if home == "n1" else "n1"
    world.now += 15
    world.exchange(other)
    world.now += 5
    assert kinds(world.decide()) == ["node_suspected"]
    for _ in range(7):  # 115 s: lease 100, grace 5, margin 10
        world.now += 16.4
        world.exchange(other)
        assert kinds(world.decide()) == []
    world.now += 0.3
    assert kinds(world.decide()) == ["lost", "node_gone"]
    world.now += 1
    world.exchange(other)
    assert kinds(world.decide()) == ["placed"]
    assert world.gpus("j1")[0] == other


def test_an_exchange_clears_a_suspected_node() -> None:
    world = a_world()
    world.now += 20
    assert kinds(world.decide()) == ["node_suspected"]
    world.exchange()
    assert kinds(world.decide()) == ["node_cleared"]


def test_a_node_that_can_start_nothing_gets_nothing_until_it_can() -> None:
    world = a_world(nodes=2)
    able, full = world.capacities["n2"], "its disk is full: less than 16 MiB are free"
    for name in ("n1", "n2"):
        world.capacities[name] = msgspec.structs.replace(able, cannot_start=full)
        world.exchange(name)
    assert kinds(world.decide()) == ["node_joined", "node_joined"]
    world.submit(a_job(tier="gpu8"))
    assert kinds(world.settle()) == []
    assert world.summary("j1") == (
        f"no node of its size takes jobs now: n1 can start none ({full}), n2 can start none ({full})"
    )
    world.core.restore(world.core.snapshot())
    world.lead()
    assert kinds(world.settle()) == []
    world.capacities["n2"] = able
    world.exchange("n2")
    assert kinds(world.settle()) == ["node_joined", "placed", "started"]
    assert world.gpus("j1")[0] == "n2"


def test_the_round_that_takes_back_what_found_no_room_places_nothing_there() -> None:
    world = a_world()
    world.submit(a_job("j1", tier="gpu8"), a_job("j2", tier="gpu8"))
    world.settle()
    able = world.capacities["n1"]
    world.capacities["n1"] = msgspec.structs.replace(able, cannot_start="its disk is full")
    world.end("j1", an_end("output_failed", message="No space left on device"))
    assert kinds(world.decide()) == ["requeued", "node_joined"]
    world.core.end_term()
    world.core.check()


def test_what_runs_on_a_node_that_can_start_nothing_runs_on() -> None:
    world = a_world()
    world.submit(a_job())
    world.settle()
    world.capacities["n1"] = msgspec.structs.replace(world.capacities["n1"], cannot_start="its disk is full")
    world.exchange()
    assert kinds(world.settle()) == ["node_joined"]
    assert world.state("j1") == "running"


def test_a_lease_of_zero_never_loses_a_node_by_silence() -> None:
    world = a_world(settings=Settings(suspect_s=20, lease_s=0))
    world.submit(a_job())
    world.settle()
    world.now += 20
    assert kinds(world.decide()) == ["node_suspected"]
    world.now += 1e6
    assert world.decide() == []


def test_a_new_leader_suspects_before_it_loses() -> None:
    world = a_world()
    world.submit(a_job())
    world.settle()
    world.now += 20
    assert kinds(world.decide()) == ["node_suspected"]
    world.core.end_term()
    world.now += 10_000
    world.lead()
    assert world.decide() == []
    world.now += 114
    assert world.decide() == []
    world.now += 1.1
    assert kinds(world.decide()) == ["lost", "node_gone"]


def test_a_restarted_node_has_lost_what_it_does_not_name() -> None:
    world = a_world()
    world.submit(a_job("a"), a_job("b"))
    world.settle()
    del world.attempts["n1"][(TEAM, "a")]
    world.boots["n1"] = "b2"
    world.exchange()
    facts = world.decide()
    assert kinds(facts) == ["lost", "node_joined"]
    assert facts[0] == m.Lost(term=1, attempt=1, node="n1", why="node n1 was restarted")
    assert world.state("b") == "running"


def test_a_running_attempt_that_its_node_forgot_is_lost() -> None:
    world = a_world()
    world.submit(a_job())
    world.settle()
    world.attempts["n1"].clear()
    assert world.exchange().attempts == ()
    assert world.decide() == []
    world.exchange()
    assert kinds(world.decide()) == ["lost"]


def test_what_a_node_says_of_attempts_that_are_not_its_own_changes_nothing() -> None:
    world = a_world(nodes=2, gpus=8)
    world.submit(a_job(tier="gpu8"))
    world.settle()
    home, _ = world.gpus("j1")
    other = "n2" if home == "n1" else "n1"
    ref = m.AttemptRef(team=TEAM, job="j1", attempt=1)
    stranger = m.AttemptRef(team=TEAM, job="nobody", attempt=1)
    later = m.AttemptRef(team=TEAM, job="j1", attempt=2)
    for one in (ref, stranger):
        world.attempts[other][(one.team, one.job)] = m.LiveAttempt(ref=one, state="ended", end=an_end())
    world.attempts[home][(TEAM, "x")] = m.LiveAttempt(ref=later, state="ended", end=an_end())
    desired = world.exchange(other)
    world.exchange(home)
    assert world.decide() == []
    assert stranger in desired.recorded
    assert ref not in desired.recorded


def test_a_node_that_an_operator_declares_gone_loses_its_jobs_at_once() -> None:
    world = a_world()
    world.submit(a_job())
    world.settle()
    world.write(subjects.node("n1"), m.NodeGone(why="node n1 was removed by its operator"))
    facts = world.decide()
    assert kinds(facts)[0] == "lost"


def test_a_cordoned_node_keeps_its_jobs_and_gets_no_more() -> None:
    world = a_world()
    world.submit(a_job("a"))
    world.settle()
    world.write(subjects.node("n1"), m.NodeCordoned(by="ops"))
    world.submit(a_job("b"))
    assert world.decide() == []
    assert world.state("a") == "running"
    assert world.summary("b") == "no node of its size takes jobs now: n1 is cordoned by ops"
    world.write(subjects.node("n1"), m.NodeUncordoned(by="ops"))
    assert kinds(world.decide()) == ["placed"]


def test_a_round_has_at_most_one_fact_about_a_job_and_is_bounded() -> None:
    world = a_world(nodes=4, cpus=1000)
    world.submit(*(a_job(f"j{n}") for n in range(1200)))
    first = world.core.decide(world.now)
    assert len(first.decisions) == 500
    assert first.more
    assert len({decision.subject for decision in first.decisions}) == 500
    world.commit(first)
    assert len(world.decide()) == 700


def test_a_doubled_gpu_in_the_ledger_is_a_broken_invariant() -> None:
    world = a_world()
    world.submit(a_job("a", tier="gpu1"), a_job("b", tier="gpu1"))
    allocation = m.Allocation(node="n1", cpus=4, memory_bytes=1, gpus=(0,))
    world.about("a", m.Placed(term=1, attempt=1, allocations=(allocation,)))
    with pytest.raises(Broken, match="held"):
        world.about("b", m.Placed(term=1, attempt=1, allocations=(allocation,)))


def test_repeated_facts_and_facts_of_an_older_term_change_nothing() -> None:
    world = a_world()
    world.submit(a_job())
    world.settle()
    before = world.core.counters()
    world.core.apply(world.ledger[-1], world.now)
    assert world.core.counters()["repeated"] == before["repeated"] + 1
    world.about("j1", m.Finished(term=0, attempt=1, outcome="failed", reason="an old leader says so"))
    assert world.state("j1") == "running"
    assert world.core.counters()["stale"] == before["stale"] + 1
    assert world.core.counters()["forbidden"] == 0


def test_each_list_for_a_node_is_a_newer_revision_whether_it_was_asked_for_or_not() -> None:
    world = a_world()
    world.submit(a_job())
    world.decide()
    answer = world.exchange()
    world.about("j1", m.CancelRequested(by="ada"))
    push = world.core.desired("n1", world.now)
    assert 0 < answer.revision < push.revision < world.exchange().revision
    world.core.end_term()
    world.lead()
    again = world.exchange()
    assert (again.term, again.revision) > (push.term, push.revision)
    assert again.revision == 1


def test_a_leader_that_sees_another_term_begin_says_nothing_more() -> None:
    world = a_world()
    world.submit(a_job())
    round_ = world.core.decide(world.now)
    world.write(subjects.TERM, m.Led(leader="s2"))
    assert not world.core.is_leading
    world.core.landed(round_, world.now)
    world.core.abandon(round_)
    assert not world.core.hear(m.Exchange(node="n1", boot="b1", runner="r", capacity=world.capacities["n1"]), world.now)
    assert world.core.decide(world.now).decisions == ()
    assert world.state("j1") == "queued"
    world.core.check()


def test_attempts_of_a_node_that_is_gone_are_lost_though_the_round_met_a_conflict() -> None:
    world = a_world()
    world.submit(a_job("a"), a_job("b"))
    world.settle()
    world.write(subjects.node("n1"), m.NodeGone(why="node n1 was removed by its operator"))
    world.core.abandon(world.core.decide(world.now))
    assert kinds(world.decide()) == ["lost", "lost"]


def test_a_cancel_just_before_a_round_does_not_make_it_forget_what_it_knew() -> None:
    world = a_world()
    world.submit(a_job())
    world.settle()
    world.end("j1", an_end())
    round_ = world.core.decide(world.now)
    world.about("j1", m.CancelRequested(by="ada"))
    world.core.abandon(round_)
    assert finished(world.decide()).outcome == "cancelled"


def test_a_job_that_wants_an_environment_again_after_it_failed_runs() -> None:
    world = a_world()
    subject = subjects.environment("sha256:ab")
    world.submit(a_job("old", environment="sha256:ab"))
    world.write(subject, m.EnvironmentFailed(reason="no network"))
    assert finished(world.decide()).outcome == "failed"
    world.write(subject, m.EnvironmentWanted(request=m.EnvironmentRequest(python="3.11")))
    world.submit(a_job("new", environment="sha256:ab"))
    assert world.decide() == []
    world.write(subject, m.EnvironmentReady(lock="sha256:cd", python="3.11", platform="linux", packages=1))
    assert kinds(world.decide()) == ["placed"]
    assert (world.state("old"), world.state("new")) == ("failed", "placed")


def test_a_snapshot_takes_any_number_of_moves_between_two_jobs() -> None:
    world = a_world(nodes=0)
    world.submit(*(a_job(name) for name in "abc"))
    for number in range(15_000):
        subject = subjects.job(TEAM, "bc"[number % 2])
        world.write(subject, m.Moved(by="ada", after="a"), check=False)
    content = world.core.snapshot()
    world.core.restore(content)
    assert world.core.snapshot() == content
    order = sorted("abc", key=lambda job: world.core.why(TEAM, job, 0).position)  # type: ignore[union-attr]
    assert order == ["a", "c", "b"]


def test_the_longest_job_that_the_door_takes_fits_on_a_node() -> None:
    world = a_world()
    words = tuple("x" * 32_000 for _ in range(4))
    env = {f"NAME_{number}": "y" * 32_000 for number in range(4)}
    world.submit(msgspec.structs.replace(a_job(), entrypoint=words, env=env))
    assert kinds(world.decide()) == ["placed"]


def test_nodes_that_are_gone_leave_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.scheduling.nodes.NODES_MAX", 2)
    world = a_world(nodes=2)
    stranger = m.Exchange(node="n3", boot="b", runner="r", capacity=world.capacities["n1"])
    assert not world.core.hear(stranger, world.now)
    world.write(subjects.node("n1"), m.NodeGone(why="replaced"))
    assert world.core.hear(stranger, world.now)


def test_a_leader_that_finds_a_gpu_doubled_decides_nothing_more() -> None:
    world = a_world()
    world.submit(a_job("a", tier="gpu1"), a_job("b", tier="gpu1"))
    allocation = m.Allocation(node="n1", cpus=4, memory_bytes=1, gpus=(0,))
    for job in "ab":
        placed = m.Placed(term=1, attempt=1, allocations=(allocation,))
        world.write(subjects.job(TEAM, job), placed, check=False)
    with pytest.raises(Broken):
        world.core.decide(world.now)


def test_a_node_that_was_declared_gone_joins_only_when_it_speaks_again() -> None:
    world = a_world()
    world.write(subjects.node("n1"), m.NodeGone(why="node n1 was removed by its operator"))
    assert world.decide() == []
    world.exchange()
    assert kinds(world.decide()) == ["node_joined"]


def test_the_end_of_an_older_attempt_on_the_same_node_does_not_hide_that_of_the_newest() -> None:
    world = a_world()
    world.submit(a_job())
    world.settle()
    world.end("j1", an_end("supervisor_lost"))
    old = world.attempts["n1"][(TEAM, "j1")]
    world.settle()
    world.now += 1
    assert kinds(world.settle()) == ["placed", "started"]
    world.attempts["n1"][(TEAM, "old")] = old
    world.exchange()
    assert world.decide() == []
    world.end("j1", an_end(exit_code=7))
    assert (finished(world.decide()).attempt, world.state("j1")) == (2, "failed")


def test_a_node_that_is_gone_while_a_start_is_being_written_loses_that_attempt_too() -> None:
    world = a_world()
    world.submit(a_job())
    world.decide()
    world.obey()
    world.exchange()
    world.write(subjects.node("n1"), m.NodeGone(by="ops", why="burnt down"))
    assert [type(fact) for fact in world.decide()] == [m.Started, m.Lost]
