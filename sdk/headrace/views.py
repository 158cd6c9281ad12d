"""What the gateway says, as types: JSON objects whose names are checked, no more. Every field may be missing."""

from __future__ import annotations

from typing import Any, TypedDict


class AllocationView(TypedDict, total=False):
    """What an attempt holds of one node."""

    node: str
    gpus: list[int]
    cpus: float
    memory_bytes: int


class EnvironmentView(TypedDict, total=False):
    """Where the environment of a job stands: `wanted`, `building`, `ready` or `failed`."""

    digest: str
    state: str
    lock: str
    packages: int
    took_s: float
    reason: str


class JobView(TypedDict, total=False):
    """A job, as of now."""

    job: str
    name: str
    team: str
    user: str
    queue: str
    tier: str
    state: str
    held: bool
    attempt: int
    submitted_at: float | None
    queued_at: float | None
    placed_at: float | None
    started_at: float | None
    finished_at: float | None
    reason: str
    exit_code: int | None
    signal: int | None
    usage: dict[str, Any] | None
    allocations: list[AllocationView]
    entrypoint: list[str]
    kind: str
    source: str
    environment: EnvironmentView | None
    labels: dict[str, str]
    on: list[dict[str, list[str]]]
    priority: int
    time_limit_s: float | None
    attempts_max: int
    retries: int
    after: list[dict[str, str]]
    begin_at: float | None
    deadline_at: float | None
    array: str
    array_at_once: int
    tasks: dict[str, int] | None
    task: dict[str, Any] | None
    history: list[dict[str, Any]]
    latest: dict[str, dict[str, Any]]


class HolderView(TypedDict, total=False):
    """A job that holds what another one waits for; without `until_at` it has no time limit."""

    job: str
    team: str
    node: str
    gpus: int
    until_at: float | None
    expected_at: float | None


class HindranceView(TypedDict, total=False):
    """One thing that a waiting job waits for, or that is in order. `at`: when it is over at the latest."""

    ok: bool
    kind: str
    message: str
    asked: float | None
    free: float | None
    held_by: list[str]
    node: str
    at: float | None
    holders: list[HolderView]


class SoonerView(TypedDict, total=False):
    """What would let a waiting job start now."""

    kind: str
    message: str
    node: str
    time_limit_s: float | None
    tier: str


class WhyView(TypedDict, total=False):
    """Why a job waits; `position` 0: it does not."""

    job: str
    state: str
    position: int
    of: int
    hindrances: list[HindranceView]
    summary: str
    sooner: list[SoonerView]
    expected_at: float | None
    earliest_at: float | None
    latest_at: float | None


class QueuedView(TypedDict, total=False):
    """A job that waits; the last three as in `WhyView`."""

    place: int
    queue: str
    job: str
    name: str
    user: str
    tier: str
    queued_at: float
    priority: int
    time_limit_s: float | None
    kind: str
    why: str
    expected_at: float | None
    earliest_at: float | None
    latest_at: float | None


class SeriesView(TypedDict, total=False):
    """Columns of one series, ascending by step; `low` and `high` bound the bucket that a point stands for."""

    name: str
    rank: int
    attempt: int
    count: int
    steps: list[int]
    values: list[float | None]
    low: list[float | None]
    high: list[float | None]
    at: list[float]


ENDS = frozenset({"succeeded", "failed", "cancelled", "rejected"})
"""The states that a job does not leave."""
