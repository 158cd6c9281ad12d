"""The spools of an attempt, as messages for METRICS."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Final

from events import ranks, subjects
from events.bus import Outgoing
from events.messages import AttemptRef
from runtime import otlp
from runtime.shipping.line import Parcel
from runtime.shipping.positions import Shipped, SpoolPosition
from runtime.spool import BadSpool, Spool, files

LOG: Final = logging.getLogger("headrace.shipping")

NO_SPOOL: Final = "none"
"""The name under which the end of an attempt without spools is told. No spool's file can be called so."""


class _Source:
    """One spool, from the record on that has not arrived yet."""

    def __init__(self, spool: Spool, name: str, position: SpoolPosition) -> None:
        self.spool = spool
        self.name = name
        self.position = position
        self.records = position.records
        self.records_max = otlp.records_max(spool.layout)

    def arrived(self, parcel: Parcel) -> None:
        self.position.places = parcel.places
        self.position.records = parcel.records
        self.position.ended = parcel.is_end

    def rewind(self) -> None:
        self.spool.rewind(self.position.places)
        self.records = self.position.records


class _Nothing:
    """Stands for the spools of an attempt that has none, so that monitoring need not wait for any."""

    def __init__(self, position: SpoolPosition) -> None:
        self.position = position

    def arrived(self, parcel: Parcel) -> None:
        self.position.ended = parcel.is_end

    def rewind(self) -> None:
        """There is nothing to read again."""


class Spools:
    """The spools of one attempt."""

    def __init__(self, node: str, ref: AttemptRef, folder: Path, shipped: Shipped, *, rank: int = 0) -> None:
        self._subject = subjects.metrics(node, ref.team, ref.job)
        self._ref = ref
        self._rank = rank
        self._folder = folder
        self._positions = shipped.spools
        self._sources: dict[str, _Source] = {}
        self._bad: set[str] = set()

    @property
    def any_shipped(self) -> bool:
        return any(position.records for position in self._positions.values())

    def look(self, *, over: bool) -> bool:
        """Find new spools and new records; gives whether there is something to ship."""
        for name in files(self._folder):
            if name not in self._sources and name not in self._bad:
                self._add(name)
        now = time.monotonic()
        found = False
        for source in self._good():
            try:
                waiting = source.spool.look(now) or source.spool.skip_hole(now, over=over)
            except (BadSpool, OSError) as error:
                self._give_up(source.name, error)
            else:
                found = found or bool(waiting)
        return found

    def batches(self, batches_max: int) -> list[Parcel]:
        """What comes next of all spools."""
        now = time.monotonic()
        parcels: list[Parcel] = []
        for source in self._good():
            while len(parcels) < batches_max:
                try:
                    parcel = self._batch(source, now)
                except (BadSpool, OSError) as error:
                    self._give_up(source.name, error)
                    break
                if parcel is None:
                    break
                parcels.append(parcel)
        return parcels

    def _batch(self, source: _Source, now: float) -> Parcel | None:
        while (records := source.spool.take(source.records_max, now)) is not None:
            if not len(records):  # places that held nothing
                continue
            first = source.records
            source.records += len(records)
            body = otlp.encoded(self._ref, source.spool.layout, records)
            outgoing = Outgoing(self._subject, body, self._headers(source.name, first, len(records)), None)
            return Parcel(outgoing, source, source.spool.position, source.records)
        return None

    def ends(self, ends_max: int) -> list[Parcel]:
        """For each spool, that this was all; for an attempt without one, that there is none."""
        if not self._sources:
            return self._end_of_nothing()
        waiting = [source for source in self._sources.values() if not source.position.ended]
        parcels = []
        for source in waiting[:ends_max]:
            source.rewind()
            headers = self._headers(source.name, source.records, 0) | {"hr-end": "1"}
            outgoing = Outgoing(self._subject, b"", headers, None)
            parcels.append(Parcel(outgoing, source, source.position.places, source.records, is_end=True))
        return parcels

    def _end_of_nothing(self) -> list[Parcel]:
        position = self._positions.setdefault(NO_SPOOL, SpoolPosition())
        if position.ended:
            return []
        headers = self._headers(NO_SPOOL, 0, 0) | {"hr-end": "1"}
        return [Parcel(Outgoing(self._subject, b"", headers, None), _Nothing(position), 0, 0, is_end=True)]

    def _headers(self, name: str, first: int, count: int) -> dict[str, str]:
        spool = f"{self._ref.job}/{self._ref.attempt}/{ranks.spool(name, self._rank)}"
        return {"hr-spool": spool, "hr-first": str(first), "hr-count": str(count)}

    def _good(self) -> list[_Source]:
        return [
            source for source in self._sources.values() if source.name not in self._bad and not source.position.ended
        ]

    def _add(self, name: str) -> None:
        position = self._positions.get(name, SpoolPosition())
        try:
            spool = Spool(self._folder / name, position=position.places)
        except (BadSpool, OSError) as error:
            self._give_up(name, error)
            return
        self._positions[name] = position
        self._sources[name] = _Source(spool, name, position)

    def _give_up(self, name: str, error: Exception) -> None:
        self._bad.add(name)
        LOG.warning("spool %s of %s/%d is not read: %s", name, self._ref.job, self._ref.attempt, error)
