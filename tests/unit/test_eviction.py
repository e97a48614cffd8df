"""Who is taken out as dead, when that halts, and how a fight over an instance is slowed down."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.reconcile.eviction import Critical, Verdict, decide, hold_s


def critical(instance_id: str = "api-1", **fields: Any) -> Critical:
    return Critical(**{"id": instance_id, "service": "api", "for_s": 31.0, "after_s": 30.0} | fields)


def judged(*found: Critical, instances: int = 100, window_s: float = 10) -> Verdict:
    return decide(found, instances=instances, window_s=window_s)


def test_who_has_been_critical_too_long_is_evicted_and_the_reason_says_what_the_check_said():
    verdict = judged(critical(output="dial tcp 127.0.0.1:8000:\nconnection refused\n"))
    assert verdict.evict == {"api-1": "critical for 31 s, 30 s allowed: dial tcp 127.0.0.1:8000: connection refused"}
    assert (verdict.next_in_s, verdict.halted, verdict.fights) == (None, "", {})


def test_who_has_not_is_left_and_when_its_time_comes_is_told():
    verdict = judged(critical("a", for_s=10.0), critical("b", for_s=25.5), critical("c", for_s=0.0))
    assert (verdict.evict, verdict.next_in_s) == ({}, 4.5)


def test_the_very_second_counts():
    assert judged(critical(for_s=30.0)).evict.keys() == {"api-1"}


def test_who_is_not_ours_or_is_never_to_be_taken_out_stays():
    verdict = judged(critical(for_s=1e6, after_s=None))
    assert (verdict.evict, verdict.next_in_s) == ({}, None)


def test_a_long_output_is_cut():
    (reason,) = judged(critical(output="x" * 4096)).evict.values()
    assert len(reason) < 300


# -- an outage --------------------------------------------------------------------------------------------------------


def test_more_than_half_at_about_the_same_time_is_an_outage_and_nobody_is_evicted():
    verdict = judged(*(critical(str(n), for_s=40.0 + n) for n in range(6)), instances=10)
    assert (verdict.evict, verdict.next_in_s) == ({}, None)
    assert verdict.halted.startswith("6 of 10 instances turned critical within 10 s: an outage")


@pytest.mark.parametrize(
    ("ages", "instances"),
    [
        ([40.0] * 5, 10),  # just half
        ([40.0] * 3, 3),  # three are never an outage
        ([40.0, 60.0, 80.0, 100.0, 120.0, 140.0], 6),  # one after the other
    ],
)
def test_otherwise_it_is_the_services_that_have_died(ages, instances):
    verdict = judged(*(critical(str(n), for_s=age) for n, age in enumerate(ages)), instances=instances)
    assert (len(verdict.evict), verdict.halted) == (len(ages), "")


def test_instances_that_are_not_ours_are_signs_of_an_outage_too():
    strangers = [critical(f"x{n}", after_s=None) for n in range(5)]
    assert judged(critical(), *strangers, instances=8).halted


def test_an_outage_that_lasts_stays_one():
    assert judged(*(critical(str(n), for_s=3600.0 + n) for n in range(6)), instances=10).halted


def test_an_outage_ends_when_enough_of_them_pass_again():
    dead = [critical(str(n), for_s=300.0) for n in range(4)]
    assert judged(*dead, instances=10).evict.keys() == {"0", "1", "2", "3"}


# -- a fight ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("evictions", "hold"), [(0, 0), (2, 0), (3, 60), (4, 120), (5, 240), (6, 480), (7, 600), (1000, 600)]
)
def test_from_the_third_time_in_an_hour_it_is_held_longer_and_longer(evictions, hold):
    assert hold_s(evictions) == hold


def test_one_that_is_registered_again_and_again_though_dead_is_evicted_later_and_named():
    verdict = judged(critical(evictions=4))
    assert (verdict.evict, verdict.next_in_s) == ({}, 89.0)
    assert verdict.fights == {
        "api-1": (
            "reap fight: evicted 4 times in the last hour, because something registers it again though it doesn't "
            "answer; next after 2 min"
        )
    }
    assert judged(critical(evictions=4, for_s=120.0)).evict.keys() == {"api-1"}


def test_an_instance_s_own_longer_wait_is_kept():
    assert judged(critical(evictions=3, after_s=90.0, for_s=89.0)).evict == {}


def test_fights_are_named_during_an_outage_too():
    verdict = judged(critical(evictions=5), *(critical(str(n)) for n in range(6)), instances=8)
    assert verdict.halted
    assert verdict.fights.keys() == {"api-1"}


# -- properties -------------------------------------------------------------------------------------------------------

_some = st.lists(
    st.builds(
        Critical,
        id=st.text("abc", min_size=1, max_size=3),
        service=st.just("api"),
        for_s=st.floats(0, 1000),
        after_s=st.none() | st.sampled_from([30.0, 60.0, 600.0]),
        evictions=st.integers(0, 12),
    ),
    max_size=8,
    unique_by=lambda one: one.id,
)


@given(_some, st.integers(0, 10), st.randoms(use_true_random=False))
def test_nobody_goes_before_its_time_and_the_order_does_not_matter(found, healthy, chance):
    verdict = decide(found, instances=len(found) + healthy, window_s=30)
    for one in found:
        if one.id in verdict.evict:
            assert one.after_s is not None
            assert one.for_s >= max(one.after_s, hold_s(one.evictions))
    assert not (verdict.evict and verdict.halted)
    assert verdict.next_in_s is None or verdict.next_in_s > 0
    chance.shuffle(found)
    assert decide(found, instances=len(found) + healthy, window_s=30) == verdict
