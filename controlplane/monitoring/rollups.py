"""Roll-ups: what a bucket of 128 or 1,024 steps amounts to, so that a long curve is drawn without reading its points.

Of each bucket: how many points, the lowest and highest finite value, and the last point. *Last* is the greatest by
(step, time, value): it depends on which points there are and not on the order in which they came, so a store that was
rebuilt answers as the one before.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SIZES: Final = (1024, 128)
"""In steps, the widest first; powers of two."""

ALL: Final = 2**54
"""As wide as all steps there can be, from −2^53 to 2^53."""

Batch = dict[str, NDArray[Any]]
"""Columns of equal length: series, step, ns, value."""


def in_order(batch: Batch) -> Batch:
    """The batch sorted by series, step, time, value; NaN counts as the greatest value, as it does in DuckDB."""
    series, step, ns = batch["series"], batch["step"], batch["ns"]
    same = series[1:] == series[:-1]
    rising = (series[1:] > series[:-1]) | (same & (step[1:] > step[:-1]))
    if bool(rising.all()):
        return batch
    order = np.lexsort((batch["value"], ns, step, series))
    return {name: column[order] for name, column in batch.items()}


def partials(ordered: Batch, size: int) -> Batch:
    """One row for each (series, bucket) of a batch in order; `low`, `high` are NaN where no value is finite."""
    bucket = ordered["step"] // size
    return _reduce(ordered, bucket)


def heads(ordered: Batch) -> Batch:
    """One row for each series of a batch in order: its count, and its last point."""
    return _reduce(ordered, np.zeros(len(ordered["step"]), np.int64))


def _reduce(ordered: Batch, bucket: NDArray[np.int64]) -> Batch:
    series, value = ordered["series"], ordered["value"]
    change = np.flatnonzero((series[1:] != series[:-1]) | (bucket[1:] != bucket[:-1])) + 1
    starts = np.concatenate(([0], change))
    ends = np.concatenate((change, [len(series)]))
    finite = np.where(np.isfinite(value), value, np.nan)
    return {
        "series": series[starts],
        "bucket": bucket[starts],
        "points": ends - starts,
        "low": np.fmin.reduceat(finite, starts),
        "high": np.fmax.reduceat(finite, starts),
        "step": ordered["step"][ends - 1],
        "ns": ordered["ns"][ends - 1],
        "value": value[ends - 1],
    }


def width(low: int, high: int, buckets: int) -> int:
    """How many steps a bucket must span so that `[low, high]` needs at most `buckets`, cut at its multiples.

    A multiple of a roll-up's size where it is wide enough, so that buckets are made of whole roll-ups. `ALL`: one
    bucket is to hold steps on both sides of 0, where all multiples cut.
    """
    if buckets == 1 and low < 0 <= high:
        return ALL
    span = max(1, -(-(high - low + 1) // buckets))
    while True:
        unit = next((size for size in SIZES if span >= size), 1)
        span = -(-span // unit) * unit
        if high // span - low // span + 1 <= buckets:
            return span
        span += unit


def source(span: int) -> int:
    """The size of the roll-ups that buckets of this width are made of; 1: of the points themselves."""
    return next((size for size in SIZES if span % size == 0), 1)
