"""Whether a call is tried again, when and where: no I/O and no clock of its own, so that sync and async share it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from registry_admin.discovery.balancing import Balancing, Group
from registry_admin.discovery.budget import RetryBudget
from registry_admin.discovery.endpoint import Endpoint
from registry_admin.errors import CallFailedError, DeadlineExceededError

logger = logging.getLogger(__name__)

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})  # RFC 9110 section 9.2.2, without TRACE
RETRIED_STATUSES = frozenset({429, 502, 503, 504})  # said by who can't serve now; another instance may
BACKOFF_S = 0.025  # doubles with each attempt
LONGEST_BACKOFF_S = 1.0
LONGEST_RETRY_AFTER_S = 1.0  # an instance that wants more is overloaded or hostile; another one may do
HASTY_S = 0.05  # who was given less than this by its caller, and wasn't done in it, is not to blame
PROBE_PATIENCE_S = 0.25  # an instance that was ejected has to prove itself; the call needn't wait for it


class Outcome(StrEnum):
    """What became of an attempt, as far as the caller can know."""

    NOT_SENT = "not sent"
    MAYBE_RECEIVED = "may have been received"
    UNUSABLE = "unusable reply"
    REPLIED = "replied"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt: the instance's ID and root URL, what happened, in words too, and how long it took in seconds."""

    instance: str
    url: str
    outcome: Outcome
    detail: str
    duration: float
    status: int | None = None
    service: str = ""

    def __str__(self) -> str:
        return f"{self.instance} at {self.url}: {self.detail} after {self.duration * 1000:.0f} ms"


@dataclass(frozen=True, kw_only=True)
class CallReport:
    """What became of a whole call. `duration` is in seconds; `error` names the exception's type where one was raised.

    `attempts` are those that were sent. What was overtaken by another attempt is among them; what was cancelled isn't.
    """

    service: str
    method: str
    status: int | None
    error: str
    duration: float
    attempts: tuple[Attempt, ...]


