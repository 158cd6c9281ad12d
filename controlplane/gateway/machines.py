"""`/v1/nodes/{node}/…`: what operators say of machines."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, Response, post
from litestar.params import FromPath

from controlplane.config import Identity
from controlplane.gateway.auth import operators_only
from controlplane.gateway.context import Here
from controlplane.gateway.contract import NodeOperation
from controlplane.gateway.failures import Failure
from controlplane.gateway.jobs import fields_of
from controlplane.gateway.tenants import changed

VERBS: Final = {
    "cordon": "cordon_node",
    "uncordon": "uncordon_node",
    "drain": "drain_node",
    "maintenance": "maintain_node",
    "gone": "give_up_node",
    "repair": "repair_node",
}


@post("/v1/nodes/{node:str}/{verb:str}", status_code=200, guards=[operators_only], operation_class=NodeOperation)
async def steer_node(
    gateway: Here, request: Request[Identity, Any, Any], node: FromPath[str], verb: FromPath[str]
) -> Response[Any]:
    """Cordon, uncordon or drain a machine, close it for a maintenance, give it up as gone, or say that GPUs are fit
    again; the body has the fields.

    404: there is no such node; 409: it is gone; 422: the fields are wrong.
    """
    if verb not in VERBS:
        raise Failure(404, f"nothing is called so of a node: {verb[:80]}", f"one of {', '.join(VERBS)}")
    fields = fields_of(await request.body(), 'such as {"why": "new disks"}') | {"type": VERBS[verb]}
    return await changed(gateway, request.user, ("node", node), fields)
