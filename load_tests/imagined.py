"""What a trace without users and limits could have had: who ran a job under which name, and which limit it gave.

The Lublin traces have run times only. Names: people run the same thing again and again, for about as long as before. So
a job's name is the octave of its run time, off by `SPREAD` octaves (standard deviation): the last two runs of a name
say something, and are often wrong. Limits: a few times the run time, as people give them (Tsafrir, Etsion,
Feitelson, "Modeling User Runtime Estimates", JSSPP 2005: round values, far too long). The dice are an argument.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from controlplane.scheduling.replay import Arrival

SPREAD: Final = 1.0
FACTOR_MEAN: Final = 3.0
POPULAR_S: Final = tuple(60.0 * n for n in (5, 15, 30, 60, 120, 240, 480, 720, 1440, 2160, 2880, 4320, 7200, 10080))


def imagined(arrivals: Iterable[Arrival], dice: random.Random) -> Iterator[Arrival]:
    """The same jobs with names and limits."""
    for arrival in arrivals:
        name = str(round(math.log2(max(1.0, arrival.runs_s)) + dice.gauss(0, SPREAD)))
        wanted_s = arrival.runs_s * (1 + dice.expovariate(1 / (FACTOR_MEAN - 1)))
        limit_s = next((popular_s for popular_s in POPULAR_S if popular_s >= wanted_s), wanted_s)
        changes = {"name": name, "time_limit_s": limit_s}
        yield arrival._replace(specification=msgspec.structs.replace(arrival.specification, **changes))
