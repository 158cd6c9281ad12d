"""What there is to use and how it is: nodes, tiers, status, configuration, health."""

from __future__ import annotations

import asyncio
from importlib import metadata
from typing import Any, Final

import msgspec
from litestar import Request, Response, get

from controlplane.config import Configuration, Identity
from controlplane.gateway.context import Gateway, Here
from controlplane.gateway.failures import Failure
from events import labels, streams
from events import messages as m
from events.bus import AskRefused, BusError

SERVICES: Final = ("submission", "environments", "scheduling", "monitoring", "capacity")
MASK: Final = "********"
SECRETS: Final = frozenset({"nats_password", "otlp_secret"})

Caller = Request[Identity, Any, Any]


class TierView(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    resources: m.Resources
    note: str = ""
    on: tuple[m.Constraint, ...] = ()
    """Which nodes will do, in order of preference. Empty: any node."""
    fits: int | None = None
    """How many such jobs would fit at this moment; None while nobody can tell."""


class Tiers(msgspec.Struct, frozen=True, kw_only=True):
    tiers: list[TierView]
    default: str


@get("/v1/nodes")
async def nodes(gateway: Here, request: Caller) -> m.NodesView:
    """The machines, and what is free on each. Attempts of other teams are not shown."""
    view = await gateway.ask("scheduling", "nodes", None, m.NodesView)
    if request.user.operator:
        return view
    own = request.user.team
    shown = tuple(
        msgspec.structs.replace(node, attempts=tuple(ref for ref in node.attempts if ref.team == own))
        for node in view.nodes
    )
    return msgspec.structs.replace(view, nodes=shown)


@get("/v1/tiers")
async def tiers(gateway: Here, request: Caller) -> Tiers:
    """What a job of the caller's team may ask for, and how often it would fit now."""
    config = gateway.tools.config
    allowed = config.teams[request.user.team].tiers
    view: m.NodesView | None = None
    try:
        view = open_ones(await gateway.ask("scheduling", "nodes", None, m.NodesView), gateway.tools.clock.now())
    except (BusError, AskRefused):
        view = None  # without a leader nobody knows what is free; the tiers are there all the same
    shown = [
        TierView(name=tier.name, resources=tier.resources, note=tier.note, on=tier.on, fits=fits(tier, view))
        for tier in config.tiers
        if not allowed or tier.name in allowed
    ]
    return Tiers(tiers=shown, default=config.default_tier)


@get("/v1/status")
async def status(gateway: Here) -> dict[str, Any]:
    """Every service with its counters, the bus, and the version."""
    return {
        "version": version(),
        "bus": gateway.tools.bus.state,
        "jobs": gateway.projection.count(),
        "services": await statuses(gateway),
    }


async def statuses(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """What each service says of itself, the gateway among them."""
    names = (*SERVICES, "pool") if gateway.tools.config.has_pool else SERVICES
    answers = await asyncio.gather(*(_status(gateway, name) for name in names))
    seen = gateway.projection
    own: dict[str, Any] = {
        "answers": True,
        "followed_to": seen.sequence,
        "followers": seen.followers,
        "dead": 0,
        **seen.outcomes,
    }
    own |= {"dead_letters": await _dead_letters(gateway), **gateway.answered}
    return {**dict(zip(names, answers, strict=True)), "gateway": own}


@get("/v1/config")
async def config(gateway: Here, request: Caller) -> dict[str, Any]:
    """The configuration in force, without its secrets; of teams and tokens only the caller's own."""
    return masked(gateway.tools.config, request.user)


@get("/healthz", opt={"public": True}, media_type="application/json")
async def healthz() -> dict[str, bool]:
    """The loop turns: this answer is the proof."""
    return {"healthy": True}


@get("/readyz", opt={"public": True}, media_type="application/json")
async def readyz(gateway: Here) -> Response[dict[str, Any]]:
    """200 once requests can be served: the bus is connected, and the ledger was read up to its end."""
    ready = gateway.is_caught_up and gateway.tools.bus.state == "connected" and not gateway.is_closing
    state = {"ready": ready, "bus": gateway.tools.bus.state, "caught_up": gateway.is_caught_up}
    return Response(state, status_code=200 if ready else 503)


def open_ones(view: m.NodesView, now: float) -> m.NodesView:
    """Without those that are closed for maintenance."""
    nodes = tuple(
        node
        for node in view.nodes
        if node.maintenance is None or not node.maintenance.begins_at <= now < node.maintenance.ends_at
    )
    return msgspec.structs.replace(view, nodes=nodes)


def fits(tier: m.Tier, view: m.NodesView | None) -> int | None:
    """How many attempts of a tier would fit on the ready nodes, each alone."""
    if view is None:
        return None
    wanted, on = tier.resources, [labels.pairs(each) for each in tier.on]
    able = [
        node
        for node in view.nodes
        if node.state == "ready" and not node.capacity.cannot_start and labels.is_any_met(on, node.node, node.capacity)
    ]
    places = [_fits_on(wanted, node) for node in able]
    if wanted.nodes <= 1:
        return sum(places)
    return sum(place > 0 for place in places) // wanted.nodes


def masked(config: Configuration, caller: Identity) -> dict[str, Any]:
    """A configuration as this caller may see it."""
    shown: dict[str, Any] = msgspec.to_builtins(config)
    for name in SECRETS:
        shown[name] = MASK if shown[name] else ""
    shown["tokens"] = {f"{digest[:4]}{MASK}": value for digest, value in shown["tokens"].items()}
    if not caller.operator:
        shown["teams"] = {caller.team: shown["teams"][caller.team]}
        shown["tokens"] = {name: value for name, value in shown["tokens"].items() if value["team"] == caller.team}
    for name in ("nats_url", "blobs_url"):
        if "@" in shown[name]:
            shown[name] = f"{MASK}@{shown[name].rpartition('@')[2]}"
    return shown


def version() -> str:
    try:
        return metadata.version("headrace-server")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "0+source"


def _fits_on(wanted: m.Resources, node: m.NodeView) -> int:
    free, gpus = node.free, len(node.free.gpus)
    if wanted.gpu_milli < m.GPU_MILLI:
        gpus = gpus * (m.GPU_MILLI // wanted.gpu_milli) + sum(left // wanted.gpu_milli for left in node.shared.values())
    counts = [
        int(has // needs)
        for has, needs in (
            (free.cpus, wanted.cpus),
            (free.memory_bytes, wanted.memory_bytes),
            (gpus, wanted.gpus),
        )
        if needs > 0
    ]
    return min(counts, default=0)


async def _dead_letters(gateway: Gateway) -> int | None:
    """How many there are; None while the store does not say."""
    try:
        return (await gateway.tools.bus.usage(streams.DEAD.name)).messages
    except BusError:
        return None


async def _status(gateway: Gateway, service: str) -> dict[str, Any]:
    try:
        return {"answers": True, **await gateway.ask(service, "status", None, dict[str, Any])}
    except (BusError, AskRefused, Failure) as error:
        return {"answers": False, "error": str(error)}
