"""Retry rules: whether a call may go to another instance after an attempt, and after which pause. No I/O, no clock."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum, auto

from registry_admin.backoff import ExponentialBackoff
from registry_admin.errors import Outcome

RETRIED_STATUSES = frozenset({429, 502, 503, 504})  # the instance can't serve now; another one may
BACKOFF = ExponentialBackoff(first_s=0.025, longest_s=1.0, jitter=1.0)
MAX_RETRY_AFTER_S = 1.0  # an instance that asks for more is overloaded or hostile; another one may answer


class RetryDecision(Enum):
    """The next step of a call after one of its attempts."""

    STOP = auto()
    RETRY_AT_ONCE = auto()
    RETRY_AFTER_BACKOFF = auto()


def decide_retry(outcome: Outcome, *, status: int | None = None, repeatable: bool) -> RetryDecision:
    """Returns the next step after an attempt with this outcome; `status` is the response's, where there is one.

    `repeatable` tells that the service may receive the call twice: see `is_repeatable` of `http.request`.
    """
    match outcome:
        case Outcome.REPLIED:
            return _backoff_if(repeatable and status in RETRIED_STATUSES)
        case Outcome.NOT_SENT:  # the service can't have received it
            return RetryDecision.RETRY_AT_ONCE
        case Outcome.MAYBE_RECEIVED:
            return _backoff_if(repeatable)
        case Outcome.UNUSABLE:  # another instance would send the same
            return RetryDecision.STOP


def _backoff_if(retried: bool) -> RetryDecision:  # noqa: FBT001
    return RetryDecision.RETRY_AFTER_BACKOFF if retried else RetryDecision.STOP


def retry_pause_s(decision: RetryDecision, *, attempts: int, retry_after_s: float, random_share: float) -> float:
    """Returns the seconds to wait before the next attempt, at least `retry_after_s`.

    Full jitter (`random_share` from 0 to 1): callers that failed together don't come back together.
    """
    if decision is RetryDecision.RETRY_AT_ONCE:
        return 0.0
    return max(retry_after_s, BACKOFF.pause_s(attempts, random_share))


def parse_retry_after(headers: Mapping[str, str]) -> float:
    """Returns the seconds that `Retry-After` asks for, at most MAX_RETRY_AFTER_S; 0 without the header.

    Reads only the form in seconds. The other form is a date by the service's clock (RFC 9110 section 10.2.3).
    """
    value = headers.get("Retry-After", "").strip()
    if not re.fullmatch("[0-9]+", value, re.ASCII):
        return 0.0
    return float(min(int(value[:6]), MAX_RETRY_AFTER_S))
