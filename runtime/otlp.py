"""Records of a spool as an OTLP `ExportMetricsServiceRequest`, encoded column by column.

Equivalent to building the request from `opentelemetry.proto` classes, with a Gauge for each name and a NumberDataPoint
for each record (`time_unix_nano`, `as_double`, the integer attribute `step`). It differs in how: all points of such a
request have the same 41 bytes but for three numbers, so a template is repeated and the columns are assigned into it,
the step as a varint padded to its full ten bytes. A test compares both.
https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/metrics/v1/metrics.proto
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from events.messages import AttemptRef
from runtime.spool import Layout, Records

BODY_BYTES_MAX: Final = 900 * 1024
"""Of one message: a stream takes 1 MiB, headers included."""
_VARINT: Final = 10
"""Bytes of a padded varint: 64 bits, seven at a time."""
_ANY_VALUE: Final = b"\x18" + bytes(_VARINT)
_KEY_VALUE: Final = b"\x0a\x04step\x12" + bytes([len(_ANY_VALUE)]) + _ANY_VALUE
_POINT: Final = b"\x19" + bytes(8) + b"\x21" + bytes(8) + b"\x3a" + bytes([len(_KEY_VALUE)]) + _KEY_VALUE
_TEMPLATE: Final = np.frombuffer(b"\x0a" + bytes([len(_POINT)]) + _POINT, np.uint8)
_TIME: Final = slice(3, 11)
_VALUE: Final = slice(12, 20)
_STEP: Final = slice(len(_TEMPLATE) - _VARINT, len(_TEMPLATE))


def records_max(layout: Layout) -> int:
    """How many records of this spool go into one message."""
    names = sum(len(name.encode()) + 32 for name in layout.names)
    return max(1, (BODY_BYTES_MAX - names - 1024) // (len(_TEMPLATE) * len(layout.names)))


def encoded(ref: AttemptRef, layout: Layout, records: Records) -> bytes:
    """The request that carries these records: a Gauge for each name of the spool."""
    points = np.empty((len(records), len(_TEMPLATE)), np.uint8)
    points[:] = _TEMPLATE
    points[:, _TIME] = _bytes(records["time"])
    points[:, _STEP] = _varints(records["step"])
    metrics = []
    for index, name in enumerate(layout.names):
        points[:, _VALUE] = _bytes(records["values"][:, index])
        metrics.append(_field(2, _field(1, name.encode()) + _field(5, points.tobytes())))
    resource = b"".join(
        _field(1, attribute)
        for attribute in (
            _text("headrace.job", ref.job),
            _text("headrace.team", ref.team),
            _integer("headrace.attempt", ref.attempt),
            _integer("headrace.rank", layout.rank),
        )
    )
    return _field(1, _field(1, resource) + _field(2, b"".join(metrics)))


def _bytes(column: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Eight bytes of each number, a row a number."""
    return np.ascontiguousarray(column).view(np.uint8).reshape(-1, 8)


def _varints(column: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Every number as a varint of ten bytes."""
    numbers = np.ascontiguousarray(column).view(np.uint64)
    shifts = np.arange(0, 7 * _VARINT, 7, dtype=np.uint64)
    groups = ((numbers[:, None] >> shifts) & np.uint64(0x7F)).astype(np.uint8)
    groups[:, :-1] |= 0x80
    return groups


def _varint(number: int) -> bytes:
    content = bytearray()
    while number > 0x7F:
        content.append(number & 0x7F | 0x80)
        number >>= 7
    content.append(number)
    return bytes(content)


def _field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message whose content has a length."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _text(key: str, value: str) -> bytes:
    return _field(1, key.encode()) + _field(2, _field(1, value.encode()))


def _integer(key: str, value: int) -> bytes:
    return _field(1, key.encode()) + _field(2, b"\x18" + _varint(value))
