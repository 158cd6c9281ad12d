"""Everything that can happen to a scheduler, one random step after the other, and a deliberately dumb look at it.

`Campaign.step(pick)` does one thing; `pick` chooses among what there is, so the same steps serve hypothesis and a seed.
`judge` knows nothing of the core: it reads the ledger from its beginning and what lives on the nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from controlplane.scheduling import order
from controlplane.scheduling.backfill import Plan
from controlplane.scheduling.core import Core
from events import messages as m
from events import subjects
from events.identity import task_id
from events.lifecycle import ENDS, HOLDS_RESOURCES, Life, Outcome, State, advance
from tests.support.worlds import SETTINGS, TEAM, World, a_fault, a_job, an_end

Pick = Callable[[Sequence[Any]], Any]

QUEUES = ("default", "other")
ENVIRONMENT = "sha256:ab"
CAUSES: tuple[m.EndCause, ...] = ("exited", "signalled", "supervisor_lost", "stopped", "start_failed", "source_failed")
OFTEN = {"on_submit": 5, "on_exchange": 9, "on_decide": 8, "on_end": 4, "on_node": 2, "on_time": 2, "on_gpu": 2}
"""The everyday happens more often than the rest, or nothing would ever run."""


class Campaign:
    """A world to which things happen."""

    def __init__(self, packing: Literal["best_fit", "fgd"] = "best_fit") -> None:
        self.world = World(settings=msgspec.structs.replace(SETTINGS, packing=packing))
        self.world.lead()
        self.silent: set[str] = set()
        self.count = 0
        self.world.node("n1")
        self.steps: list[Callable[[Pick], None]] = [
            getattr(self, name)
            for name in sorted(dir(self))
            if name.startswith("on_")
            for _ in range(OFTEN.get(name, 1))
        ]

    def step(self, pick: Pick) -> None:
        pick(self.steps)(pick)
        self.judge()

    def heal(self) -> None:
        """Nothing bad happens any more: everything that can end must end."""
        self.world.queue("default")
        self.world.queue("other")
        self.world.team()
        ready = m.EnvironmentReady(lock="sha256:cd", python="3.11", platform="linux", packages=1)
        self.world.write(subjects.environment(ENVIRONMENT), ready)
        self.world.node("whole", gpu_model="A100")
        self.world.node("half", gpu_model="V100")
        for subject, life in self.lives().items():
            if life.held and life.state in (State.QUEUED, State.UNFOLDING):
                self.world.write(subject, m.Released(by="ada"))
        for _ in range(200):
            self.world.now += 30
            for name in sorted(self.world.attempts):
                if name not in self.silent:
                    self.world.obey(name)
                    for key, live in self.world.attempts[name].items():
                        if live.state == "running":
                            ended = m.LiveAttempt(ref=live.ref, state="ended", end=an_end())
                            self.world.attempts[name][key] = ended
            self.world.decide()
            if all(life.state in ENDS for life in self.lives().values()):
                return
        raise AssertionError(f"never ends: {self.lives()}")

    # -- what users and operators do -------------------------------------------------------------------------------

    def on_submit(self, pick: Pick) -> None:
        self.count += 1
        job = a_job(
            f"j{self.count}",
            called=pick(("", "train", "train", "evaluate")),
            tier=pick(("cpu", "gpu1", "gpu1", "gpu2", "gpu8", "two", "half", "third")),
            queue=pick(QUEUES),
            priority=pick((0, 0, 1)),
            attempts_max=pick((1, 3)),
            environment=pick(("", "", ENVIRONMENT)),
            time_limit_s=pick((None, 60.0, 80.0, 3600.0)),
            user=pick(("ada", "ada", "bob")),
            preemptible=pick((False, True)),
            after=self._dependencies(pick),
            begin_at=pick((None, None, None, self.world.now + 40)),
            deadline_at=pick((None, None, None, self.world.now + 100, self.world.now + 4000)),
            retries=pick((0, 0, 2)),
            array=pick(("", "", "", "0-4", "2,5-9:2%2")),
            on=pick(((), (), (), ({"gpu": ("A100",)}, {"gpu": ("V100",)}), ({"node": ("!n1",)},))),
        )
        self.world.submit(job, held=pick((False, False, False, True)))

    def _dependencies(self, pick: Pick) -> tuple[m.Dependency, ...]:
        """On jobs that are there: as submission writes them, with the end of what had ended by then, or without."""
        chosen: dict[str, m.Dependency] = {}
        lives = self.lives()
        for _ in range(pick((0, 0, 0, 1, 2)) if self.count > 1 else 0):
            job = f"j{pick(range(1, self.count))}"
            state = lives[subjects.job(TEAM, job)].state
            ended = state.value if state in ENDS and pick((True, False)) else ""
            on = pick(("ok", "ok", "any", "notok"))
            chosen[job] = m.Dependency(job=job, on=on, ended=ended)  # type: ignore[arg-type]
        return tuple(chosen.values())

    def on_cancel_task(self, pick: Pick) -> None:
        """Of an array, one that nobody has placed."""
        arrays = [job for job in self.world.core._truth.by_key.values() if job.array is not None and job.is_queued]
        if arrays:
            job = pick(arrays)
            assert job.array is not None
            indices = [job.array.indices[at] for at in range(len(job.array.indices))]
            free = [index for index in indices if subjects.job(TEAM, task_id(job.id, index)) not in self.world.last]
            task = m.Task(array=job.id, index=pick(free))
            self.world.about(task_id(job.id, task.index), m.CancelRequested(by="ada", task=task))

    def on_control(self, pick: Pick) -> None:
        other = f"j{pick(range(1, self.count + 2))}"
        fact = pick(
            (
                m.CancelRequested(by="ada"),
                m.Held(by="ada"),
                m.Released(by="ada"),
                m.Reprioritised(by="ada", priority=pick((0, 1))),
                m.Moved(by="ada", before=other),
                m.Moved(by="ada", after=other),
                m.Moved(by="ada"),
            )
        )
        lives = self.lives()
        able = [subject for subject, life in lives.items() if advance(life, fact)[0] is Outcome.APPLIED]
        if able:
            self.world.write(pick(able), fact)

    def on_queue(self, pick: Pick) -> None:
        limits = {
            "running_max": pick((None, 1, 4)),
            "gpus_max": pick((None, 2, 8)),
            "paused": pick((False, False, True)),
            "policy": pick(order.POLICIES),
            "predictions": pick((True, False)),
            "weight": pick((1.0, 1.0, 3.0)),
            "draining": pick((False, True)),
            "guaranteed_gpus": pick((0, 0, 4)),
            "guaranteed_cpus": pick((0.0, 0.0, 8.0)),
            "user_running_max": pick((None, None, 2)),
            "user_gpus_max": pick((None, None, 2)),
        }
        self.world.queue(pick(QUEUES), **limits)

    def on_queue_removed(self, pick: Pick) -> None:
        self.world.remove_queue(pick(QUEUES))

    def on_team(self, pick: Pick) -> None:
        self.world.team(
            weight=pick((1.0, 2.0)),
            guaranteed_gpus=pick((0, 0, 8)),
            running_max=pick((None, None, 3)),
            gpus_max=pick((None, None, 8)),
        )

    def on_environment(self, pick: Pick) -> None:
        ready = m.EnvironmentReady(lock="sha256:cd", python="3.11", platform="linux", packages=1)
        building = m.EnvironmentBuilding(builder="e")
        fact = pick((ready, ready, building, building, m.EnvironmentFailed(reason="no")))
        self.world.write(subjects.environment(ENVIRONMENT), fact)

    def on_operator(self, pick: Pick) -> None:
        if self.world.attempts:
            fact = pick(
                (
                    m.NodeCordoned(by="ops"),
                    m.NodeDraining(by="ops", stop=pick((False, True))),
                    m.NodeUncordoned(by="ops"),
                    m.NodeUncordoned(by="ops"),
                )
            )
            self.world.write(subjects.node(pick(sorted(self.world.attempts))), fact)

    def on_gpu(self, pick: Pick) -> None:
        """The watch of a node finds something, or does not see it any more."""
        name = self._speaking(pick)
        if name:
            jobs = self.world.core._truth.fleet.node(name).jobs.values()
            held = {gpu for job in jobs for each in job.allocations if each.node == name for gpu in each.gpus}
            found = a_fault(
                pick((*sorted(held), 0, 7)),
                pick(("Xid 79", "lost")),
                since_at=self.world.now,
                stands=pick((False, True)),
                ends=pick((False, True)),
            )
            self.world.faults[name] = pick(((), (found,), (*self.world.faults.get(name, ()), found)[-3:]))
            self.world.obey(name)

    def on_repaired(self, pick: Pick) -> None:
        broken = [view.node for view in self.world.core.nodes_view().nodes if view.faults]
        if broken:
            name = pick(broken)
            self.world.now += 1
            self.world.write(subjects.node(name), m.NodeGpusRepaired(by="ops", gpus=pick(((0,), tuple(range(8))))))

    def on_maintenance(self, pick: Pick) -> None:
        if self.world.attempts:
            begins_at = self.world.now + pick((0.0, 61.0, 90.0))
            span = m.NodeMaintenance(by="ops", begins_at=begins_at, ends_at=begins_at + pick((0.0, 50.0, 500.0)))
            self.world.write(subjects.node(pick(sorted(self.world.attempts))), span)

    def on_gone(self, pick: Pick) -> None:
        """A machine burns down, and an operator says so. Another one may come in its place."""
        if self.world.attempts:
            name = pick(sorted(self.world.attempts))
            self.world.attempts[name] = {}
            self.world.boots[name] += "+"
            self.silent.add(name)
            self.world.write(subjects.node(name), m.NodeGone(by="ops", why="burnt down"))

    # -- what nodes do ---------------------------------------------------------------------------------------------

    def on_node(self, pick: Pick) -> None:
        name = pick(("n1", "n2", "n3"))
        self.silent.discard(name)
        if name not in self.world.attempts:
            self.world.node(name, gpus=pick((1, 8)), gpu_model=pick(("", "A100", "V100")))

    def on_exchange(self, pick: Pick) -> None:
        """It asks, and hears the answer, or not; or it is told without having asked."""
        name = self._speaking(pick)
        if name:
            pick((self.world.obey, self.world.obey, self.world.exchange, self.world.push))(name)

    def on_end(self, pick: Pick) -> None:
        name = self._speaking(pick)
        running = [key for key, live in self.world.attempts.get(name, {}).items() if live.state == "running"]
        if running:
            cause = pick(CAUSES)
            _, job = pick(running)
            how = {"signalled": {"signal": 9}, "exited": {"exit_code": pick((0, 0, 1))}}.get(cause, {})
            self.world.end(job, an_end(cause, **how), node=name)

    def on_silence(self, pick: Pick) -> None:
        name = self._speaking(pick)
        if name:
            self.silent.add(name)

    def on_reboot(self, pick: Pick) -> None:
        name = self._speaking(pick)
        if name:
            self.world.boots[name] += "'"
            self.world.attempts[name] = {}

    def on_lie(self, pick: Pick) -> None:
        """A node speaks of attempts that are not its own."""
        name = self._speaking(pick)
        told = sorted(self.world.launches, key=lambda told: (told[1].job, told[1].attempt, told[0]))
        mine = {ref for node, ref in told if node == name}
        foreign = [ref for _, ref in told if ref not in mine]
        if name and foreign:
            ref = pick(foreign)
            lie = m.LiveAttempt(ref=ref, state="ended", end=an_end())
            exchange = m.Exchange(
                node=name,
                boot=self.world.boots[name],
                runner="r1",
                capacity=self.world.capacities[name],
                attempts=(*self.world.attempts[name].values(), lie),
            )
            self.world.core.hear(exchange, self.world.now)
            self.world.core.check()

    def _speaking(self, pick: Pick) -> str:
        names = sorted(set(self.world.attempts) - self.silent)
        return str(pick(names)) if names else ""

    # -- what happens to the scheduler -----------------------------------------------------------------------------

    def on_decide(self, pick: Pick) -> None:
        self.world.decide()

    def on_conflict(self, pick: Pick) -> None:
        """Somebody writes about one of the jobs just before the round gets there."""
        round_ = self.world.core.decide(self.world.now)
        about = [decision for decision in round_.decisions if isinstance(decision.fact, m.JobFact)]
        if about:
            chosen = pick(about)
            self.world.write(chosen.subject, m.CancelRequested(by="ada", task=getattr(chosen.fact, "task", None)))
        self.world.core.abandon(round_)
        self.world.core.check()

    def on_leader(self, pick: Pick) -> None:
        """Another term, of this scheduler or of one that starts from a snapshot of some moment."""
        self.world.core.end_term()
        if pick((True, False)):
            live = self.world.core
            fresh = Core(self.world.settings)
            cut = pick(range(len(self.world.ledger) + 1))
            older = Core(self.world.settings)
            for entry in self.world.ledger[:cut]:
                older.apply(entry, self.world.now)
            fresh.restore(older.snapshot())
            for entry in self.world.ledger[cut:]:
                fresh.apply(entry, self.world.now)
            fresh.check()
            assert fresh.snapshot() == live.snapshot()
            self.world.core = fresh
        self.world.lead()

    def on_time(self, pick: Pick) -> None:
        self.world.now += pick((0.5, 3.0, 3.0, 25.0, 130.0))

    # -- the dumb look ---------------------------------------------------------------------------------------------

    def lives(self) -> dict[str, Life]:
        """Every job by the lifecycle's table alone."""
        lives: dict[str, Life] = {}
        for entry in self.world.ledger:
            if isinstance(entry.fact, m.JobFact):
                outcome, life = advance(lives.get(entry.subject), entry.fact)
                assert outcome is not Outcome.FORBIDDEN, entry
                assert life is not None
                lives[entry.subject] = life
        return lives

    def judge(self) -> None:
        lives = self.lives()
        assert self.world.core.counters()["forbidden"] == 0
        for subject, life in lives.items():
            assert self.world.state(subjects.tokens(subject)[2], team=TEAM) == life.state.value
        self._judge_gpus(lives)
        self._judge_faults()
        self._judge_maintenance()
        self._judge_conditions()
        self._judge_forecasts()
        self._judge_gangs()
        for name in self.world.attempts.keys() - self.silent:
            self._judge_node(name)

    def _judge_gpus(self, lives: dict[str, Life]) -> None:
        held: Counter[tuple[str, int]] = Counter()
        placed = {e.subject: e.fact for e in self.world.ledger if isinstance(e.fact, m.Placed)}
        for subject, life in lives.items():
            if life.state in HOLDS_RESOURCES and subject in placed:
                for allocation in placed[subject].allocations:
                    held.update({(allocation.node, gpu): allocation.gpu_milli for gpu in allocation.gpus})
        assert not (over := {gpu: much for gpu, much in held.items() if much > 1000}), f"held are {over}"

    def _judge_faults(self) -> None:
        """Nothing was placed on a GPU that the ledger had called out of use, and what ran on one was asked to stop."""
        broken: dict[str, set[int]] = {}
        for entry in self.world.ledger:
            node = subjects.tokens(entry.subject)[-1]
            if isinstance(entry.fact, m.NodeGpus):
                broken[node] = {fault.gpu for fault in entry.fact.faults}
            elif isinstance(entry.fact, m.NodeGpusRepaired):
                broken[node] = broken.get(node, set()) - set(entry.fact.gpus)
            elif isinstance(entry.fact, m.Placed):
                for each in entry.fact.allocations:
                    assert not broken.get(each.node, set()) & set(each.gpus), f"{entry} got one that is out of use"

    def _judge_forecasts(self) -> None:
        """What is kept from round to round says what asking every node anew says."""
        truth = self.world.core._truth
        plan = Plan(truth.fleet, self.world.now)
        is_open = [node for node in truth.fleet.nodes.values() if node.is_open]
        for job in truth.jobs.values():
            if job.waits:
                assert plan.earliest(job) == plan._earliest_of(job, is_open)

    def _judge_maintenance(self) -> None:
        """Nothing was placed that could still run when its node is closed."""
        spans: dict[str, m.NodeMaintenance] = {}
        limits: dict[str, float | None] = {}
        for entry in self.world.ledger:
            if isinstance(entry.fact, m.Placed) and entry.fact.task is not None:
                limits[entry.subject] = limits[subjects.job(TEAM, entry.fact.task.array)]
            if isinstance(entry.fact, m.NodeMaintenance):
                spans[subjects.tokens(entry.subject)[1]] = entry.fact
            elif isinstance(entry.fact, m.Accepted):
                limits[entry.subject] = entry.fact.specification.time_limit_s
            elif isinstance(entry.fact, m.Placed) and entry.fact.allocations[0].node in spans:
                span, limit = spans[entry.fact.allocations[0].node], limits[entry.subject]
                is_over = entry.at >= span.ends_at or span.ends_at <= span.begins_at
                ends_before = limit is not None and entry.at + limit <= span.begins_at
                assert is_over or ends_before, f"{entry} runs into {span}"

    def _judge_conditions(self) -> None:
        """Nothing starts before its time, too late, or before what it is to run after; nobody has too many tries."""
        said: dict[str, m.Specification] = {}
        lives: dict[str, Life] = {}
        failures: dict[str, int] = {}
        stopped: dict[str, set[int]] = {}
        tasks: dict[str, list[str]] = {}
        for entry in self.world.ledger:
            fact, subject = entry.fact, entry.subject
            if not isinstance(fact, m.JobFact):
                continue
            _, life = advance(lives.get(subject), fact)
            assert life is not None
            lives[subject] = life
            if isinstance(fact, m.Placed | m.CancelRequested) and fact.task is not None:
                array = subjects.job(TEAM, fact.task.array)
                said[subject] = said[array]
                tasks.setdefault(array, []).append(subject)
                assert len(set(tasks[array])) == len(tasks[array]) <= 5
                assert lives[array].state not in ENDS, f"{subject} began, and its array is over"
            if isinstance(fact, m.Accepted):
                said[subject] = fact.specification
            elif isinstance(fact, m.Placed):
                mine = [lives[task] for task in tasks.get(subjects.job(TEAM, said[subject].job), ())]
                live = sum(life.state not in ENDS for life in mine)
                assert live <= (said[subject].array_at_once or live), f"too many tasks of {said[subject].job} at once"
                job = said[subject]
                assert entry.at >= (job.begin_at or 0.0), f"{subject} was placed too early"
                late = job.deadline_at is not None and entry.at >= job.deadline_at - (job.time_limit_s or 0.0)
                assert not late, f"{subject} was placed when it could not end in time"
                for each in job.after:
                    state = lives[subjects.job(TEAM, each.job)].state
                    met = {"ok": {State.SUCCEEDED}, "notok": {State.FAILED, State.CANCELLED}, "any": ENDS}[each.on]
                    assert state in met, f"{subject} was placed, and {each.job} is {state}"
            elif isinstance(fact, m.Finished) and subject in tasks:
                assert all(lives[task].state in ENDS for task in tasks[subject]), f"{subject} ended before its tasks"
            elif isinstance(fact, m.Requeued) and fact.failures:
                failures[subject] = failures.get(subject, 0) + 1
                assert fact.failures == failures[subject] <= said[subject].retries
            elif isinstance(fact, m.StopRequested):
                stopped.setdefault(subject, set()).add(fact.attempt)
            elif isinstance(fact, m.Requeued | m.Lost):
                excused = stopped.get(subject, set())
                tries = fact.attempt - failures.get(subject, 0) - len(excused)
                assert fact.attempt in excused or tries < said[subject].attempts_max

    def _judge_gangs(self) -> None:
        """No part runs of which another was never laid out."""
        placed = {
            (fact.attempt, subjects.tokens(entry.subject)[2]): [each.node for each in fact.allocations]
            for entry in self.world.ledger
            if isinstance(fact := entry.fact, m.Placed)
        }
        for name, attempts in self.world.attempts.items():
            for live in attempts.values():
                nodes = placed[live.ref.attempt, live.ref.job]
                if live.state == "running" and len(nodes) > 1:
                    assert live.meeting is not None
                    missing = [node for node in nodes if (node, live.ref) not in self.world.launches]
                    assert not missing, f"{live} runs on {name}, and was never laid out on {missing}"

    def _judge_node(self, name: str) -> None:
        """What really lives on a node never has more of a GPU than there is."""
        used: Counter[int] = Counter()
        for live in self.world.attempts[name].values():
            if live.state != "ended":
                has = self.world.launches[name, live.ref].allocation
                used.update(dict.fromkeys(has.gpus, has.gpu_milli))
        assert not (over := {gpu: much for gpu, much in used.items() if much > 1000}), f"live on {name} are {over}"
