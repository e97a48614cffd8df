"""How much may be tried again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from registry_admin.discovery.budget import RESERVE, SHARE, WINDOW_S, RetryBudget


def test_a_few_retries_are_always_possible_and_then_one_for_five_calls():
    budget = RetryBudget(clock=lambda: 0.0)
    assert sum(budget.try_retry(0.0) for _ in range(100)) == RESERVE
    for _ in range(50):
        budget.call(0.0)
    assert sum(budget.try_retry(0.0) for _ in range(100)) == 50 * SHARE


def test_what_was_used_comes_back_with_time():
    budget = RetryBudget(clock=lambda: 0.0)
    while budget.try_retry(0.0):
        pass
    assert not budget.try_retry(0.5)
    assert budget.try_retry(WINDOW_S)


def test_a_clock_that_stands_still_or_goes_back_changes_nothing():
    budget = RetryBudget(clock=lambda: 100.0)
    budget.call(50.0)
    assert sum(budget.try_retry(50.0) for _ in range(100)) == RESERVE


@given(st.lists(st.tuples(st.floats(0, 2), st.booleans()), max_size=300))
def test_in_any_outage_no_more_is_sent_than_a_fifth_and_a_few_a_second(happens):
    budget, now, calls, retries = RetryBudget(clock=lambda: 0.0), 0.0, 0, 0
    for passes, is_call in happens:
        now += passes
        if is_call:
            budget.call(now)
            calls += 1
        retries += budget.try_retry(now)
    assert retries <= RESERVE + SHARE * calls + (RESERVE + SHARE * calls) * now / WINDOW_S
