"""Whether a call is tried again, and where: no I/O and no clock of its own, so that sync and async share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from registry_admin.consul.types import ServiceInstance
from registry_admin.errors import CallFailedError, DeadlineExceededError

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})  # RFC 9110 section 9.2.2, without TRACE
RETRIED_STATUSES = frozenset({502, 503, 504})  # said by who can't serve now; another instance may


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


R = TypeVar("R", bound=Reply)
Pick = Callable[[Sequence[ServiceInstance]], ServiceInstance]


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


class Call(Generic[R]):
    """One call's attempts so far, and what comes next: each on another instance, all within one deadline.

    The shell around it asks `instances()` where to send, reports with `replied` or `failed`, and ends with `result()`.
    """

    def __init__(
        self, service: str, *, repeatable: bool, timeout_s: float, max_attempts: int, clock: Callable[[], float]
    ) -> None:
        self.service = service
        self.attempts: list[Attempt] = []
        self._repeatable = repeatable
        self._max_attempts = max_attempts
        self._clock = clock
        self._timeout_s = timeout_s
        self.deadline = clock() + timeout_s
        self._sent_at = 0.0
        self._reply: R | None = None
        self._cause: AttemptError | None = None

    def remaining(self) -> float:
        """Seconds until the deadline, never negative."""
        return max(0.0, self.deadline - self._clock())

    def instances(self, healthy: Sequence[ServiceInstance], pick: Pick) -> Iterator[ServiceInstance]:
        """The instances to send to, one after another; ends when a reply is final or nothing more may be tried."""
        untried = list(healthy)
        while untried and self._goes_on():
            instance = pick(untried)
            untried.remove(instance)
            self._sent_at = self._clock()
            yield instance

    def _goes_on(self) -> bool:
        if not self.attempts:
            return True
        return (
            len(self.attempts) < self._max_attempts
            and self.remaining() > 0
            and is_retried(self.attempts[-1], repeatable=self._repeatable)
        )

    def replied(self, instance: ServiceInstance, reply: R) -> None:
        """A whole reply came; whether it is the final one, its status decides."""
        self._reply = reply
        self._record(instance, Outcome.REPLIED, f"status {reply.status_code}", status=reply.status_code)

    def failed(self, instance: ServiceInstance, error: AttemptError) -> None:
        """No usable reply came."""
        self._cause = error
        self._record(instance, error.outcome, error.detail)

    def _record(self, instance: ServiceInstance, outcome: Outcome, detail: str, *, status: int | None = None) -> None:
        duration = self._clock() - self._sent_at
        self.attempts.append(
            Attempt(
                instance=instance.id, url=instance.url, outcome=outcome, detail=detail, duration=duration, status=status
            )
        )

    def result(self) -> R:
        """The last reply that came, be it a 503; raises CallFailedError or DeadlineExceededError where none did."""
        if self._reply is not None:
            return self._reply
        if self.remaining() > 0:
            raise CallFailedError(self.service, attempts=self.attempts) from self._cause
        message = f"The call to {self.service!r} had no whole reply within {self._timeout_s:g} s"
        raise DeadlineExceededError(self.service, message, attempts=self.attempts) from self._cause
