"""CloudEvents 1.0 on NATS, binary mode: the envelope is in the headers, the body is the data alone.

Specification: CloudEvents NATS protocol binding 1.0.2, "Binary Content Mode": each context attribute becomes a header
`ce-<name>`, the media type of the data becomes `content-type`. Trace context: W3C `traceparent`, as in the CloudEvents
distributed tracing extension. `hr-request` is ours: the id of the request that caused this, for logs. A message without
any `ce-` header is accepted too: then the envelope is empty.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

SPECIFICATION_VERSION = "1.0"
TYPE_PREFIX = "hr.v1."
JSON = "application/json"
REQUEST = "hr-request"


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What a message says about itself. Empty strings: not said."""

    id: str = ""
    type: str = ""
    source: str = ""
    time: str = ""
    traceparent: str = ""
    request: str = ""


def to_headers(envelope: Envelope) -> dict[str, str]:
    """The headers of an envelope; what is not said gets none. The standard requires `id`, `source`, `type`."""
    headers = {
        "ce-specversion": SPECIFICATION_VERSION,
        "ce-id": envelope.id,
        "ce-source": envelope.source,
        "ce-type": TYPE_PREFIX + envelope.type,
        "content-type": JSON,
    }
    if envelope.time:
        headers["ce-time"] = envelope.time
    if envelope.traceparent:
        headers["traceparent"] = envelope.traceparent
    if envelope.request:
        headers[REQUEST] = envelope.request
    return headers


def from_headers(headers: Mapping[str, str] | None) -> Envelope:
    """The envelope in some headers, whose names count in any case. Never raises: a stranger may send anything."""
    if not headers:
        return Envelope()
    lower = {name.lower(): value for name, value in headers.items()}
    return Envelope(
        id=lower.get("ce-id", ""),
        type=lower.get("ce-type", "").removeprefix(TYPE_PREFIX),
        source=lower.get("ce-source", ""),
        time=lower.get("ce-time", ""),
        traceparent=lower.get("traceparent", ""),
        request=lower.get(REQUEST, ""),
    )
