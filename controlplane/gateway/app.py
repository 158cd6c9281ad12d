"""The HTTP application: every resource, who may call, how failures look, and what guards every answer."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from litestar import Litestar
from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException, WebSocketException
from litestar.middleware import DefineMiddleware
from litestar.openapi import OpenAPIConfig
from litestar.types import Receive, Scope, Send

from controlplane.gateway import (
    admin,
    blobs,
    cluster,
    dead,
    environments,
    events,
    exposition,
    jobs,
    logs,
    machines,
    metrics,
    ray_jobs,
    tenants,
    whatif,
)
from controlplane.gateway.auth import Authentication
from controlplane.gateway.context import Gateway
from controlplane.gateway.contract import NoPages, bearer, description
from controlplane.gateway.failures import HANDLERS
from controlplane.http import STARTS, Bounded, Denied

LOG: Final = logging.getLogger("headrace.gateway")

BODY_BYTES_MAX: Final = 1024 * 1024
"""Of a request, where its handler says nothing else."""
SLOW_S: Final = 30.0
"""A reader that takes nothing at all for so long is let go."""

HANDLED: Final = (
    jobs.submit,
    jobs.control,
    jobs.list_jobs,
    jobs.show_job,
    jobs.why,
    jobs.queue,
    events.follow_job,
    logs.show_log,
    logs.follow_log,
    metrics.show_metrics,
    metrics.follow_metrics,
    cluster.nodes,
    machines.steer_node,
    cluster.tiers,
    tenants.list_queues,
    tenants.show_queue,
    tenants.put_queue,
    tenants.patch_queue,
    tenants.delete_queue,
    tenants.list_teams,
    tenants.show_team,
    tenants.put_team,
    tenants.patch_team,
    cluster.status,
    cluster.config,
    cluster.healthz,
    cluster.readyz,
    admin.run_check,
    whatif.what_if,
    blobs.missing,
    blobs.upload,
    blobs.download,
    blobs.is_there,
    environments.show_environment,
    environments.show_environment_log,
    exposition.metrics,
    dead.list_dead,
    dead.show_dead,
    dead.replay_dead,
    dead.drop_dead,
    description,
    ray_jobs.ROUTER,
)

_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_LOOKS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_NO_STORE: Final = (b"cache-control", b"no-store")


def build(gateway: Gateway) -> Bounded:
    """The application over one gateway."""
    app = Litestar(
        route_handlers=list(HANDLED),
        dependencies={"gateway": Provide(lambda: gateway, sync_to_thread=False)},
        middleware=[DefineMiddleware(Authentication, tokens=gateway.tools.config.tokens)],
        exception_handlers=HANDLERS,
        request_max_body_size=BODY_BYTES_MAX,
        openapi_config=OpenAPIConfig(
            title="Headrace",
            version=cluster.version(),
            description="Submit jobs, follow them. A failure is `{error: {message, hint, problems}}`.",
            openapi_router=NoPages(),
            use_handler_docstrings=True,
            components=bearer(),
            security=[{"bearer": []}],
        ),
        after_exception=[_tell_of_sockets],
        logging_config=None,
        debug=False,
    )
    bounded = Bounded(Guard(Denied(app)))
    gateway.answered = bounded.counts
    return bounded


async def _tell_of_sockets(error: Exception, scope: Scope) -> None:
    """Log what went wrong over a WebSocket: no handler of exceptions is asked about these."""
    if scope["type"] == ScopeType.WEBSOCKET and not isinstance(error, WebSocketException | HTTPException):
        LOG.error("%s failed", scope["path"], exc_info=error)


class Guard:
    """Around everything: headers that a browser must see on every answer; an end for readers that do not read."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(None) as limit:

                async def send_in_time(message: Any) -> None:
                    if message["type"] in STARTS:
                        message["headers"] = _guarded(message["headers"])
                        _note(scope, message["status"], loop.time() - began)
                    limit.reschedule(loop.time() + SLOW_S)
                    await send(message)
                    limit.reschedule(None)

                await self._app(scope, receive, send_in_time)
        except TimeoutError:
            LOG.info("a reader of %s took nothing for %.0f s", scope["path"], SLOW_S)


def _note(scope: Scope, status: int, took_s: float) -> None:
    """What changes something is in the log; what only looks, or was not let in, is only for who wants all."""
    method = scope.get("method", "")
    level = logging.DEBUG if method in _LOOKS or status == 401 else logging.INFO
    fields = {"method": method, "path": scope["path"], "status": status, "took_ms": round(took_s * 1000, 1)}
    LOG.log(level, "answered", extra=fields)


def _guarded(headers: Any) -> list[tuple[bytes, bytes]]:
    given = list(headers)
    names = {name.lower() for name, _ in given}
    return given + [each for each in (*_HEADERS, _NO_STORE) if each[0] not in names]
