"""Eviction decisions: observed time, rounds, our own probe, halts and what follows them, and contention."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.reconcile.eviction import (
    Clock,
    EvictionDecision,
    EvictionState,
    WatchedInstance,
    decide_evictions,
    eviction_hold_s,
    return_hold_s,
)
from registry_admin.reconcile.outage import Group, GroupKind, Place

DATACENTER = Group(GroupKind.DATACENTER, "")
Round = tuple[float, Iterable[WatchedInstance]]


def watched(name: str = "api-1", *, service: str = "api", **fields: Any) -> WatchedInstance:
    groups = (DATACENTER, Group(GroupKind.NODE, "n"), Group(GroupKind.SERVICE, service))
    defaults = {"evict_after_s": 30.0, "first_check_s": 15.0}
    return WatchedInstance(**{"place": ("n", name), "service": service, "groups": groups} | defaults | fields)


def healthy(count: int = 30) -> list[WatchedInstance]:
    """Returns instances that pass, so that what else fails is no outage."""
    return [watched(f"ok-{n}", service=f"ok-{n}", is_critical=False) for n in range(count)]


def run(*rounds: Round, state: EvictionState | None = None) -> tuple[EvictionState, EvictionDecision]:
    """Returns the state and the decision after rounds of (seconds since the one before, instances)."""
    state = state or EvictionState()
    decision = EvictionDecision()
    for elapsed_s, instances in rounds:
        state = state.next(instances, elapsed_s=elapsed_s)
        decision = decide_evictions(state, instances)
    return state, decision


def decide_after(seconds: float, *instances: WatchedInstance, passing: int = 30) -> EvictionDecision:
    """Returns the decision after `seconds` in rounds of 10 s at most."""
    everybody = [*instances, *healthy(passing)]
    steps = [10.0] * int(seconds // 10) + ([seconds % 10] if seconds % 10 else [])
    return run((0, everybody), *((step, everybody) for step in steps))[1]


def names(places: Iterable[Place]) -> set[str]:
    return {place[-1] for place in places}


# -- time ------------------------------------------------------------------------------------------------------------


def test_instance_critical_too_long_is_evicted_with_check_output_as_reason():
    decision = decide_after(31, watched(output="dial tcp 127.0.0.1:8000:\nconnection refused\n"))
    assert decision.evict == {
        ("n", "api-1"): "critical for 31 s, 30 s allowed: dial tcp 127.0.0.1:8000: connection refused"
    }
    assert (decision.halted, decision.contention) == ("", {})


def test_instance_critical_for_exactly_the_limit_is_evicted():
    assert names(decide_after(30, watched()).evict) == {"api-1"}


def test_instance_critical_briefly_stays_and_next_round_is_due_with_its_limit():
    decision = decide_after(25.5, watched())
    assert (decision.evict, decision.next_in_s) == ({}, 4.5)


def test_rounds_follow_each_other_within_ten_seconds_while_time_runs():
    assert decide_after(0, watched()).next_in_s == 10
    assert decide_after(0, watched(evict_after_s=600.0)).next_in_s == 10
    assert decide_after(0, watched(evict_after_s=3.0)).next_in_s == 1


def test_only_instance_of_the_inventory_is_evicted():
    assert names(decide_after(30, watched(), passing=0).evict) == {"api-1"}


def test_instance_without_eviction_limit_stays():
    decision = decide_after(1000, watched(evict_after_s=None))
    assert (decision.evict, decision.next_in_s) == ({}, None)


def test_time_between_distant_rounds_counts_fifteen_seconds_at_most():
    everybody = [watched(), *healthy()]
    _, decision = run((0, everybody), (3600, everybody), (14, everybody))
    assert (decision.evict, decision.next_in_s) == ({}, 1)


def test_unobserved_time_does_not_count():
    everybody = [watched(), *healthy()]
    _, decision = run((0, everybody), (10, everybody), (0, everybody), (10, everybody))
    assert decision.evict == {}
    assert decision.next_in_s == 10


def test_instance_seen_critical_in_two_rounds_only_stays():
    state = EvictionState(clocks={("n", "api-1"): Clock(critical_s=300, counted_s=300)})
    everybody = [watched(), *healthy()]
    state, decision = run((10, everybody), (10, everybody), state=state)
    assert decision.evict == {}
    assert names(run((1, everybody), state=state)[1].evict) == {"api-1"}


def test_instance_that_passed_in_between_starts_anew():
    critical, passing = [watched(), *healthy()], [watched(is_critical=False), *healthy()]
    _, decision = run((0, critical), (15, critical), (5, passing), (5, critical), (15, critical), (10, critical))
    assert decision.evict == {}
    assert decision.next_in_s == 5


def test_first_check_that_failed_starts_the_time_anew():
    starting, critical = [watched(is_starting=True), *healthy()], [watched(), *healthy()]
    _, decision = run((0, starting), (15, starting), (15, critical), (15, critical), (14, critical))
    assert (decision.evict, decision.next_in_s) == ({}, 1)


def test_starting_instance_gets_the_time_of_its_first_check():
    assert decide_after(40, watched(is_starting=True, evict_after_s=10.0, first_check_s=60.0)).evict == {}
    assert decide_after(60, watched(is_starting=True, evict_after_s=10.0, first_check_s=60.0)).evict


def test_long_check_output_in_reason_is_truncated():
    (reason,) = decide_after(30, watched(output="x" * 4096)).evict.values()
    assert len(reason) < 300


# -- our own probe ---------------------------------------------------------------------------------------------------


def test_instance_is_probed_shortly_before_it_is_due():
    assert decide_after(10, watched(answers=None)).probe == set()
    assert names(decide_after(20, watched(answers=None)).probe) == {"api-1"}


def test_instance_whose_probe_has_not_ended_waits_for_it():
    decision = decide_after(60, watched(answers=None))
    assert decision.evict == {}
    assert decision.next_in_s is not None


def test_instance_that_answers_us_stays_and_a_remark_says_so():
    decision = decide_after(60, watched(answers=True))
    assert (decision.evict, decision.next_in_s) == ({}, 60)
    assert "it answers Registry Admin" in decision.contention["n", "api-1"]


# -- outages ---------------------------------------------------------------------------------------------------------


def outage(down: int, total: int, *, service: str = "", **fields: Any) -> list[WatchedInstance]:
    """Returns instances of as many services, of which the first `down` are critical."""
    return [watched(f"s{n}", service=service or f"s{n}", is_critical=n < down, **fields) for n in range(total)]


def test_outage_of_the_datacenter_halts_evictions_and_says_so():
    _, decision = run((0, outage(6, 10)), *[(10, outage(6, 10))] * 6)
    assert decision.evict == {}
    assert decision.halted.startswith("6 of 10 in datacenter are down at once: an outage")


def test_outage_is_not_reported_before_it_withholds_an_eviction():
    _, decision = run((0, outage(6, 10)), (10, outage(6, 10)))
    assert (decision.evict, decision.halted, decision.next_in_s) == ({}, "", 10)


def test_outage_of_all_instances_of_a_service_halts_that_service_only():
    everybody = [*outage(2, 2, service="api"), watched("lone", service="lone"), *healthy()]
    _, decision = run((0, everybody), *[(10, everybody)] * 3)
    assert names(decision.evict) == {"lone"}
    assert decision.halted.startswith("2 of 2 in service api are down at once")


def test_outage_halts_instances_of_different_intervals():
    quick = [watched(f"q{n}", service=f"q{n}", evict_after_s=10.0) for n in range(3)]
    slow = [watched(f"s{n}", service=f"s{n}", evict_after_s=120.0, is_critical=n < 2) for n in range(9)]
    _, decision = run((0, [*quick, *slow]), *[(10, [*quick, *slow])] * 20)
    assert decision.evict == {}
    assert decision.halted


def test_starting_instances_count_neither_as_down_nor_as_up():
    starting = outage(9, 9, is_starting=True, first_check_s=600.0)
    _, decision = run((0, [*starting, watched()]), *[(10, [*starting, watched()])] * 3)
    assert names(decision.evict) == {"api-1"}


def test_instances_evicted_a_moment_ago_count_as_down():
    evicted = [watched(f"gone{n}", service=f"gone{n}", evict_after_s=None) for n in range(2)]
    everybody = [*evicted, watched(), *healthy(7)]
    _, decision = run((0, everybody), *[(10, everybody)] * 6)
    assert decision.evict == {}
    assert decision.halted.startswith("3 of 10 in datacenter")


def test_outage_that_lasts_halts_evictions_for_ever():
    _, decision = run((0, outage(3, 4)), *[(10, outage(3, 4))] * 1000)
    assert decision.evict == {}
    assert decision.halted


def test_instances_that_wait_for_their_check_after_an_outage_are_not_evicted():
    """18 of 30 were down, all are started again, and pass one after the other."""
    rounds: list[Round] = [(0, outage(18, 30)), *[(10.0, outage(18, 30))] * 5]
    rounds += [(1.0, outage(down, 30)) for down in range(17, -1, -1)]
    state = EvictionState()
    for elapsed_s, instances in rounds:
        state, decision = run((elapsed_s, instances), state=state)
        assert decision.evict == {}
    assert state.halts


def test_time_of_instance_that_stays_dead_starts_when_the_outage_ends():
    after = [(10.0, outage(1, 30))]
    state, decision = run((0, outage(18, 30)), *[(10.0, outage(18, 30))] * 5, *after * 7)
    assert (state.halts, decision.evict) == ({}, {})
    state, decision = run(*after * 2, state=state)
    assert decision.evict == {}
    assert names(run(*after, state=state)[1].evict) == {"s0"}


def test_instance_held_by_an_outage_gets_at_least_interval_and_timeout_afterwards():
    dead = {"evict_after_s": 5.0, "first_check_s": 40.0}
    state, _ = run(
        (0, outage(6, 10, **dead)), *[(10.0, outage(6, 10, **dead))] * 5, *[(10.0, outage(1, 10, **dead))] * 7
    )
    assert not state.halts
    state, decision = run(*[(10.0, outage(1, 10, **dead))] * 3, state=state)
    assert decision.evict == {}
    assert names(run((10.0, outage(1, 10, **dead)), state=state)[1].evict) == {"s0"}


def test_calm_after_an_outage_is_looked_at_every_ten_seconds():
    _, decision = run((0, outage(6, 10)), (10, outage(6, 10)), (10, outage(0, 10)))
    assert decision.next_in_s == 10


def test_confirmed_instances_are_evicted_and_others_are_counted_without_them():
    dead = outage(3, 4)
    state, decision = run((0, dead), *[(10, dead)] * 6)
    assert decision.evict == {}
    confirmed = frozenset(instance.place for instance in dead if instance.is_critical)
    state = EvictionState(clocks=state.clocks, halts=state.halts, confirmed=confirmed)
    _, decision = run(*[(10, dead)] * 3, state=state)
    assert names(decision.evict) == {"s0", "s1", "s2"}


def test_confirmation_ends_when_the_instance_passes():
    state = EvictionState(confirmed=frozenset({("n", "s0")}))
    state, _ = run((10, outage(0, 4)), state=state)
    assert state.confirmed == frozenset()


# -- contention ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("evictions", "hold"), [(0, 0), (2, 0), (3, 60), (4, 120), (5, 240), (6, 480), (7, 600), (1000, 600)]
)
def test_hold_grows_from_the_third_eviction_within_an_hour(evictions, hold):
    assert eviction_hold_s(evictions) == hold


@pytest.mark.parametrize(("relapses", "hold"), [(0, 0), (1, 30), (2, 60), (3, 120), (5, 480), (1000, 480)])
def test_time_to_the_next_return_doubles_with_each_relapse_up_to_eight_minutes(relapses, hold):
    assert return_hold_s(relapses) == hold


def test_instance_evicted_repeatedly_is_evicted_later_and_reported_as_contention():
    decision = decide_after(31, watched(evictions=4))
    assert decision.evict == {}
    assert decision.contention == {
        ("n", "api-1"): (
            "reap fight: evicted 4 times in the last hour, because something registers it again though it doesn't "
            "answer; next after 2 min"
        )
    }
    assert names(decide_after(120, watched(evictions=4)).evict) == {"api-1"}


def test_instance_limit_longer_than_the_hold_takes_precedence():
    decision = decide_after(89, watched(evictions=3, evict_after_s=90.0))
    assert (decision.evict, decision.next_in_s) == ({}, 1.0)


# -- properties ------------------------------------------------------------------------------------------------------

_instances = st.lists(
    st.builds(
        watched,
        name=st.sampled_from("abcdefgh"),
        service=st.sampled_from(["x", "y"]),
        is_critical=st.booleans(),
        is_starting=st.booleans(),
        evict_after_s=st.none() | st.sampled_from([5.0, 30.0, 60.0]),
        evictions=st.integers(0, 6),
        answers=st.sampled_from([None, True, False]),
    ),
    max_size=8,
    unique_by=lambda instance: instance.place,
)
_rounds = st.lists(st.tuples(st.floats(0, 30), _instances), min_size=1, max_size=12)


@given(_rounds)
def test_evictions_respect_time_rounds_probes_and_halts(rounds):
    state = EvictionState()
    seen: dict[Place, list[float]] = {}  # observed seconds of each round in a row in which it was critical
    for elapsed_s, instances in rounds:
        state, decision = run((elapsed_s, instances), state=state)
        critical = {instance.place for instance in instances if instance.is_critical}
        seen = {place: [*seen.get(place, []), min(elapsed_s, 15.0)] for place in critical}
        for instance in instances:
            if instance.place in decision.evict:
                assert instance.evict_after_s is not None
                assert instance.answers is False
                assert len(seen[instance.place]) >= 3
                assert sum(seen[instance.place][1:]) >= max(instance.evict_after_s, eviction_hold_s(instance.evictions))
                assert state.halts.keys().isdisjoint(instance.groups)
        assert decision.next_in_s is None or decision.next_in_s > 0


@given(_rounds, st.randoms(use_true_random=False))
def test_evictions_are_independent_of_input_order(rounds, chance):
    shuffled = [(elapsed_s, chance.sample(instances, len(instances))) for elapsed_s, instances in rounds]
    assert run(*rounds)[1] == run(*shuffled)[1]


@given(st.integers(2, 30), st.integers(0, 30), st.lists(st.floats(0, 15), max_size=10))
def test_nobody_is_evicted_while_a_whole_service_or_a_fifth_is_down(down, passing, elapsed):
    everybody = [*outage(down, down, service="api"), *healthy(passing)]
    assert run((0, everybody), *((seconds, everybody) for seconds in elapsed))[1].evict == {}
