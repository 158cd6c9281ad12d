"""What the gateway knows of jobs, from facts alone."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.gateway import projection as projecting
from controlplane.gateway.projection import Ambiguous, Projection
from controlplane.gateway.views import HISTORY_MAX
from events import messages as m
from events import subjects
from events.identity import environment_digest, task_id
from events.ledger import Entry
from tests.support.submitting import accepted, incoming

WANTED = m.EnvironmentRequest(python="3.11", roots=("numpy",))
ENVIRONMENT = {"python": "3.11", "roots": ["numpy"]}
END = m.AttemptEnd(cause="exited", ended_at=9.0, started_at=5.0, exit_code=1, usage=m.Usage(cpu_s=3.0))
ALLOCATION = m.Allocation(node="n1", cpus=1, memory_bytes=1)


class Ledger:
    """Facts at sequences 1, 2, 3, … and at seconds of the same number."""

    def __init__(self) -> None:
        self.projection = Projection()
        self._sequence = 0

    def tell(self, subject: str, *facts: m.Fact) -> None:
        for fact in facts:
            self._sequence += 1
            self.projection.apply(Entry(self._sequence, subject, fact, float(self._sequence), ""))

    def submit(
        self, name: str = "train", *, team: str = "vision", number: int = 0, user: str = "ada", **more: object
    ) -> str:
        request = incoming(id=f"{name}-{number}", name=name, team=team, user=user, **more)
        decision = accepted(request._replace(at=1000.0 + self._sequence))
        self.tell(subjects.job(team, decision.job), decision.fact)
        return decision.job

    def job(self, job: str, *facts: m.JobFact, team: str = "vision") -> None:
        self.tell(subjects.job(team, job), *facts)


@pytest.mark.parametrize("kind", ["plain", "ray"])
def test_a_view_says_of_what_kind_a_job_is(kind: str) -> None:
    ledger = Ledger()
    record = ledger.projection.job("vision", ledger.submit(kind=kind))
    assert record is not None
    assert record.view(None).kind == kind


def test_a_view_follows_a_job_from_queued_to_its_end() -> None:
    ledger = Ledger()
    job = ledger.submit()
    ledger.job(
        job,
        m.Held(by="ada", why="wait"),
        m.Released(by="ada"),
        m.Reprioritised(by="ada", priority=4),
        m.Placed(term=1, attempt=1, allocations=(ALLOCATION,)),
        m.Started(term=1, attempt=1, started_at=5.5),
        m.Finished(term=1, attempt=1, outcome="failed", reason="exit code 1", end=END),
    )
    record = ledger.projection.job("vision", job)
    assert record is not None
    view = ledger.projection.view(record)
    assert (view.state, view.attempt, view.priority, view.reason, view.exit_code) == ("failed", 1, 4, "exit code 1", 1)
    assert (view.queued_at, view.placed_at, view.started_at, view.finished_at) == (1.0, 5.0, 5.0, 9.0)
    assert (view.allocations, view.usage) == ((ALLOCATION,), m.Usage(cpu_s=3.0))
    assert [item.type for item in view.history] == [
        "accepted", "held", "released", "reprioritised", "placed", "started", "finished",
    ]  # fmt: skip
    assert [item.text for item in view.history][1:5] == ["by ada: wait", "by ada", "to 4, by ada", "on n1"]


def test_a_job_that_is_requeued_has_nothing_of_its_attempt_left_but_its_history() -> None:
    ledger = Ledger()
    job = ledger.submit()
    ledger.job(
        job,
        m.Placed(term=1, attempt=1, allocations=(ALLOCATION,)),
        m.Started(term=1, attempt=1, started_at=3.0),
        m.Lost(term=1, attempt=1, node="n1", why="n1 is gone"),
        m.Placed(term=1, attempt=2, allocations=()),
    )
    record = ledger.projection.job("vision", job)
    assert record is not None
    view = ledger.projection.view(record)
    assert (view.state, view.attempt, view.started_at, view.queued_at, view.reason) == ("placed", 2, None, 4.0, "")


def test_late_and_repeated_facts_change_nothing() -> None:
    ledger = Ledger()
    job = ledger.submit()
    placed = m.Placed(term=1, attempt=1, allocations=())
    finished = m.Finished(term=1, attempt=1, outcome="failed", reason="exit code 1")
    ledger.job(job, placed, placed, finished, m.CancelRequested(by="ada"), placed)
    assert dict(ledger.projection.outcomes) == {"applied": 3, "repeated": 1, "stale": 2}
    record = ledger.projection.job("vision", job)
    assert record is not None
    assert (record.reason, len(record.history)) == ("exit code 1", 3)


def test_a_rejected_job_says_why() -> None:
    ledger = Ledger()
    problem = m.Problem(path="$.tier", message="no tier `x`")
    ledger.job("j-abcdefghij23", m.Rejected(user="ada", name="bad", problems=(problem,)))
    record = ledger.projection.find("vision", "bad")
    assert record is not None
    assert record.view(None).reason == "$.tier: no tier `x`"
    assert record.view(None).problems == (problem,)


def test_a_name_means_its_newest_job_and_another_team_s_names_do_not_count() -> None:
    ledger = Ledger()
    ledger.submit(number=1)
    newest = ledger.submit(number=2)
    ledger.submit(number=3, team="speech")
    found = ledger.projection.find("vision", "train")
    assert found is not None
    assert found.job == newest


def test_the_beginning_of_an_id_is_enough_if_only_one_job_begins_so() -> None:
    ledger = Ledger()
    for tail in ("aaaa", "aabb"):
        ledger.job(f"j-23456723{tail}", m.Rejected(user="ada", problems=()))
    found = ledger.projection.find("vision", "j-23456723aab")
    assert found is not None
    assert found.job == "j-23456723aabb"
    with pytest.raises(Ambiguous):
        ledger.projection.find("vision", "j-2345")
    assert ledger.projection.find("vision", "j-2") is None
    assert ledger.projection.find("speech", "j-23456723aab") is None


def test_pages_go_through_all_jobs_once_newest_first() -> None:
    ledger = Ledger()
    jobs = [ledger.submit(number=number, user="ada" if number % 2 else "eve") for number in range(7)]
    seen: list[str] = []
    behind = None
    while True:
        page = ledger.projection.page("vision", states=frozenset(), user="", limit=3, behind=behind)
        seen += [record.job for record in page.jobs]
        behind = page.end
        if behind is None:
            break
    assert seen == list(reversed(jobs))
    odd = ledger.projection.page("vision", states=frozenset({"queued"}), user="ada", limit=50, behind=None)
    assert [record.job for record in odd.jobs] == list(reversed(jobs[1::2]))


def test_how_young_the_archive_is_outlives_a_restart() -> None:
    ledger = Ledger()
    for ended_to_at in (20.0, 10.0):
        written = m.ArchiveWritten(name="p", digest="d", size_bytes=1, jobs=b"", ended_to_at=ended_to_at)
        ledger.tell(subjects.ARCHIVE, written)
    assert Projection.restore(ledger.projection.snapshot()).archived_to_at == 20.0


def test_an_environment_is_part_of_every_view_that_wants_it() -> None:
    ledger = Ledger()
    digest = environment_digest(WANTED)
    subject = subjects.environment(digest)
    ledger.tell(subject, m.EnvironmentWanted(request=WANTED), m.EnvironmentBuilding(builder="b"))
    job = ledger.submit(environment=ENVIRONMENT)
    record = ledger.projection.job("vision", job)
    assert record is not None
    before = ledger.projection.version(record)
    environment = ledger.projection.view(record).environment
    assert environment is not None
    assert environment.state == "building"
    lock = "sha256:" + "1" * 64
    ledger.tell(subject, m.EnvironmentReady(lock=lock, python="3.11", platform="p", packages=3))
    assert (environment.state, environment.lock, environment.packages) == ("ready", lock, 3)
    assert ledger.projection.version(record) > before
    assert ledger.projection.wants("vision", digest)
    assert not ledger.projection.wants("speech", digest)


def test_who_follows_a_job_is_woken_by_its_facts_and_those_of_its_environment_only() -> None:
    ledger = Ledger()
    job, other = ledger.submit(environment=ENVIRONMENT), ledger.submit("other")
    record = ledger.projection.job("vision", job)
    assert record is not None
    with ledger.projection.watch(record) as changed:
        ledger.job(other, m.Held(by="ada"))
        assert not changed.is_set()
        ledger.job(job, m.Held(by="ada"))
        assert changed.is_set()
        changed.clear()
        ledger.tell(subjects.environment(environment_digest(WANTED)), m.EnvironmentWanted(request=WANTED))
        assert changed.is_set()
        assert ledger.projection.followers == 1
    assert ledger.projection.followers == 0


@pytest.mark.looptime
async def test_an_answer_waits_until_its_fact_was_taken_in_but_not_for_ever() -> None:
    ledger = Ledger()
    job = ledger.submit()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(ledger.projection.reached(2, limit_s=100.0))
        await asyncio.sleep(1)
        assert not waiting.done()
        ledger.job(job, m.Held(by="ada"))
        await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    started = loop.time()
    await ledger.projection.reached(1000, limit_s=5.0)
    assert loop.time() - started == pytest.approx(5.0)
    assert loop.time() < 10


def test_a_snapshot_and_the_facts_after_it_give_the_same_projection() -> None:
    ledger = Ledger()
    jobs = [ledger.submit(number=number, environment=ENVIRONMENT) for number in range(3)]
    ledger.job(jobs[0], m.CancelRequested(by="ada"))
    other = Ledger()
    other.projection = Projection.restore(ledger.projection.snapshot())
    other._sequence = ledger._sequence
    for each in (ledger, other):
        each.job(jobs[1], m.Placed(term=1, attempt=1, allocations=(ALLOCATION,)))
    read = [Projection.restore(each.projection.snapshot()).snapshot() for each in (ledger, other)]
    assert read[0] == read[1]
    found = other.projection.find("vision", "train")
    assert found is not None
    assert found.job == jobs[2]
    assert other.projection.find("vision", jobs[1][:10]) is not None
    assert other.projection.wants("vision", environment_digest(WANTED))


def test_only_so_many_jobs_that_are_over_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projecting, "ENDED_KEPT_MAX", 2)
    ledger = Ledger()
    jobs = [ledger.submit(f"n{number}") for number in range(4)]
    for job in jobs[:3]:
        ledger.job(job, m.CancelRequested(by="ada"))
    assert [ledger.projection.job("vision", job) is not None for job in jobs] == [False, True, True, True]
    assert ledger.projection.find("vision", "n0") is None


def test_a_history_without_end_is_cut_at_its_beginning() -> None:
    ledger = Ledger()
    job = ledger.submit()
    ledger.job(job, *(m.Reprioritised(by="ada", priority=number) for number in range(HISTORY_MAX + 5)))
    record = ledger.projection.job("vision", job)
    assert record is not None
    assert len(record.history) == HISTORY_MAX


# -- arrays ------------------------------------------------------------------------------------------------------------


def begun(array: str, index: int, *, size: int = 3) -> tuple[str, m.Placed]:
    task = m.Task(array=array, index=index, size=size)
    return task_id(array, index), m.Placed(term=1, attempt=1, allocations=(ALLOCATION,), task=task)


def test_an_array_is_one_line_that_counts_its_tasks_and_they_are_found_by_it() -> None:
    ledger = Ledger()
    array = ledger.submit("sweep", array="5-7", env={"A": "1"})
    other = ledger.submit("other")
    record = ledger.projection.job("vision", array)
    assert record is not None
    assert ledger.projection.view(record).tasks == {"queued": 3}
    version = ledger.projection.version(record)
    ledger.job(array, m.Unfolded(term=1))
    task, placed = begun(array, 5)
    ledger.job(task, placed)
    assert ledger.projection.version(record) > version
    assert ledger.projection.view(record).tasks == {"queued": 2, "placed": 1}
    ledger.job(task, m.Finished(term=1, attempt=1, outcome="failed", reason="exit code 1", end=END))
    cancelled = task_id(array, 7)
    ledger.job(cancelled, m.CancelRequested(by="ada", task=m.Task(array=array, index=7, size=3)))
    view = ledger.projection.view(record)
    assert (view.state, view.tasks) == ("unfolding", {"queued": 1, "failed": 1, "cancelled": 1})
    page = ledger.projection.page("vision", states=frozenset(), user="", limit=9, behind=None)
    assert [each.job for each in page.jobs] == [other, array]
    mine = ledger.projection.tasks(record, states=frozenset(), limit=9, behind=-1)
    assert [each.job for each in mine] == [task, cancelled]
    assert ledger.projection.tasks(record, states=frozenset({"failed"}), limit=9, behind=5) == []
    found = ledger.projection.task(record, 5)
    assert found is not None
    shown = ledger.projection.view(found)
    assert (shown.name, shown.user, shown.entrypoint, shown.array) == ("sweep", "ada", ("python", "train.py"), "")
    assert shown.task == m.Task(array=array, index=5, size=3)
    assert ledger.projection.find("vision", "sweep") is record


def test_a_snapshot_knows_the_tasks_of_an_array() -> None:
    ledger = Ledger()
    array = ledger.submit("sweep", array="0-2")
    ledger.job(array, m.Unfolded(term=1))
    for index in (0, 1):
        task, placed = begun(array, index)
        ledger.job(task, placed)
    restored = Projection.restore(ledger.projection.snapshot())
    record = restored.job("vision", array)
    assert record is not None
    tasks = restored.tasks(record, states=frozenset(), limit=9, behind=-1)
    assert [each.task.index for each in tasks if each.task] == [0, 1]
    assert restored.view(record).tasks == {"queued": 1, "placed": 2}
    assert len(restored.page("vision", states=frozenset(), user="", limit=9, behind=None).jobs) == 1


def test_an_archived_array_counts_its_tasks_by_its_last_fact() -> None:
    ledger = Ledger()
    array = ledger.submit("sweep", array="0-9")
    ledger.job(array, m.Unfolded(term=1))
    tasks = {"succeeded": 4, "failed": 1}
    ledger.job(array, m.Finished(term=1, attempt=0, outcome="failed", reason="1 of 10 tasks failed", tasks=tasks))
    record = ledger.projection.job("vision", array)
    assert record is not None
    assert ledger.projection.view(record).tasks == tasks | {"cancelled": 5}
