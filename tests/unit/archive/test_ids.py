"""Ids of archived jobs: packed, kept, and never mistaken."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.submission.archived import Archived, Ids
from events import messages as m
from events.identity import job_id, pack, unpack

JOBS = st.lists(st.text(alphabet="abcdefghijklmnopqrstuvwxyz234567", min_size=12, max_size=12).map("j-".__add__))


@given(JOBS)
def test_packing_keeps_every_character_and_the_order(jobs: list[str]) -> None:
    assert [unpack(pack(job)) for job in jobs] == jobs
    assert all(len(pack(job)) == 8 for job in jobs)


@pytest.mark.parametrize("text", ["", "j-", "j-abcdefghij1z", "j-abcdefghijklm", "train", "j-ABCDEFGHIJKL"])
def test_what_is_no_id_cannot_be_packed_and_is_not_archived(text: str) -> None:
    with pytest.raises(ValueError, match="not the id"):
        pack(text)
    assert text not in Ids()


def test_every_id_is_found_among_many_and_no_other() -> None:
    jobs = [job_id(team="t", user="u", client_id=str(number)) for number in range(2_000)]
    there, others = jobs[:1_000], jobs[1_000:]
    random.Random(3).shuffle(there)
    ids = Ids()
    for start in range(0, 1_000, 37):
        some = b"".join(map(pack, there[start : start + 37]))
        ids.add(some)
        ids.add(some)
    assert len(ids) == 1_000
    assert all(job in ids for job in there)
    assert not any(job in ids for job in others)


def test_a_rejected_job_is_told_from_the_others() -> None:
    good, bad = (job_id(team="t", user="u", client_id=name) for name in ("good", "bad"))
    known = Archived()
    packed = b"".join(sorted((pack(good), pack(bad))))
    known.apply(m.ArchiveWritten(name="n", digest="d", size_bytes=1, jobs=packed, rejected=pack(bad)))
    assert (good in known.jobs, bad in known.jobs) == (True, True)
    assert (good in known.rejected, bad in known.rejected) == (False, True)
