"""When a call is tried again, after what pause, where, and what stands beside a silent attempt."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.consul import Health, ServiceInstance
from registry_admin.discovery.balancing import Group
from registry_admin.discovery.budget import RetryBudget
from registry_admin.discovery.endpoint import Endpoint, Outliers
from registry_admin.discovery.policy import (
    Attempt,
    AttemptError,
    Call,
    Outcome,
    Rules,
    Sending,
    is_repeatable,
    is_retried,
    retry_after_s,
)
from registry_admin.errors import CallFailedError, DeadlineExceededError

REFUSED = AttemptError(Outcome.NOT_SENT, "connection refused")
BROKEN = AttemptError(Outcome.MAYBE_RECEIVED, "it reset the connection")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class InOrder:
    """The first that hasn't been tried."""

    def pick(self, group: Group, *, tried: Any, now: float, repeatable: bool) -> Endpoint | None:
        return next((endpoint for endpoint in group.endpoints if endpoint not in tried), None)


class Trial:
    """A call to `size` instances, with a clock to turn and a budget to use up."""

    def __init__(
        self, size: int = 3, *, repeatable: bool = True, max_attempts: int = 3, random_share: float = 0.0, **rules: Any
    ) -> None:
        self.clock = Clock()
        outliers = Outliers()
        self.endpoints = [Endpoint(instance(n), outliers, now=self.clock(), warm=True) for n in range(1, size + 1)]
        self.budget = RetryBudget(clock=self.clock)
        self.call: Call[SimpleNamespace] = Call(
            "api",
            method="GET",
            repeatable=repeatable,
            timeout_s=10,
            rules=Rules(balancing=InOrder(), max_attempts=max_attempts, **rules),
            clock=self.clock,
            random_share=lambda: random_share,
        )
        self.call.among(Group(self.endpoints), self.budget)

    def send(self) -> Sending | None:
        sending = self.call.next()
        if sending is not None:
            self.call.begun(sending)
        return sending

    def all_fail(self, error: AttemptError = REFUSED, *, after: float = 0.0) -> list[Sending]:
        sent = []
        while (sending := self.send()) is not None:
            sent.append(sending)
            self.clock.now += after
            self.call.failed(sending, error)
        return sent


def instance(number: int) -> ServiceInstance:
    return ServiceInstance(service="api", id=f"api-{number}", address="10.0.0.1", port=number, health=Health.PASSING)


def reply(status: int, **headers: str) -> SimpleNamespace:
    return SimpleNamespace(status_code=status, headers=headers)


def attempt(outcome: Outcome, status: int | None = None) -> Attempt:
    return Attempt(instance="api-1", url="http://x", outcome=outcome, detail="…", duration=0.1, status=status)


def ids(sent: list[Sending]) -> list[str]:
    return [sending.endpoint.instance.id for sending in sent]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_idempotent_methods_are_repeatable(method):
    assert is_repeatable(method, {})


@pytest.mark.parametrize("method", ["POST", "PATCH", "PROPFIND"])
def test_others_are_repeatable_only_with_an_idempotency_key(method):
    assert not is_repeatable(method, {})
    assert is_repeatable(method, {"idempotency-key": "4711"})


@pytest.mark.parametrize("repeatable", [True, False])
def test_what_was_never_sent_is_always_retried(repeatable):
    assert is_retried(attempt(Outcome.NOT_SENT), repeatable=repeatable)


@pytest.mark.parametrize("status", [None, 429, 502, 503, 504])
def test_what_may_have_been_received_is_retried_only_if_repeatable(status):
    outcome = Outcome.REPLIED if status else Outcome.MAYBE_RECEIVED
    assert is_retried(attempt(outcome, status), repeatable=True)
    assert not is_retried(attempt(outcome, status), repeatable=False)


@pytest.mark.parametrize("status", [200, 204, 302, 400, 404, 409, 500, 501])
def test_any_other_reply_is_final(status):
    assert not is_retried(attempt(Outcome.REPLIED, status), repeatable=True)


def test_a_reply_that_cannot_be_used_is_not_asked_for_again():
    assert not is_retried(attempt(Outcome.UNUSABLE), repeatable=True)
    trial = Trial()
    assert len(trial.all_fail(AttemptError(Outcome.UNUSABLE, "its reply is larger than 64 bytes"))) == 1
    assert trial.endpoints[0].failures_in_row == 0, "the instance itself answers"


def test_each_attempt_goes_to_another_instance():
    assert ids(Trial(max_attempts=5).all_fail()) == ["api-1", "api-2", "api-3"]


def test_there_are_no_more_attempts_than_allowed():
    assert ids(Trial(8, max_attempts=2).all_fail()) == ["api-1", "api-2"]


