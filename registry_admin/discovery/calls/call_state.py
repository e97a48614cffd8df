"""State of one call: its attempts so far, and the next one. No I/O and no clock, so that both clients share it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from registry_admin.discovery.calls.policy import CallPolicy, CallReport
from registry_admin.discovery.calls.retry import RetryDecision, decide_retry, parse_retry_after, retry_pause_s
from registry_admin.discovery.calls.tracing import AttemptSpan, CallTracer
from registry_admin.discovery.instances.load_balancing import InstanceGroup
from registry_admin.discovery.instances.outlier_detection import Endpoint, FailureKind
from registry_admin.discovery.instances.response_times import ResponseTimes
from registry_admin.discovery.instances.retry_budget import RetryBudget
from registry_admin.discovery.own_instances import HEADER, MISDIRECTED
from registry_admin.errors import Attempt, AttemptError, CallFailedError, DeadlineExceededError, Outcome
from registry_admin.printable import to_single_line

logger = logging.getLogger(__name__)

MIN_FAIR_TIMEOUT_S = 0.05  # an instance that had less time than this is not blamed for a timeout
PROBE_HEDGE_S = 0.25  # a call that probes an ejected instance is hedged after this time
LATE_FACTOR, MIN_LATE_S = 2.0, 0.02  # a response is late at twice the time of almost all, and not before 20 ms


class ResponseLike(Protocol):
    """The parts of a response that decide about a retry."""

    @property
    def status_code(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def close(self) -> None: ...


R = TypeVar("R", bound=ResponseLike)
T = TypeVar("T")


class PlannedAttempt:
    """An attempt to make on `endpoint` after `pause_s` seconds; hedged at `hedge_at`, unless that is None."""

    __slots__ = ("endpoint", "hedge_at", "pause_s", "span", "started_at")

    def __init__(self, endpoint: Endpoint, *, pause_s: float) -> None:
        self.endpoint = endpoint
        self.pause_s = pause_s
        self.started_at = 0.0
        self.hedge_at: float | None = None
        self.span: AttemptSpan | None = None

    @property
    def trace_headers(self) -> Mapping[str, str]:
        """Headers that carry the attempt's span to the called service; none without OpenTelemetry."""
        return self.span.headers if self.span is not None else {}


