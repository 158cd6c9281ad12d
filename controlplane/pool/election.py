"""Who of several may act: a Lease of coordination.k8s.io, as client-go's leaderelection uses it.

Nobody compares clocks: a Lease is over when it has not changed for its duration by the watcher's own clock. A leader
that could not renew for `RENEW_S_MAX` acts no more, before anybody else may. It is only there to spare work: each write
of the RayCluster is guarded, and two who act come to the same end.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from controlplane.pool.api import Api, ApiError, Conflict, NotFound, Object, metadata_of

LEASE_S: Final = 15
RENEW_S_MAX: Final = 10.0
ROUND_S: Final = 2.0


class Seen(msgspec.Struct, frozen=True):
    """Of the Lease: who holds it, when that was last renewed, and when we first saw it so."""

    holder: str
    renewed: str
    at: float


Step = Literal["create", "take", "renew", "wait"]


class Election:
    """Pure: what to do about the Lease, and whether we lead."""

    def __init__(self, identity: str) -> None:
        self._identity = identity
        self._seen: Seen | None = None
        self._renewed_at: float | None = None
        self.held: Object | None = None
        """The Lease as we wrote it last: it is renewed without a look at it."""

    def leads(self, now: float) -> bool:
        return self._renewed_at is not None and now < self._renewed_at + RENEW_S_MAX

    def step(self, lease: Object | None, now: float) -> Step:
        """What to do about the Lease as it is; None: there is none."""
        if lease is None:
            return "create"
        spec = _spec(lease)
        holder, renewed = str(spec.get("holderIdentity") or ""), str(spec.get("renewTime") or "")
        if self._seen is None or (self._seen.holder, self._seen.renewed) != (holder, renewed):
            self._seen = Seen(holder, renewed, now)
        if holder == self._identity:
            return "renew"
        lasts_s = spec.get("leaseDurationSeconds")
        duration_s = lasts_s if isinstance(lasts_s, int) and lasts_s > 0 else LEASE_S
        return "take" if not holder or now >= self._seen.at + duration_s else "wait"

    def on_written(self, lease: Object, now: float) -> None:
        """It says now that we lead; `now` is from before the write."""
        self.held, self._renewed_at = lease, now

    def on_lost(self) -> None:
        self.held = self._renewed_at = None


def written(lease: Object | None, step: Step, identity: str, now: float) -> Object:
    """The spec of the Lease after a step that is not to wait."""
    at = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    before = _spec(lease or {})
    changes = before.get("leaseTransitions")
    transitions = changes if isinstance(changes, int) else 0
    acquired = before.get("acquireTime") if step == "renew" else at
    return {
        "holderIdentity": identity,
        "leaseDurationSeconds": LEASE_S,
        "acquireTime": acquired or at,
        "renewTime": at,
        "leaseTransitions": transitions + (step == "take"),
    }


def _spec(lease: Object) -> Object:
    spec = lease.get("spec")
    return spec if isinstance(spec, dict) else {}


async def once(api: Api, election: Election, path: str, name: str, identity: str, now: float, wall: float) -> None:
    """One round: look, and take or renew. Raises ApiError; whoever led then leads until its time is over."""
    lease, election.held = election.held, None
    if lease is None:
        try:
            lease = await api.get(f"{path}/{name}")
        except NotFound:
            lease = None
    step = election.step(lease, now)
    if step == "wait":
        election.on_lost()
        return
    body: dict[str, Any] = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name},
        "spec": written(lease, step, identity, wall),
    }
    try:
        if lease is None:
            answer = await api.create(path, body)
        else:
            metadata = metadata_of(lease, f"GET {path}/{name}")
            answer = await api.replace(f"{path}/{name}", body | {"metadata": metadata})
    except Conflict:
        election.on_lost()
        return
    election.on_written(answer, now)


async def give_up(api: Api, path: str, name: str, identity: str, wall: float) -> None:
    """Let another one lead at once. A failure only makes it wait."""
    try:
        lease = await api.get(f"{path}/{name}")
        if _spec(lease).get("holderIdentity") == identity:
            spec = written(lease, "renew", "", wall)
            await api.replace(f"{path}/{name}", lease | {"spec": spec})
    except ApiError:
        return