def test_a_final_reply_ends_the_call():
    trial, answer = Trial(), reply(404)
    trial.call.replied(trial.send(), answer)
    assert trial.send() is None
    assert trial.call.result() is answer


def test_the_last_reply_is_returned_when_every_instance_is_overloaded():
    trial = Trial(2)
    trial.call.replied(trial.send(), reply(503))
    trial.call.replied(trial.send(), reply(502))
    assert trial.send() is None
    assert trial.call.result().status_code == 502


def test_a_reply_is_worth_more_than_the_failure_after_it():
    trial = Trial(2)
    trial.call.replied(trial.send(), reply(503))
    trial.call.failed(trial.send(), REFUSED)
    assert trial.send() is None
    assert trial.call.result().status_code == 503


def test_a_call_without_any_reply_fails_with_its_attempts_and_their_cause():
    trial = Trial(2)
    trial.all_fail(after=0.25)
    with pytest.raises(
        CallFailedError, match=r"api-1 at http://10\.0\.0\.1:1: connection refused after 250 ms"
    ) as caught:
        trial.call.result()
    assert [one.instance for one in caught.value.attempts] == ["api-1", "api-2"]
    assert caught.value.__cause__ is REFUSED
    assert not isinstance(caught.value, DeadlineExceededError)


def test_no_attempt_begins_after_the_deadline():
    trial = Trial()
    assert len(trial.all_fail(BROKEN, after=10)) == 1
    with pytest.raises(DeadlineExceededError, match="within 10 s"):
        trial.call.result()


def test_time_left_is_never_negative():
    trial = Trial()
    trial.clock.now += 11
    assert trial.call.remaining() == 0


# -- pauses ------------------------------------------------------------------------------------------------------------


def test_nothing_is_waited_for_where_nothing_was_reached():
    assert [sending.pause_s for sending in Trial(random_share=1.0).all_fail(REFUSED)] == [0, 0, 0]


def test_pauses_double_and_are_spread_over_their_whole_length():
    assert [sending.pause_s for sending in Trial(4, max_attempts=4, random_share=1.0).all_fail(BROKEN)] == [
        0,
        0.025,
        0.05,
        0.1,
    ]
    assert [sending.pause_s for sending in Trial(random_share=0.0).all_fail(BROKEN)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1", 1.0), ("0", 0.0), ("31536000", 1.0), ("9" * 5000, 1.0), ("-1", 0.0), ("", 0.0), ("soon", 0.0),
        ("1.5", 0.0), ("٣", 0.0), ("Wed, 21 Oct 2099 07:28:00 GMT", 0.0),
    ],
)  # fmt: skip
def test_how_long_a_reply_asks_to_wait_is_bounded(value, seconds):
    assert retry_after_s({"Retry-After": value}) == seconds


@pytest.mark.parametrize("status", [429, 503])
def test_another_instance_is_asked_only_after_the_pause_that_was_asked_for(status):
    trial = Trial()
    trial.call.replied(trial.send(), reply(status, **{"Retry-After": "3600"}))
    assert trial.call.next().pause_s == 1.0


def test_a_pause_that_would_outlast_the_deadline_is_not_made():
    trial = Trial()
    trial.clock.now += 9.5
    trial.call.replied(trial.send(), reply(429, **{"Retry-After": "1"}))
    assert trial.call.next() is None
    assert trial.call.result().status_code == 429


# -- the budget --------------------------------------------------------------------------------------------------------


def test_without_a_budget_nothing_is_tried_again_and_the_message_says_so():
    trial = Trial()
    while trial.budget.try_retry(trial.clock()):
        pass
    assert len(trial.all_fail()) == 1
    with pytest.raises(CallFailedError, match="too many calls to this service are being tried again"):
        trial.call.result()


def test_a_call_that_succeeds_takes_nothing_from_the_budget():
    trial = Trial()
    allowed = 0
    trial.call.replied(trial.send(), reply(200))
    while trial.budget.try_retry(trial.clock()):
        allowed += 1
    assert allowed == 10


# -- beside a silent attempt -------------------------------------------------------------------------------------------


def test_what_may_be_repeated_is_sent_elsewhere_too_after_half_of_its_time():
    trial = Trial()
    sending = trial.send()
    assert sending.hedge_at == 105.0
    trial.clock.now = 105.0
    other = trial.call.hedge()
    assert other.endpoint is trial.endpoints[1]
    trial.call.begun(other)
    assert other.hedge_at == 107.5


def test_or_after_the_time_that_was_chosen():
    assert Trial(hedge_after=0.2).send().hedge_at == 100.2


def test_a_probe_is_not_waited_for():
    trial = Trial()
    trial.endpoints[0].probing = True
    assert trial.send().hedge_at == 100.25