class AttemptError(Exception):
    """An attempt brought no usable reply. Raised by the transports; a caller never sees it but as a cause."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        self.outcome = outcome
        self.detail = detail
        super().__init__(detail)


class Reply(Protocol):
    """As much of a reply as the decision needs."""

    @property
    def status_code(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...


R = TypeVar("R", bound=Reply)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """A client's limits and choices. `hedge_after` is in seconds; the two hooks are told of attempts and calls.

    `count` is told the called service, the seconds that a call took, and whether it failed.
    """

    balancing: Balancing
    max_attempts: int
    hedge_after: float | None = None
    on_attempt: Callable[[Attempt], None] | None = None
    on_call: Callable[[CallReport], None] | None = None
    count: Callable[[str, float, bool], None] | None = None


def is_repeatable(method: str, headers: Mapping[str, str]) -> bool:
    """Whether receiving the call twice does no harm: an idempotent method, or a key that lets the service tell."""
    return method in IDEMPOTENT_METHODS or any(name.lower() == "idempotency-key" for name in headers)


def is_retried(attempt: Attempt, *, repeatable: bool) -> bool:
    """Whether another instance may be asked after this. What was never sent can always be sent elsewhere."""
    match attempt.outcome:
        case Outcome.NOT_SENT:
            return True
        case Outcome.MAYBE_RECEIVED:
            return repeatable
        case Outcome.UNUSABLE:
            return False
        case Outcome.REPLIED:
            return repeatable and attempt.status in RETRIED_STATUSES


def retry_after_s(headers: Mapping[str, str]) -> float:
    """How long a reply asks to wait, in seconds, and at most LONGEST_RETRY_AFTER_S; 0 where it doesn't say.

    Only the form in seconds counts: the other is a date, by a clock that isn't ours (RFC 9110 section 10.2.3).
    """
    value = headers.get("Retry-After", "").strip()
    if not re.fullmatch("[0-9]+", value, re.ASCII):
        return 0.0
    return float(min(int(value[:6]), LONGEST_RETRY_AFTER_S))


class Sending:
    """An attempt that is to be made: on which endpoint, and after what pause in seconds."""

    __slots__ = ("began", "endpoint", "hedge_at", "pause_s")

    def __init__(self, endpoint: Endpoint, *, pause_s: float) -> None:
        self.endpoint = endpoint
        self.pause_s = pause_s
        self.began = 0.0
        self.hedge_at: float | None = None


class Call(Generic[R]):
    """One call's attempts so far, and what comes next: each on another instance, all within one deadline.

    The shell around it asks `next()` where to send; says `begun`, then `replied`, `failed` or `dropped` of each; may
    ask `hedge()` for one more once `hedge_at` has come without a reply; and ends with `result()`. Times are those of
    `clock`, in seconds; `random_share` gives a number from 0 to 1.
    """

    def __init__(
        self,
        service: str,
        *,
        method: str,
        repeatable: bool,
        timeout_s: float,
        rules: Rules,
        clock: Callable[[], float],
        random_share: Callable[[], float],
    ) -> None:
        self.service = service
        self.attempts: list[Attempt] = []
        self.is_over = False
        self.reply: R | None = None
        self._method = method
        self._repeatable = repeatable
        self._rules = rules
        self._clock = clock
        self._random_share = random_share
        self._timeout_s = max(0.0, timeout_s)
        self._began = clock()
        self.deadline = self._began + timeout_s
        self._group: Group | None = None
        self._budget: RetryBudget | None = None
        self._tried: list[Endpoint] = []
        self._cause: AttemptError | None = None
        self._said = ""

    def remaining(self) -> float:
        """Seconds until the deadline, never negative."""
        return max(0.0, self.deadline - self._clock())

    def among(self, group: Group, budget: RetryBudget) -> None:
        """The endpoints to choose from, and what allows to try again."""
        self._group, self._budget = group, budget
        budget.call(self._clock())

    def next(self) -> Sending | None:
        """Where to send now; None where a reply is final or nothing more may be tried."""
        if self.is_over or not self.remaining():  # it may be over from the start: the request being served is late
            return None
        if not self._tried:
            return self._send(0.0)
        last = self.attempts[-1]
        pause_s = self._pause_s(last)
        if not is_retried(last, repeatable=self._repeatable) or self.remaining() <= pause_s or not self._may_send():
            return None
        return self._send(pause_s)

    def hedge(self) -> Sending | None:
        """One more, while others are under way without a reply; None where that isn't allowed."""
        return self._send(0.0) if not self.is_over and self.remaining() > 0 and self._may_send() else None

    def _may_send(self) -> bool:
        """Whether one more is within the limits; takes it out of the budget."""
        if self._group is None or self._budget is None:
            return False
        if not len(self._tried) < min(self._rules.max_attempts, len(self._group.endpoints)):
            return False
        if self._budget.try_retry(self._clock()):
            return True
        self._said = "it was not tried elsewhere, because too many calls to this service are being tried again"
        return False

    def _send(self, pause_s: float) -> Sending | None:
        if self._group is None:
            return None
        endpoint = self._rules.balancing.pick(
            self._group, tried=self._tried, now=self._clock(), repeatable=self._repeatable
        )
        if endpoint is None:
            return None
        self._tried.append(endpoint)
        return Sending(endpoint, pause_s=pause_s)

    def _pause_s(self, last: Attempt) -> float:
        """Full jitter, so that those who failed together don't come back together; none where nothing was reached."""
        if last.outcome is Outcome.NOT_SENT:
            return 0.0
        longest = min(LONGEST_BACKOFF_S, BACKOFF_S * 2.0 ** (len(self.attempts) - 1))
        asked = retry_after_s(self.reply.headers) if last.outcome is Outcome.REPLIED and self.reply else 0.0
        return max(asked, longest * self._random_share())

    def begun(self, sending: Sending) -> None:
        """It is sent now."""
        now = sending.began = self._clock()
        probing = sending.endpoint.probing
        sending.endpoint.began(now)
        if not self._repeatable or len(self._tried) >= self._rules.max_attempts or self._group is None:
            return
        if len(self._group.endpoints) <= len(self._tried):
            return
        patience = (self.deadline - now) / 2
        if self._rules.hedge_after is not None:
            patience = min(patience, self._rules.hedge_after)
        if probing:
            patience = min(patience, max(PROBE_PATIENCE_S, 3 * (sending.endpoint.latency or 0.0)))
        sending.hedge_at = now + patience

    def replied(self, sending: Sending, reply: R) -> None:
        """A whole reply came; whether it is the final one, its status decides."""
        now, status = self._clock(), reply.status_code
        took = now - sending.began
        if status >= 500:
            sending.endpoint.failed(now, took=took, reason=f"status {status}")
        else:
            sending.endpoint.succeeded(now, took=took)
        if self.is_over:  # another came first, just now, and stays the result
            self._record(sending, Outcome.REPLIED, f"status {status}", took=took, status=status)
            return
        self.reply = reply
        self.is_over = not (self._repeatable and status in RETRIED_STATUSES)
        if not self.is_over or self._rules.on_attempt or self._rules.on_call:
            self._record(sending, Outcome.REPLIED, f"status {status}", took=took, status=status)

    def failed(self, sending: Sending, error: AttemptError) -> None:
        """No usable reply came."""
        now = self._clock()
        took = now - sending.began
        if error.outcome is Outcome.UNUSABLE:
            sending.endpoint.succeeded(now, took=took)  # it is there and answers; what it says is another matter
        elif took < HASTY_S and now >= self.deadline:
            sending.endpoint.abandoned(now, took=took)
        else:
            refused = error.outcome is Outcome.NOT_SENT
            sending.endpoint.failed(now, took=took, reason=error.detail, refused=refused)
        self._cause = error
        self._record(sending, error.outcome, error.detail, took=took)
        self.is_over = self.is_over or error.outcome is Outcome.UNUSABLE

    def dropped(self, sending: Sending) -> None:
        """Its reply isn't waited for any longer: another one came first, or the caller gave up."""
        now = self._clock()
        took = now - sending.began
        if not self.is_over:
            sending.endpoint.cancelled(now)
            return
        sending.endpoint.abandoned(now, took=took)
        self._record(sending, Outcome.MAYBE_RECEIVED, "another instance answered first", took=took)

    def _record(
        self, sending: Sending, outcome: Outcome, detail: str, *, took: float, status: int | None = None
    ) -> None:
        instance = sending.endpoint.instance
        attempt = Attempt(
            instance=instance.id,
            url=sending.endpoint.url,
            outcome=outcome,
            detail=detail,
            duration=took,
            status=status,
            service=self.service,
        )
        self.attempts.append(attempt)
        if self._rules.on_attempt is not None:
            _tell(self._rules.on_attempt, attempt)

    def result(self) -> R:
        """The last reply that came, be it a 503; raises CallFailedError or DeadlineExceededError where none did."""
        if self.reply is not None:
            return self.reply
        if self.remaining() > 0:
            message = f"The call to {self.service!r} failed" + (f"; {self._said}" if self._said else "")
            raise CallFailedError(self.service, message, attempts=self.attempts) from self._cause
        message = f"The call to {self.service!r} had no whole reply within {self._timeout_s:g} s"
        raise DeadlineExceededError(self.service, message, attempts=self.attempts) from self._cause

    def report(self, error: BaseException | None = None) -> None:
        """Counts it, and tells the `on_call` hook how it ended."""
        if self._rules.count is not None:
            failed = error is not None or (self.reply is not None and self.reply.status_code >= 500)
            self._rules.count(self.service, self._clock() - self._began, failed)
        if self._rules.on_call is None:
            return
        report = CallReport(
            service=self.service,
            method=self._method,
            status=self.reply.status_code if self.reply is not None and error is None else None,
            error=type(error).__name__ if error is not None else "",
            duration=self._clock() - self._began,
            attempts=tuple(self.attempts),
        )
        _tell(self._rules.on_call, report)


T = TypeVar("T")


def _tell(hook: Callable[[T], None], what: T) -> None:
    """A hook that fails must not fail the call."""
    try:
        hook(what)
    except Exception:
        logger.exception("A hook of the client failed.")
