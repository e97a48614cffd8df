"""The retry rules."""

from __future__ import annotations

import itertools

import pytest

from registry_admin.discovery.calls.retry import RetryDecision, decide_retry, parse_retry_after, retry_pause_s
from registry_admin.errors import Outcome

STOP, AT_ONCE, BACKOFF = RetryDecision.STOP, RetryDecision.RETRY_AT_ONCE, RetryDecision.RETRY_AFTER_BACKOFF
STATUSES = (200, 204, 302, 400, 404, 409, 429, 500, 501, 502, 503, 504)
SITUATIONS = [(outcome, None) for outcome in Outcome if outcome is not Outcome.REPLIED]
SITUATIONS += [(Outcome.REPLIED, status) for status in STATUSES]
RULES = {  # the decisions for a call that is repeatable, and for one that isn't; both are STOP for any other situation
    (Outcome.NOT_SENT, None): (AT_ONCE, AT_ONCE),
    (Outcome.MAYBE_RECEIVED, None): (BACKOFF, STOP),
    (Outcome.REPLIED, 429): (BACKOFF, STOP),
    (Outcome.REPLIED, 502): (BACKOFF, STOP),
    (Outcome.REPLIED, 503): (BACKOFF, STOP),
    (Outcome.REPLIED, 504): (BACKOFF, STOP),
}


@pytest.mark.parametrize(("outcome", "status"), SITUATIONS)
def test_decide_retry_of_each_situation_follows_the_rules(outcome, status):
    if_repeatable, otherwise = RULES.get((outcome, status), (STOP, STOP))
    assert decide_retry(outcome, status=status, repeatable=True) is if_repeatable
    assert decide_retry(outcome, status=status, repeatable=False) is otherwise


def test_decide_retry_makes_every_decision():
    decisions = {
        decide_retry(outcome, status=status, repeatable=repeatable)
        for (outcome, status), repeatable in itertools.product(SITUATIONS, (True, False))
    }
    assert decisions == set(RetryDecision)


def pauses(decision: RetryDecision, *, random_share: float) -> list[float]:
    return [
        retry_pause_s(decision, attempts=attempts, retry_after_s=0.0, random_share=random_share)
        for attempts in (1, 2, 3, 20)
    ]


def test_retry_pause_after_a_refused_connection_is_zero():
    assert pauses(AT_ONCE, random_share=1.0) == [0, 0, 0, 0]


def test_retry_pause_doubles_up_to_a_second():
    assert pauses(BACKOFF, random_share=1.0) == [0.025, 0.05, 0.1, 1.0]


def test_retry_pause_is_jittered_down_to_zero():
    assert pauses(BACKOFF, random_share=0.0) == [0, 0, 0, 0]


def test_retry_pause_is_at_least_retry_after():
    assert retry_pause_s(BACKOFF, attempts=1, retry_after_s=0.5, random_share=1.0) == 0.5


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1", 1.0), ("0", 0.0), ("31536000", 1.0), ("9" * 5000, 1.0), ("-1", 0.0), ("", 0.0), ("soon", 0.0),
        ("1.5", 0.0), ("٣", 0.0), ("Wed, 21 Oct 2099 07:28:00 GMT", 0.0),
    ],
)  # fmt: skip
def test_parse_retry_after_is_bounded(value, seconds):
    assert parse_retry_after({"Retry-After": value}) == seconds