class CallState(Generic[R]):
    """Attempts of a call, each on another instance, all within one deadline.

    The client calls `plan_attempt`, then `start_attempt`, then one of `record_response`, `record_failure` and
    `cancel_attempt`. It may call `plan_hedge` when `hedge_at` has come without a response. It ends with `result` and
    `report`. Times are seconds of `clock`; `random_share` returns a number from 0 to 1.
    """

    def __init__(
        self,
        service: str,
        *,
        method: str,
        repeatable: bool,
        hedged: bool,
        timeout_s: float,
        policy: CallPolicy,
        clock: Callable[[], float],
        random_share: Callable[[], float],
        tracer: CallTracer | None = None,
    ) -> None:
        self.service = service
        self.attempts: list[Attempt] = []
        self.is_over = False
        self.response: R | None = None
        self._method = method
        self._repeatable = repeatable
        self._hedged = hedged and policy.hedge
        self._policy = policy
        self._clock = clock
        self._random_share = random_share
        self._tracer = tracer
        self._timeout_s = max(0.0, timeout_s)
        self._started_at = clock()
        self.deadline = self._started_at + timeout_s
        self._group: InstanceGroup | None = None
        self._budget: RetryBudget | None = None
        self._response_times: ResponseTimes | None = None
        self._tried: list[Endpoint] = []
        self._decision = RetryDecision.STOP
        self._cause: AttemptError | None = None
        self._stop_reason = ""

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline, never negative."""
        remaining_s = self.deadline - self._clock()
        return remaining_s if remaining_s > 0 else 0.0

    def check_deadline(self) -> None:
        """Raises DeadlineExceededError if the request that is being served has no time left for a call."""
        if self.remaining_s <= 0:
            message = f"The call to {self.service!r} wasn't made: the time of the request that it is for is over"
            raise DeadlineExceededError(self.service, message, attempts=())

    def use(self, group: InstanceGroup, budget: RetryBudget, response_times: ResponseTimes) -> None:
        """Sets the endpoints to choose from, the budget that allows retries, and what tells a late response."""
        self._group, self._budget, self._response_times = group, budget, response_times
        budget.record_call(self._clock())

    def plan_attempt(self) -> PlannedAttempt | None:
        """Returns the next attempt; None where a response is final or no further attempt is allowed."""
        if self.is_over:
            return None
        remaining_s = self.remaining_s
        if not remaining_s:  # a call can begin after the deadline of the request being served
            return None
        if not self._tried:
            return self._plan(pause_s=0.0)
        if self._decision is RetryDecision.STOP:
            return None
        pause_s = retry_pause_s(
            self._decision,
            attempts=len(self.attempts),
            retry_after_s=self._retry_after_s,
            random_share=self._random_share(),
        )
        return self._plan(pause_s=pause_s) if remaining_s > pause_s and self._allows_another() else None

    @property
    def _retry_after_s(self) -> float:
        if self.response is None or self.attempts[-1].outcome is not Outcome.REPLIED:
            return 0.0
        return parse_retry_after(self.response.headers)

    def plan_hedge(self) -> PlannedAttempt | None:
        """Returns a second attempt to make while the first one has no response; None where that isn't allowed."""
        return self._plan(pause_s=0.0) if not self.is_over and self.remaining_s > 0 and self._allows_another() else None

    def _allows_another(self) -> bool:
        """Returns whether one more attempt is within the limits, and takes it out of the budget."""
        if self._group is None or self._budget is None:
            return False
        if not len(self._tried) < min(self._policy.max_attempts, len(self._group.endpoints)):
            return False
        if self._budget.try_retry(self._clock()):
            return True
        self._stop_reason = "it was not tried elsewhere, because too many calls to this service are being tried again"
        return False

    def _plan(self, *, pause_s: float) -> PlannedAttempt | None:
        if self._group is None:
            return None
        endpoint = self._policy.load_balancer.pick(
            self._group, tried=self._tried, now=self._clock(), repeatable=self._repeatable
        )
        if endpoint is None:
            return None
        self._tried.append(endpoint)
        return PlannedAttempt(endpoint, pause_s=pause_s)

    def start_attempt(self, planned: PlannedAttempt) -> None:
        """Records that the attempt is sent now, and sets when to hedge it."""
        now = planned.started_at = self._clock()
        probing = planned.endpoint.probing
        planned.endpoint.start_attempt(now)
        if self._tracer is not None:
            planned.span = self._tracer.start_attempt(planned.endpoint.url, resend_count=len(self._tried) - 1)
        if not self._hedged or len(self._tried) >= self._policy.max_attempts or self._group is None:
            return
        if len(self._group.endpoints) <= len(self._tried):
            return
        hedge_after_s = (self.deadline - now) / 2
        late_s = self._response_times.late_s if self._response_times is not None else None
        if self._policy.hedge_after is not None:
            hedge_after_s = min(hedge_after_s, self._policy.hedge_after)
        elif late_s is not None:
            hedge_after_s = min(hedge_after_s, max(MIN_LATE_S, LATE_FACTOR * late_s))
        if probing:
            hedge_after_s = min(hedge_after_s, max(PROBE_HEDGE_S, 3 * (planned.endpoint.latency or 0.0)))
        planned.hedge_at = now + hedge_after_s

    def record_response(self, planned: PlannedAttempt, response: R, *, is_whole: bool = True) -> None:
        """Records a response; its status decides whether it is final.

        One that isn't whole has only its head: `end_stream` or `stream_error` records how its body ended.
        """
        now, status = self._clock(), response.status_code
        duration_s = now - planned.started_at
        if planned.span is not None:
            planned.span.end_with_status(status, duration_s=duration_s)
        if status == MISDIRECTED and HEADER in response.headers:
            self._record_refusal(planned, response, duration_s=duration_s)
            return
        if status >= 500:
            reason = f"status {status}"
            planned.endpoint.record_failure(now, duration_s=duration_s, kind=FailureKind.SERVER_ERROR, reason=reason)
        else:
            if is_whole:
                planned.endpoint.record_success(now, duration_s=duration_s)
            else:
                planned.endpoint.record_head(now, duration_s=duration_s)
            if self._hedged and self._response_times is not None:
                self._response_times.record(duration_s)
        if self.is_over:  # the response of a hedge came first and stays the result
            self._record(planned, Outcome.REPLIED, f"status {status}", duration_s=duration_s, status=status)
            return
        if self.response is not None:
            self.response.close()
        self.response = response
        self._decision = decide_retry(Outcome.REPLIED, status=status, repeatable=self._repeatable)
        self.is_over = self._decision is RetryDecision.STOP
        if not self.is_over or self._policy.on_attempt or self._policy.on_call:
            self._record(planned, Outcome.REPLIED, f"status {status}", duration_s=duration_s, status=status)

    def _record_refusal(self, planned: PlannedAttempt, response: R, *, duration_s: float) -> None:
        """Records that another instance has got the address: the one that was meant has received nothing."""
        error = AttemptError(
            Outcome.NOT_SENT, f"{to_single_line(response.headers[HEADER], max_length=100)} answers at its address"
        )
        planned.endpoint.record_failure(
            self._clock(), duration_s=duration_s, kind=FailureKind.MISDIRECTED, reason=error.detail
        )
        self._record_error(planned, error, duration_s=duration_s)

    def record_failure(self, planned: PlannedAttempt, error: AttemptError) -> None:
        """Records that the attempt has brought no usable response."""
        now = self._clock()
        duration_s = now - planned.started_at
        if planned.span is not None:
            error_type = "timeout" if now >= self.deadline else type(error.__cause__ or error).__name__
            planned.span.end_with_error(error_type, duration_s=duration_s)
        if error.outcome is Outcome.UNUSABLE:
            planned.endpoint.record_success(now, duration_s=duration_s)  # the instance answers, so it isn't ejected
        elif error.is_local:
            planned.endpoint.record_cancelled(now)
        elif duration_s < MIN_FAIR_TIMEOUT_S and now >= self.deadline:
            planned.endpoint.record_overtaken(now, duration_s=duration_s)
        else:
            kind = FailureKind.NOT_SENT if error.outcome is Outcome.NOT_SENT else FailureKind.NO_REPLY
            planned.endpoint.record_failure(now, duration_s=duration_s, kind=kind, reason=error.detail)
        self._record_error(planned, error, duration_s=duration_s)

    def _record_error(self, planned: PlannedAttempt, error: AttemptError, *, duration_s: float) -> None:
        self._cause = error
        self._record(planned, error.outcome, error.detail, duration_s=duration_s)
        self._decision = decide_retry(error.outcome, repeatable=self._repeatable)
        self.is_over = self.is_over or self._decision is RetryDecision.STOP

    def end_stream(self, planned: PlannedAttempt) -> None:
        """Records that the body of a streamed response has come as far as the caller wanted it."""
        now, endpoint = self._clock(), planned.endpoint
        endpoint.start_attempt(now)
        endpoint.record_success(now, duration_s=endpoint.latency or 0.0)

    def stream_error(self, planned: PlannedAttempt, error: AttemptError) -> CallFailedError:
        """Records what went wrong after the head of a streamed response; returns the exception for the caller."""
        now = self._clock()
        self.attempts.clear()
        self._record(planned, error.outcome, error.detail, duration_s=now - planned.started_at)
        if now >= self.deadline:
            message = f"The reply to the call to {self.service!r} had not ended within {self._timeout_s:g} s"
            return DeadlineExceededError(self.service, message, attempts=self.attempts)
        if error.outcome is not Outcome.UNUSABLE:
            planned.endpoint.start_attempt(now)
            planned.endpoint.record_failure(now, duration_s=0.0, kind=FailureKind.NO_REPLY, reason=error.detail)
        return CallFailedError(
            self.service, f"The reply to the call to {self.service!r} broke off", attempts=self.attempts
        )

    def cancel_attempt(self, planned: PlannedAttempt) -> None:
        """Records that the client stopped waiting: another response came first, or its caller gave up."""
        now = self._clock()
        duration_s = now - planned.started_at
        if planned.span is not None:
            planned.span.end_cancelled(duration_s=duration_s)
        if not self.is_over:
            planned.endpoint.record_cancelled(now)
            return
        planned.endpoint.record_overtaken(now, duration_s=duration_s)
        self._record(planned, Outcome.MAYBE_RECEIVED, "another instance answered first", duration_s=duration_s)

    def _record(
        self, planned: PlannedAttempt, outcome: Outcome, detail: str, *, duration_s: float, status: int | None = None
    ) -> None:
        attempt = Attempt(
            instance=planned.endpoint.instance.id,
            url=planned.endpoint.url,
            outcome=outcome,
            detail=detail,
            duration=duration_s,
            status=status,
            service=self.service,
        )
        self.attempts.append(attempt)
        if self._policy.on_attempt is not None:
            _run_hook(self._policy.on_attempt, attempt)

    def result(self) -> R:
        """Returns the last response, even a 503; raises CallFailedError or DeadlineExceededError without one."""
        if self.response is not None:
            return self.response
        if self.remaining_s > 0:
            message = f"The call to {self.service!r} failed" + (f"; {self._stop_reason}" if self._stop_reason else "")
            raise CallFailedError(self.service, message, attempts=self.attempts) from self._cause
        message = f"The call to {self.service!r} had no whole reply within {self._timeout_s:g} s"
        raise DeadlineExceededError(self.service, message, attempts=self.attempts) from self._cause

    def report(self, error: BaseException | None = None) -> None:
        """Counts the call and passes its result to the `on_call` hook."""
        if self._policy.record_call is not None:
            failed = error is not None or (self.response is not None and self.response.status_code >= 500)
            self._policy.record_call(self.service, self._clock() - self._started_at, failed)
        if self._policy.on_call is None:
            return
        report = CallReport(
            service=self.service,
            method=self._method,
            status=self.response.status_code if self.response is not None and error is None else None,
            error=type(error).__name__ if error is not None else "",
            duration=self._clock() - self._started_at,
            attempts=tuple(self.attempts),
        )
        _run_hook(self._policy.on_call, report)


def _run_hook(hook: Callable[[T], None], value: T) -> None:
    try:
        hook(value)
    except Exception:  # a hook that fails must not fail the call
        logger.exception("A hook of the client failed.")