@pytest.mark.parametrize("options", [{"repeatable": False}, {"size": 1}, {"max_attempts": 1}])
def test_nothing_is_sent_beside_what_must_go_once_or_has_no_alternative(options):
    trial = Trial(**options)
    assert trial.send().hedge_at is None


def test_the_first_reply_wins_and_the_other_is_not_waited_for():
    trial = Trial()
    silent = trial.send()
    trial.clock.now += 5
    other = trial.call.hedge()
    trial.call.begun(other)
    trial.call.replied(other, reply(200))
    trial.call.dropped(silent)
    assert trial.call.result().status_code == 200
    assert trial.endpoints[0].failures_in_row == 1, "five seconds of silence are a failure"
    assert [endpoint.outstanding for endpoint in trial.endpoints] == [0, 0, 0]


def test_a_reply_that_comes_just_after_the_final_one_changes_nothing():
    trial = Trial()
    first = trial.send()
    trial.clock.now += 5
    beside = trial.call.hedge()
    trial.call.begun(beside)
    trial.call.replied(beside, reply(200))
    trial.call.replied(first, reply(503))
    assert trial.call.is_over
    assert trial.call.result().status_code == 200
    assert trial.send() is None
    assert [endpoint.outstanding for endpoint in trial.endpoints] == [0, 0, 0]


def test_nothing_is_sent_when_the_time_is_over_from_the_start():
    trial = Trial()
    trial.clock.now += 10
    assert trial.send() is None
    with pytest.raises(DeadlineExceededError):
        trial.call.result()


@pytest.mark.parametrize(("left", "blamed"), [(0.04, 0), (5.0, 1)])
def test_an_instance_is_not_to_blame_for_what_its_caller_gave_no_time_for(left, blamed):
    trial = Trial(1)
    trial.clock.now += 10 - left
    sending = trial.send()
    trial.clock.now += left
    trial.call.failed(sending, AttemptError(Outcome.MAYBE_RECEIVED, "no answer in time"))
    assert (sending.endpoint.failures_in_row, sending.endpoint.outstanding) == (blamed, 0)
    with pytest.raises(DeadlineExceededError):
        trial.call.result()


def test_an_attempt_whose_caller_gave_up_is_nobodys_fault():
    trial = Trial()
    sending = trial.send()
    trial.clock.now += 5
    trial.call.dropped(sending)
    assert (trial.endpoints[0].failures_in_row, trial.endpoints[0].outstanding) == (0, 0)


# -- hooks -------------------------------------------------------------------------------------------------------------


def test_hooks_are_told_of_each_attempt_and_of_the_call():
    attempts: list[Attempt] = []
    calls: list[Any] = []
    trial = Trial(on_attempt=attempts.append, on_call=calls.append)
    trial.clock.now += 0.5
    trial.call.failed(trial.send(), REFUSED)
    trial.call.replied(trial.send(), reply(201))
    trial.call.report()
    assert [(one.service, one.instance, one.status) for one in attempts] == [
        ("api", "api-1", None),
        ("api", "api-2", 201),
    ]
    (report,) = calls
    assert (report.service, report.method, report.status, report.error, report.duration) == ("api", "GET", 201, "", 0.5)
    assert list(report.attempts) == attempts


def test_a_hook_that_fails_does_not_fail_the_call(caplog):
    def fail(_: object) -> None:
        raise RuntimeError("broken metrics")

    trial = Trial(on_attempt=fail, on_call=fail)
    trial.call.replied(trial.send(), reply(200))
    trial.call.report()
    assert trial.call.result().status_code == 200
    assert caplog.text.count("A hook of the client failed.") == 2


# -- whatever happens --------------------------------------------------------------------------------------------------

events = st.sampled_from(["refused", "broken", "unusable", 200, 404, 429, 500, 503])


@given(st.lists(events, max_size=12), st.booleans(), st.integers(1, 6), st.integers(1, 6))
def test_an_instance_is_never_asked_twice_and_what_is_not_repeatable_is_received_once(
    happens, repeatable, size, max_attempts
):
    trial, received, sent = Trial(size, repeatable=repeatable, max_attempts=max_attempts), 0, []
    for event in happens:
        sending = trial.send()
        if sending is None:
            break
        sent.append(sending.endpoint)
        received += event != "refused"
        if isinstance(event, int):
            trial.call.replied(sending, reply(event))
        else:
            outcome = {"refused": REFUSED, "broken": BROKEN}.get(event, AttemptError(Outcome.UNUSABLE, "x"))
            trial.call.failed(sending, outcome)
    assert len(sent) == len(set(sent)) <= max_attempts
    assert repeatable or received <= 1
    assert all(endpoint.outstanding == 0 for endpoint in trial.endpoints)
