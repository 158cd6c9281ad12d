"""`/v1/admin/check`: whether all that is kept tells the same story. For operators alone."""

from __future__ import annotations

from litestar import get
from litestar.response import Stream

from controlplane.gateway import sse
from controlplane.gateway.auth import operators_only
from controlplane.gateway.check import check
from controlplane.gateway.context import Gateway, Here
from controlplane.gateway.failures import Failure


@get("/v1/admin/check", media_type="text/event-stream", guards=[operators_only])
async def run_check(gateway: Here) -> Stream:
    """Server-sent events: `compared` (what, of how many things, every difference), then `end` with their number."""
    if gateway.is_checking:
        raise Failure(409, "a check is under way already", "wait for its end")
    return sse.stream(gateway, _run(gateway))


async def _run(gateway: Gateway) -> sse.Follower:
    if gateway.is_checking:  # another one began in the same moment
        yield sse.Event("end", {"compared": 0, "differences": 0})
        return
    gateway.is_checking = True  # here, not before: what never begins would never end
    compared = differences = 0
    try:
        async for result in check(gateway.tools, gateway.projection):
            if result is None:
                yield None
                continue
            compared += 1
            differences += len(result.differences)
            yield sse.Event("compared", result)
        yield sse.Event("end", {"compared": compared, "differences": differences})
    finally:
        gateway.is_checking = False
