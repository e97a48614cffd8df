"""What is learnt of an instance from calls: its latency, and whether it is left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.consul import Health, ServiceInstance
from registry_admin.discovery.endpoint import (
    EJECTION_S,
    FAILURES,
    LONGEST_EJECTION_S,
    OVERDUE_S,
    SERVER_ERRORS,
    Endpoint,
    Outliers,
)


def endpoints(count: int) -> list[Endpoint]:
    outliers = Outliers()
    made = [
        Endpoint(
            ServiceInstance(service="api", id=f"api-{n}", address="10.0.0.1", port=80, health=Health.PASSING),
            outliers,
            now=0.0,
            warm=True,
        )
        for n in range(count)
    ]
    outliers.keep(made)
    return made


def fail(
    endpoint: Endpoint, now: float, *, times: int = FAILURES, reason: str = "it reset the connection", **how: bool
) -> None:
    for _ in range(times):
        endpoint.began(now)
        endpoint.failed(now, took=0.001, reason=reason, **how)


def succeed(endpoint: Endpoint, now: float, *, took: float = 0.001) -> None:
    endpoint.began(now)
    endpoint.succeeded(now, took=took)


def test_failures_in_a_row_eject_and_a_success_between_them_starts_anew():
    one, _ = endpoints(2)
    fail(one, 1.0, times=FAILURES - 1)
    succeed(one, 1.0)
    fail(one, 1.0, times=FAILURES - 1)
    assert not one.is_ejected(1.0)
    fail(one, 1.0, times=1)
    assert one.is_ejected(1.0)
    assert one.ejection_reason == "it reset the connection"


def test_server_errors_eject_later():
    one, _ = endpoints(2)
    fail(one, 1.0, times=SERVER_ERRORS - 1, reason="status 500")
    assert not one.is_ejected(1.0)
    fail(one, 1.0, times=1, reason="status 500")
    assert one.is_ejected(1.0)


def test_each_ejection_in_a_row_lasts_twice_as_long_up_to_a_limit():
    one, _ = endpoints(2)
    now, lengths = 1.0, []
    fail(one, now)
    for _ in range(8):
        lengths.append(one.ejected_until - now)
        now = one.ejected_until
        assert one.take(now, repeatable=True), "a probe"
        fail(one, now, times=1)
    assert lengths == [min(LONGEST_EJECTION_S, EJECTION_S * 2**n) for n in range(8)]


def test_what_was_well_for_as_long_as_it_was_left_out_is_forgiven():
    one, _ = endpoints(2)
    fail(one, 1.0)
    back = one.ejected_until
    assert one.take(back, repeatable=True)
    succeed(one, back)
    assert not one.is_ejected(back)
    succeed(one, back + LONGEST_EJECTION_S)
    fail(one, back + 100)
    assert one.ejected_until == back + 100 + EJECTION_S


def test_only_one_call_is_let_through_as_a_probe():
    one, _ = endpoints(2)
    fail(one, 1.0)
    now = one.ejected_until
    assert not one.take(now - 0.01, repeatable=True)
    assert [one.take(now, repeatable=True) for _ in range(3)] == [True, False, False]


def test_a_probe_of_which_nothing_is_heard_is_not_the_last():
    one, _ = endpoints(2)
    fail(one, 1.0)
    assert one.take(one.ejected_until, repeatable=True)
    assert one.take(one.ejected_until, repeatable=True)


def test_what_may_go_once_only_is_no_probe_unless_it_was_refused_or_is_long_overdue():
    one, other = endpoints(2)
    fail(one, 1.0)
    assert not one.take(one.ejected_until, repeatable=False)
    assert one.take(one.ejected_until + OVERDUE_S + 1, repeatable=False)
    succeed(one, 99.0)
    fail(other, 100.0, refused=True)
    assert other.take(other.ejected_until, repeatable=False)


def test_silence_while_another_answers_is_a_failure_only_if_it_was_long():
    one, _ = endpoints(2)
    for _ in range(FAILURES):
        one.began(1.0)
        one.abandoned(1.2, took=0.2)
    assert (one.failures_in_row, one.latency) == (0, 0.2)
    for _ in range(FAILURES):
        one.began(2.0)
        one.abandoned(4.0, took=2.0)
    assert one.is_ejected(4.0)


def test_latency_rises_at_once_and_falls_slowly():
    one, _ = endpoints(2)
    succeed(one, 1.0, took=0.1)
    succeed(one, 1.1, took=1.0)
    assert one.latency == 1.0
    succeed(one, 1.2, took=0.1)
    assert 0.9 < one.latency < 1.0
    assert one.cost(1.2) > one.cost(10.0) > one.cost(60.0)


def test_refusing_is_quick_and_says_nothing_about_latency():
    one, _ = endpoints(2)
    fail(one, 1.0, times=1, reason="connection refused", refused=True)
    assert one.latency is None
    fail(one, 1.0, times=1, reason="no answer in time")
    assert one.latency == 0.001


def test_a_service_that_shrinks_forgets_who_was_ejected():
    one, two, three, four = endpoints(4)
    fail(one, 1.0)
    fail(two, 1.0)
    one.outliers.keep([two, three, four])
    fail(three, 1.0)
    assert [endpoint.is_ejected(1.0) for endpoint in (two, three)] == [True, False], "two of three would be too many"


events = st.tuples(st.integers(0, 5), st.sampled_from(["began", "ok", "broken", "refused", "500", "late", "gone"]))


@given(st.integers(1, 6), st.lists(events, max_size=80))
@pytest.mark.parametrize("pace", [0.1, 3.0])
def test_whatever_happens_no_more_than_half_are_ejected_and_nothing_is_counted_twice(pace, count, happens):
    made, now = endpoints(count), 1.0
    for number, event in happens:
        endpoint, now = made[number % count], now + pace
        endpoint.take(now, repeatable=True)
        match event:
            case "began":
                endpoint.began(now)
            case "ok":
                endpoint.succeeded(now, took=0.01)
            case "late":
                endpoint.abandoned(now, took=2.0)
            case "gone":
                endpoint.cancelled(now)
            case _:
                reason = "status 500" if event == "500" else event
                endpoint.failed(now, took=0.01, reason=reason, refused=event == "refused")
        assert 2 * len(endpoint.outliers.ejected) <= count
        assert all(one.outstanding >= 0 and one.cost(now) > 0 for one in made)
        assert {one for one in made if one.ejected_until} == endpoint.outliers.ejected
