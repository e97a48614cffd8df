"""Limits of retries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from registry_admin.discovery.instances.retry_budget import RESERVE, SHARE, WINDOW_S, RetryBudget


def test_try_retry_allows_the_reserve_and_then_a_share_of_calls():
    budget = RetryBudget(clock=lambda: 0.0)
    assert sum(budget.try_retry(0.0) for _ in range(100)) == RESERVE
    for _ in range(50):
        budget.record_call(0.0)
    assert sum(budget.try_retry(0.0) for _ in range(100)) == 50 * SHARE


def test_try_retry_after_window_is_allowed_again():
    budget = RetryBudget(clock=lambda: 0.0)
    while budget.try_retry(0.0):
        pass
    assert not budget.try_retry(0.5)
    assert budget.try_retry(WINDOW_S)


def test_try_retry_clock_going_back_changes_no_limit():
    budget = RetryBudget(clock=lambda: 100.0)
    budget.record_call(50.0)
    assert sum(budget.try_retry(50.0) for _ in range(100)) == RESERVE


@given(st.lists(st.tuples(st.floats(0, 2), st.booleans()), max_size=300))
def test_try_retry_in_any_outage_stays_below_the_share_of_calls(events):
    budget, now, calls, retries = RetryBudget(clock=lambda: 0.0), 0.0, 0, 0
    for pause_s, is_call in events:
        now += pause_s
        if is_call:
            budget.record_call(now)
            calls += 1
        retries += budget.try_retry(now)
    assert retries <= RESERVE + SHARE * calls + (RESERVE + SHARE * calls) * now / WINDOW_S
