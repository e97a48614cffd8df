"""What counts as late among a service's response times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.discovery.instances.response_times import MIN_RESPONSES, ResponseTimes


def recorded(*seconds: float) -> ResponseTimes:
    times = ResponseTimes()
    for duration_s in seconds:
        times.record(duration_s)
    return times


def test_late_is_unknown_before_there_are_enough_responses():
    assert recorded(*[0.01] * (MIN_RESPONSES - 1)).late_s is None
    assert recorded(*[0.01] * MIN_RESPONSES).late_s == pytest.approx(0.01, rel=0.25)


def test_late_ignores_the_slowest_hundredth():
    assert recorded(*[5.0] * 10, *[0.02] * 990).late_s == pytest.approx(0.02, rel=0.25)
    assert recorded(*[5.0] * 30, *[0.02] * 970).late_s == pytest.approx(5.0, rel=0.25)


def test_late_follows_a_service_that_gets_slower_or_quicker():
    times = recorded(*[0.01] * 10_000, *[0.5] * 100)
    assert times.late_s == pytest.approx(0.5, rel=0.25)
    for _ in range(20_000):
        times.record(0.01)
    assert times.late_s == pytest.approx(0.01, rel=0.25)


@given(st.lists(st.floats(min_value=0.0, max_value=1e6), min_size=MIN_RESPONSES, max_size=200))
def test_late_is_never_below_almost_all_of_the_responses(durations):
    durations = durations[: len(durations) // MIN_RESPONSES * MIN_RESPONSES]
    late_s = recorded(*durations).late_s
    assert late_s is not None
    assert sum(duration > late_s * 1.001 and late_s < 500 for duration in durations) <= 0.01 * len(durations)
