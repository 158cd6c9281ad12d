"""Submitting from Python: `headrace.submit(...)` gives a `Job`, which can be waited for, read and cancelled.

    job = headrace.submit(["python", "train.py", "--epochs", "30"], tier="gpu1", time_limit="2h")
    job.wait()
    print(job.state, job.metrics()["val/acc"][-1])

(Not called `submit.py`: importing a module of that name would put it in the place of the function `headrace.submit`.)
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

from headrace import errors, local, output, state, submission
from headrace.client import Client
from headrace.views import ENDS, JobView


class Point(NamedTuple):
    """A value of a metric. None: not a number, or infinite."""

    step: int
    value: float | None


class JobFailed(errors.HeadraceError):
    """The job that was waited for did not succeed. `view` is its last state."""

    def __init__(self, message: str, hint: str, view: JobView) -> None:
        super().__init__(message, hint)
        self.view = view


class Job:
    """A job that was submitted. Everything is asked of the server when it is asked for."""

    def __init__(self, client: Client, job: str, *, warnings: Sequence[errors.Problem] = ()) -> None:
        self.id = job
        self.warnings = tuple(warnings)
        """What the server took, but had something to say about."""
        self._client = client

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def view(self) -> JobView:
        """All that is known of it."""
        return cast(JobView, self._client.job(self.id))

    @property
    def state(self) -> str:
        """`queued`, `placed`, `running`, `stopping`, `succeeded`, `failed`, `cancelled` or `rejected`."""
        return self.view().get("state", "")

    def wait(self, *, check: bool = True) -> JobView:
        """Its last view, once it has ended and its output and metrics are stored.

        Raises JobFailed if it did not succeed, unless `check` is False.
        """
        view: JobView = {}
        for event in self._client.follow(self.id):
            if event.name == "state":
                view = json.loads(event.data)
                if view.get("state") in ENDS:
                    break
        if view.get("state") not in ENDS:
            view = self.view()
        if view.get("attempt"):
            for _ in self._client.follow_metrics(self.id):
                pass  # it ends when all that the job reported is stored, its output too
        if check and view.get("state") != "succeeded":
            told = f"{self.id} {view.get('state')}: {view.get('reason') or 'no reason given'}"
            raise JobFailed(told, f"headrace logs {self.id}", view)
        return view

    def logs(self, stream: str = "stdout", *, attempt: int = 0, rank: int = 0) -> bytes:
        """Its output so far; of the newest attempt that has any, unless one is named. `rank`: of which of its nodes."""
        return b"".join(output.whole(self._client, self.id, stream=stream, attempt=attempt, rank=rank))

    def follow(self, *, rank: int = 0) -> Iterator[output.Output]:
        """Its output, from the start and as it comes, until it ends."""
        return output.follow(self._client, self.id, rank=rank)

    def metrics(self, *names: str, buckets: int = 500) -> dict[str, list[Point]]:
        """Its series (all, or the named ones), each at most so many points; peaks between them are left out."""
        answer = self._client.series(self.id, {"names": ",".join(names), "buckets": buckets})
        points: dict[str, list[Point]] = {}
        for series in answer.get("series") or ():
            pairs = zip(series.get("steps") or (), series.get("values") or (), strict=True)
            points.setdefault(str(series["name"]), []).extend(Point(step, value) for step, value in pairs)
        return points

    def task(self, index: int) -> Job:
        """One task of this array, which has output and metrics of its own."""
        return Job(self._client, f"{self.id}_{index}")

    def cancel(self, why: str = "") -> None:
        """Asks for its end; it has ended when `wait` returns."""
        self._client.control(self.id, "cancel", {"why": why} if why else {})


def submit(
    entrypoint: str | Sequence[str],
    *,
    name: str | None = None,
    tier: str | None = None,
    queue: str | None = None,
    env: Mapping[str, str] | None = None,
    time_limit: str | float | None = None,
    priority: int | None = None,
    hold: bool = False,
    labels: Mapping[str, str] | None = None,
    attempts_max: int | None = None,
    retries: int = 0,
    after: str | Job | Sequence[str | Job] = (),
    begin: str | float | datetime | None = None,
    deadline: str | float | datetime | None = None,
    preemptible: bool | None = None,
    array: str | Sequence[int] | None = None,
    on: Mapping[str, str | Sequence[str]] | None = None,
    nodes: int | None = None,
    kind: str | None = None,
    grace: str | float | None = None,
    id: str | None = None,  # noqa: A002 - the message calls it so
    source: str | os.PathLike[str] | None = ".",
    environment: str | Mapping[str, Any] | None = "capture",
    python: str | None = None,
    requirements: str | os.PathLike[str] | None = None,
    wait: bool = False,
    state_folder: str | os.PathLike[str] | None = None,
) -> Job:
    """Runs a command on the team's machines; starts the embedded stack where no server is configured.

    `entrypoint` is an argument vector, or a line that is split as a shell would. `source` is the folder to take along
    (None: none). `environment` is `"capture"` (what the entrypoint imports here), None (the node's own interpreter) or
    an EnvironmentRequest (`{"python": "3.11", "roots": ["torch"]}`). An `id` makes a repeated call the same job.
    It starts when each of `after` (a Job, or `"JOB"`, `"JOB:notok"`, `"JOB:any"`) has ended so, and not before `begin`;
    by `deadline` it must have ended. `array` runs it once for each index (`"0-999%50"`: 50 at once; a range; some
    numbers): the Job is the whole, `Job.task(5)` is one of them. A `preemptible` one may be stopped, and queued again,
    for what goes before it. `on` keeps it to nodes with these labels: `{"gpu": "A100,H100", "node": "!n7"}`. `nodes`
    runs it on so many of them, each with what the tier brings, together or not at all. `kind="ray"` runs it in a
    private Ray cluster. What `priority` and `preemptible` do not say, its queue does. `wait=True` returns once it has
    succeeded. Raises HeadraceError.
    """
    if environment is not None and not isinstance(environment, Mapping) and environment != "capture":
        raise errors.UsageError(f"environment: {environment!r}", 'it is "capture", None or {"python": …, "roots": […]}')
    vector = tuple(shlex.split(entrypoint)) if isinstance(entrypoint, str) else tuple(map(str, entrypoint))
    now = datetime.now().astimezone()
    draft = submission.Draft(
        entrypoint=vector,
        id=id or "",
        name=name or "",
        queue=queue or "",
        tier=tier or "",
        env=dict(env or {}),
        labels=dict(labels or {}),
        time_limit_s=submission.seconds(time_limit, "time_limit"),
        grace_s=submission.seconds(grace, "grace"),
        priority=priority,
        attempts_max=attempts_max,
        hold=hold,
        retries=retries,
        array=submission.indices(array),
        on=submission.constraint(on),
        nodes=nodes,
        kind=kind or "",
        begin_at=submission.moment(begin, "begin", now),
        deadline_at=submission.moment(deadline, "deadline", now),
        preemptible=preemptible,
    )
    where = state.prepare(state.folder(state_folder))
    endpoint, _ = local.ensure(where)
    client = Client(endpoint, refresh=lambda: state.endpoint(where))
    awaited = [after] if isinstance(after, (str, Job)) else after
    texts = [each.id if isinstance(each, Job) else each for each in awaited]
    draft = dataclasses.replace(draft, after=submission.dependencies(client, texts))
    folder = Path(source) if source is not None else None
    parts = submission.Parts()
    if folder is not None:
        taken, _ = submission.take_along(client, folder, cache=where / "cache")
        parts = submission.Parts(source=taken.digest, folder=taken.folder)
    if isinstance(environment, Mapping):
        parts = parts._replace(environment=dict(environment))
    elif environment == "capture":
        wanted = submission.Wanted(python=python, requirements=Path(requirements) if requirements else None)
        captured = submission.capture_environment(vector, folder or Path(), wanted, cache=where / "cache")
        parts = parts._replace(environment=captured.request)
    answer = client.submit(draft.request(parts))
    job = Job(client, str(answer["job"]), warnings=[errors.problem_of(raw) for raw in answer.get("warnings") or ()])
    if wait:
        job.wait()
    return job
