"""The Lease: who may act, by one's own clock."""

import pytest

from controlplane.pool.election import LEASE_S, RENEW_S_MAX, Election, written


def a_lease(holder, renewed="t1", **spec):
    return {"spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": LEASE_S, **spec}}


@pytest.fixture
def election():
    return Election("me")


def test_where_there_is_none_one_is_made(election):
    assert election.step(None, 100.0) == "create"


def test_what_nobody_holds_is_taken(election):
    assert election.step(a_lease(""), 100.0) == "take"


def test_ones_own_is_renewed(election):
    assert election.step(a_lease("me"), 100.0) == "renew"


def test_another_ones_is_taken_when_it_has_not_changed_for_its_duration(election):
    assert election.step(a_lease("other"), 100.0) == "wait"
    assert election.step(a_lease("other"), 100.0 + LEASE_S - 0.1) == "wait"
    assert election.step(a_lease("other"), 100.0 + LEASE_S) == "take"


def test_a_renewal_by_the_other_begins_anew_whatever_its_clock_says(election):
    election.step(a_lease("other", "in the past"), 100.0)
    assert election.step(a_lease("other", "in the far future"), 110.0) == "wait"
    assert election.step(a_lease("other", "in the far future"), 110.0 + LEASE_S - 0.1) == "wait"
    assert election.step(a_lease("other", "in the far future"), 110.0 + LEASE_S) == "take"


def test_the_duration_is_what_its_holder_says(election):
    election.step(a_lease("other", leaseDurationSeconds=60), 100.0)
    assert election.step(a_lease("other", leaseDurationSeconds=60), 159.0) == "wait"
    assert election.step(a_lease("other", leaseDurationSeconds=60), 160.0) == "take"


@pytest.mark.parametrize("spec", [None, [], {"leaseDurationSeconds": "x", "holderIdentity": 7}])
def test_a_lease_that_is_no_lease_is_waited_for_and_taken(election, spec):
    election.step({"spec": spec}, 100.0)
    assert election.step({"spec": spec}, 100.0 + LEASE_S) == "take"


def test_who_could_not_renew_acts_no_more_before_anybody_else_may(election):
    assert not election.leads(100.0)
    election.on_written(a_lease("me"), 100.0)
    assert election.leads(100.0 + RENEW_S_MAX - 0.1)
    assert not election.leads(100.0 + RENEW_S_MAX)
    assert RENEW_S_MAX < LEASE_S


def test_who_has_lost_it_acts_no_more(election):
    election.on_written(a_lease("me"), 100.0)
    election.on_lost()
    assert not election.leads(100.1)


def test_what_is_written_says_when_it_was_acquired_and_how_often_it_changed_hands():
    first = written(None, "create", "a", 0.0)
    assert first["renewTime"] == first["acquireTime"] == "1970-01-01T00:00:00.000000Z"
    renewed = written({"spec": first}, "renew", "a", 5.5)
    assert (renewed["acquireTime"], renewed["renewTime"]) == (first["acquireTime"], "1970-01-01T00:00:05.500000Z")
    taken = written({"spec": renewed}, "take", "b", 20.0)
    assert (taken["holderIdentity"], taken["leaseTransitions"]) == ("b", 1)
    assert taken["acquireTime"] == taken["renewTime"]
