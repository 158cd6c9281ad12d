"""What OpenAPI says of bodies that are read raw: submission tells all their mistakes at once, and Litestar answers 500
to text that is not UTF-8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec
from litestar import Request, Router, get
from litestar.openapi.spec import Components, OpenAPIMediaType, Operation, RequestBody, SecurityScheme

from events import messages as m


class MissingBlobs(msgspec.Struct, frozen=True, kw_only=True):
    """Asks which of these blobs are not there yet."""

    digests: list[str]


class RaySubmit(msgspec.Struct, frozen=True, kw_only=True):
    """A submit in the words of Ray's Jobs API; docs/ray-jobs.md says what each field is here."""

    entrypoint: str
    submission_id: str | None = None
    runtime_env: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    entrypoint_num_cpus: float | None = None
    entrypoint_num_gpus: float | None = None
    entrypoint_memory: int | None = None
    entrypoint_label_selector: dict[str, str] | None = None


_TEMPLATE: Final = "#/components/schemas/{name}"
_MESSAGES: Final = (
    m.Submit,
    m.Cancel,
    m.Hold,
    m.Release,
    m.Reprioritise,
    m.Move,
    m.SetQueue,
    m.SetTeam,
    m.CordonNode,
    m.UncordonNode,
    m.DrainNode,
    m.MaintainNode,
    m.GiveUpNode,
    m.RepairNode,
    m.Answer,
    MissingBlobs,
    RaySubmit,
)


@get("/openapi.json", opt={"public": True}, include_in_schema=False, media_type="application/json")
async def description(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """What this gateway takes and gives."""
    described = request.app.openapi_schema.to_schema()
    _, schemas = msgspec.json.schema_components(_MESSAGES, ref_template=_TEMPLATE)
    described.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
    return described


class NoPages(Router):
    """In place of Litestar's own pages about an API, which load scripts from elsewhere and answer errors in HTML."""

    def __init__(self) -> None:
        super().__init__("/", route_handlers=[])

    def register(self, value: Any) -> Any:
        return []


def bearer() -> Components:
    """How one says who he is."""
    scheme = SecurityScheme(type="http", scheme="bearer", description="The token that your operator gave you.")
    return Components(security_schemes={"bearer": scheme})


def _body(*names: str, required: bool) -> RequestBody:
    refs: list[Any] = [{"$ref": _TEMPLATE.format(name=name)} for name in names]
    schema: Any = refs[0] if len(refs) == 1 else {"anyOf": refs}
    return RequestBody(content={"application/json": OpenAPIMediaType(schema=schema)}, required=required)


@dataclass
class SubmitOperation(Operation):
    """Takes a Submit."""

    def __post_init__(self) -> None:
        self.request_body = _body("Submit", required=True)


@dataclass
class ControlOperation(Operation):
    """Takes the fields of a control; its `type` is in the path."""

    def __post_init__(self) -> None:
        self.request_body = _body("Cancel", "Hold", "Release", "Reprioritise", "Move", required=False)


@dataclass
class QueueOperation(Operation):
    """Takes settings of a queue; what is asked for is in the method."""

    def __post_init__(self) -> None:
        self.request_body = _body("SetQueue", required=False)


@dataclass
class TeamOperation(Operation):
    """Takes settings of a team; what is asked for is in the method."""

    def __post_init__(self) -> None:
        self.request_body = _body("SetTeam", required=False)


@dataclass
class NodeOperation(Operation):
    """Takes the fields of what is said of a node."""

    def __post_init__(self) -> None:
        names = ("CordonNode", "UncordonNode", "DrainNode", "MaintainNode", "GiveUpNode", "RepairNode")
        self.request_body = _body(*names, required=False)


@dataclass
class MissingOperation(Operation):
    """Takes MissingBlobs."""

    def __post_init__(self) -> None:
        self.request_body = _body("MissingBlobs", required=True)


@dataclass
class UploadOperation(Operation):
    """Takes raw bytes."""

    def __post_init__(self) -> None:
        schema: Any = {"type": "string", "format": "binary"}
        content = {"application/octet-stream": OpenAPIMediaType(schema=schema)}
        self.request_body = RequestBody(content=content, required=True)


@dataclass
class RaySubmitOperation(Operation):
    """Takes a RaySubmit."""

    def __post_init__(self) -> None:
        self.request_body = _body("RaySubmit", required=True)


@dataclass
class PackageOperation(Operation):
    """Takes a zip."""

    def __post_init__(self) -> None:
        schema: Any = {"type": "string", "format": "binary"}
        self.request_body = RequestBody(content={"application/zip": OpenAPIMediaType(schema=schema)}, required=True)
