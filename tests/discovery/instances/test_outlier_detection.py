"""Latency and ejection of an endpoint, as calls to it succeed and fail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.discovery.instances.outlier_detection import (
    BASE_EJECTION_S,
    CONSECUTIVE_FAILURES,
    CONSECUTIVE_SERVER_ERRORS,
    MAX_EJECTION_S,
    PROBE_OVERDUE_S,
    FailureKind,
)
from tests.discovery.instances.endpoints import fail, is_ejected, make_endpoints, succeed


def test_endpoint_failures_in_a_row_eject_it_and_a_success_restarts_the_count():
    endpoint, _ = make_endpoints(1, 1)
    fail(endpoint, 1.0, times=CONSECUTIVE_FAILURES - 1)
    succeed(endpoint, 1.0)
    fail(endpoint, 1.0, times=CONSECUTIVE_FAILURES - 1)
    assert not is_ejected(endpoint, 1.0)
    fail(endpoint, 1.0, times=1)
    assert is_ejected(endpoint, 1.0)
    assert endpoint.ejection_reason == "it reset the connection"


def test_endpoint_server_errors_eject_it_later_than_failures():
    endpoint, _ = make_endpoints(1, 1)
    fail(endpoint, 1.0, times=CONSECUTIVE_SERVER_ERRORS - 1, kind=FailureKind.SERVER_ERROR, reason="status 500")
    assert not is_ejected(endpoint, 1.0)
    fail(endpoint, 1.0, times=1, kind=FailureKind.SERVER_ERROR, reason="status 500")
    assert is_ejected(endpoint, 1.0)


def test_endpoint_whose_address_another_instance_has_got_is_ejected_at_once():
    endpoint, _ = make_endpoints(1, 1)
    fail(endpoint, 1.0, times=1, kind=FailureKind.MISDIRECTED, reason="orders-1 answers at its address")
    assert is_ejected(endpoint, 1.0)
    assert endpoint.latency is None, "what another instance took says nothing about it"
    assert endpoint.admit(endpoint.ejected_until, repeatable=False), "it has received nothing"


def test_endpoint_reason_text_does_not_decide_the_limit():
    endpoint, _ = make_endpoints(1, 1)
    fail(endpoint, 1.0, kind=FailureKind.NO_REPLY, reason="status line is malformed")
    assert is_ejected(endpoint, 1.0)


def test_endpoint_ejections_in_a_row_double_in_length_up_to_the_maximum():
    endpoint, _ = make_endpoints(1, 1)
    now, lengths = 1.0, []
    fail(endpoint, now)
    for _ in range(8):
        lengths.append(endpoint.ejected_until - now)
        now = endpoint.ejected_until
        assert endpoint.admit(now, repeatable=True), "a probe"
        fail(endpoint, now, times=1)
    assert lengths == [min(MAX_EJECTION_S, BASE_EJECTION_S * 2**number) for number in range(8)]


def test_endpoint_healthy_for_as_long_as_it_was_ejected_starts_with_the_base_ejection():
    endpoint, _ = make_endpoints(1, 1)
    fail(endpoint, 1.0)
    ejection_end = endpoint.ejected_until
    assert endpoint.admit(ejection_end, repeatable=True)
    succeed(endpoint, ejection_end)
    assert not is_ejected(endpoint, ejection_end)
    succeed(endpoint, ejection_end + MAX_EJECTION_S)
    fail(endpoint, ejection_end + 100)
    assert endpoint.ejected_until == ejection_end + 100 + BASE_EJECTION_S


def test_admit_after_ejection_lets_one_call_through_as_probe():
    endpoint, _ = make_endpoints(1, 1)
    fail(endpoint, 1.0)
    now = endpoint.ejected_until
    assert not endpoint.admit(now - 0.01, repeatable=True)
    assert [endpoint.admit(now, repeatable=True) for _ in range(3)] == [True, False, False]


def test_admit_probe_without_a_result_is_followed_by_another_probe():
    endpoint, _ = make_endpoints(1, 1)
    fail(endpoint, 1.0)
    assert endpoint.admit(endpoint.ejected_until, repeatable=True)
    assert endpoint.admit(endpoint.ejected_until, repeatable=True)


def test_admit_call_that_is_not_repeatable_is_a_probe_only_if_overdue_or_after_a_refusal():
    reset, refusing = make_endpoints(1, 1)
    fail(reset, 1.0)
    assert not reset.admit(reset.ejected_until, repeatable=False)
    assert reset.admit(reset.ejected_until + PROBE_OVERDUE_S + 1, repeatable=False)
    succeed(reset, 99.0)
    fail(refusing, 100.0, kind=FailureKind.NOT_SENT)
    assert refusing.admit(refusing.ejected_until, repeatable=False)


def test_record_overtaken_counts_as_failure_only_after_a_long_silence():
    endpoint, _ = make_endpoints(1, 1)
    for _ in range(CONSECUTIVE_FAILURES):
        endpoint.start_attempt(1.0)
        endpoint.record_overtaken(1.2, duration_s=0.2)
    assert (endpoint.failures_in_row, endpoint.latency) == (0, 0.2)
    for _ in range(CONSECUTIVE_FAILURES):
        endpoint.start_attempt(2.0)
        endpoint.record_overtaken(4.0, duration_s=2.0)
    assert is_ejected(endpoint, 4.0)


def test_latency_rises_at_once_and_falls_slowly():
    endpoint, _ = make_endpoints(1, 1)
    succeed(endpoint, 1.0, duration_s=0.1)
    succeed(endpoint, 1.1, duration_s=1.0)
    assert endpoint.latency == 1.0
    succeed(endpoint, 1.2, duration_s=0.1)
    assert 0.9 < endpoint.latency < 1.0
    assert endpoint.cost(1.2) > endpoint.cost(10.0) > endpoint.cost(60.0)


def test_latency_is_not_measured_from_a_refused_connection():
    endpoint, _ = make_endpoints(1, 1)
    fail(endpoint, 1.0, times=1, kind=FailureKind.NOT_SENT, reason="connection refused")
    assert endpoint.latency is None
    fail(endpoint, 1.0, times=1, reason="no answer in time")
    assert endpoint.latency == 0.001


def test_set_endpoints_without_an_ejected_one_counts_its_ejection_no_more():
    first, second, third, fourth = make_endpoints(1, 1, 1, 1)
    fail(first, 1.0)
    fail(second, 1.0)
    first.outlier_detector.set_endpoints([second, third, fourth])
    fail(third, 1.0)
    ejected = [is_ejected(endpoint, 1.0) for endpoint in (second, third)]
    assert ejected == [True, False], "two of three would be too many"


EVENTS = ["start", "success", "no reply", "not sent", "server error", "overtaken", "cancelled"]


@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 5), st.sampled_from(EVENTS)), max_size=80))
@pytest.mark.parametrize("pace", [0.1, 3.0])
def test_outlier_detector_any_events_eject_at_most_half_and_keep_counters_consistent(pace, count, events):
    endpoints, now = make_endpoints(*[1] * count), 1.0
    for number, event in events:
        endpoint, now = endpoints[number % count], now + pace
        endpoint.admit(now, repeatable=True)
        match event:
            case "start":
                endpoint.start_attempt(now)
            case "success":
                endpoint.record_success(now, duration_s=0.01)
            case "overtaken":
                endpoint.record_overtaken(now, duration_s=2.0)
            case "cancelled":
                endpoint.record_cancelled(now)
            case _:
                endpoint.record_failure(now, duration_s=0.01, kind=FailureKind(event), reason=event)
        assert 2 * len(endpoint.outlier_detector.ejected) <= count
        assert all(endpoint.outstanding >= 0 and endpoint.cost(now) > 0 for endpoint in endpoints)
        assert {endpoint for endpoint in endpoints if endpoint.ejected_until} == endpoint.outlier_detector.ejected
