"""The gateway's REST in our words. Every failure is a `headrace.errors.HeadraceError`; thread safe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from headrace import errors
from headrace.sse import Event
from headrace.transport import OnRetry, Query, Transport


@dataclass(frozen=True)
class LogPart:
    """Bytes of one output stream, from `offset` on. `complete`: nothing will be added after `size`."""

    attempt: int
    offset: int
    data: bytes
    size: int
    complete: bool


class Client(Transport):
    """One gateway, what it knows, and what it can be asked for."""

    # -- what the gateway knows ---------------------------------------------------------------------------------

    def submit(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a Submit. Give it an `id`: then it may be sent again. Raises Rejected with every problem."""
        return _taken(self.post("/v1/jobs", request), "the job was rejected")

    def control(self, job: str, verb: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer to a cancel, hold, release, reprioritise or move. Raises Rejected where it was refused."""
        return _taken(self.post(_path(job, verb), request or {}), f"{job}: {verb} was refused")

    def job(self, job: str, query: Query | None = None) -> dict[str, Any]:
        """The JobView of one job, by id, by the beginning of an id, or by name (the newest of that name)."""
        return self.get(_path(job), query)

    def jobs(self, query: Query | None = None) -> dict[str, Any]:
        """A page: `jobs` (JobViews, newest first), and `next`, which is the `after` of the next page.

        `query`: `state`, `user`, `since`, `limit`, `after`, `latest`. `missing` says why archived jobs are not there.
        """
        return self.get("/v1/jobs", query)

    def why(self, job: str) -> dict[str, Any]:
        """Why a job waits, and its place."""
        return self.get(_path(job, "why"))

    def series(self, job: str, query: Query | None = None) -> dict[str, Any]:
        """The SeriesAnswer. `query`: `names` (separated by commas), `step_from`, `step_to`, `buckets`."""
        return self.get(_path(job, "metrics"), query)

    def log(self, job: str, query: Query | None = None) -> LogPart:
        """A part of an output stream. `query`: `stream`, `attempt`, `offset` (negative: from the end), `bytes_max`."""
        reply = self.request("GET", _path(job, "log"), query=query)
        head = reply.headers
        return LogPart(
            attempt=int(head.get("hr-attempt") or 0),
            offset=int(head.get("hr-offset") or 0),
            data=reply.body,
            size=int(head.get("hr-size") or len(reply.body)),
            complete=head.get("hr-complete", "").lower() in {"1", "true"},
        )

    def queues(self) -> list[dict[str, Any]]:
        """QueueViews of the caller's team; an operator sees all."""
        return list(self.get("/v1/queues").get("queues") or ())

    def queue(self, team: str, name: str) -> dict[str, Any]:
        """One QueueView: settings, and what the queue holds."""
        return self.get(_queue_path(team, name))

    def teams(self) -> list[dict[str, Any]]:
        """TeamViews: the caller's team; an operator sees all."""
        return list(self.get("/v1/teams").get("teams") or ())

    # -- streams of events; each ends with an event `end` --------------------------------------------------------

    def follow(self, job: str, *, on_retry: OnRetry | None = None) -> Iterator[Event]:
        """The road of a job until its end: events `state` (a JobView) and `why`."""
        return self.events(_path(job, "events"), on_retry=on_retry)

    def follow_log(
        self, job: str, query: Query | None = None, *, last_id: str = "", on_retry: OnRetry | None = None
    ) -> Iterator[Event]:
        """Output as it comes, both streams: events `chunk`. A chunk may come twice; its offset tells.

        `last_id` is where to begin: `<attempt>-<offset in stdout>-<offset in stderr>`; empty: at the newest attempt.
        """
        return self.events(_path(job, "log", "follow"), query, last_id=last_id, on_retry=on_retry)

    def follow_metrics(self, job: str, *, on_retry: OnRetry | None = None) -> Iterator[Event]:
        """Events `latest`, about one a second while there is something new."""
        return self.events(_path(job, "metrics", "follow"), on_retry=on_retry)

    # -- for operators: queues and teams --------------------------------------------------------------------------

    def create_queue(self, team: str, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The answer, with all `settings` of the new queue. Raises Refused if it is there already."""
        return self.send("PUT", _queue_path(team, name), settings, {"If-None-Match": "*"})

    def set_queue(self, team: str, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The answer, with all `settings` as they are now: only those named have changed."""
        return self.send("PATCH", _queue_path(team, name), settings)

    def delete_queue(self, team: str, name: str) -> dict[str, Any]:
        """The answer. Raises Refused while the queue holds jobs."""
        return self.send("DELETE", _queue_path(team, name))

    def set_team(self, team: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The answer, with all `settings` as they are now: only those named have changed."""
        return self.send("PATCH", f"/v1/teams/{quote(team, safe='')}", settings)

    # -- for operators: dead letters -------------------------------------------------------------------------------

    def steer_node(self, node: str, verb: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a cordon, uncordon, drain, maintenance or gone. Raises Rejected where it was refused."""
        return _taken(self.post(f"/v1/nodes/{quote(node, safe='')}/{verb}", request), f"{node}: {verb} was refused")

    def dead_letters(self) -> Iterator[dict[str, Any]]:
        """What could not be processed, the oldest first."""
        after = 0
        while True:
            page = self.get("/v1/admin/dead", {"after": after})
            yield from page.get("letters") or ()
            after = int(page.get("next") or 0)
            if not after:
                return

    def dead_letter(self, sequence: int) -> dict[str, Any]:
        """One of them, with the message in it."""
        return self.get(f"/v1/admin/dead/{sequence}")

    def replay_dead(self, sequence: int) -> dict[str, Any]:
        """Publishes the message again, under its own id, and takes it from the dead letters."""
        return self.post(f"/v1/admin/dead/{sequence}/replay", {})

    def drop_dead(self, sequence: int) -> None:
        """Takes it from the dead letters for good."""
        self.request("DELETE", f"/v1/admin/dead/{sequence}")

    # -- blobs ---------------------------------------------------------------------------------------------------

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Which of these blobs the server does not have yet."""
        return list(self.post("/v1/blobs/missing", {"digests": list(digests)}).get("missing") or ())

    def put_blob(self, digest: str, data: bytes) -> None:
        """Stores a blob; the server verifies its digest."""
        self.request("PUT", f"/v1/blobs/{quote(digest, safe=':')}", body=data, media="application/octet-stream")


def _path(job: str, *rest: str) -> str:
    return "/".join(("/v1/jobs", quote(job, safe=""), *rest))


def _queue_path(team: str, name: str) -> str:
    return f"/v1/queues/{quote(team, safe='')}/{quote(name, safe='')}"


def _taken(answer: dict[str, Any], what: str) -> dict[str, Any]:
    """The answer, unless it is a refusal. A gateway says so by status 422; a verdict says it too."""
    if answer.get("verdict") in {"rejected", "refused"}:
        problems = [errors.problem_of(raw) for raw in answer.get("problems") or ()]
        raise errors.Rejected(what, status=422, problems=problems)
    return answer
