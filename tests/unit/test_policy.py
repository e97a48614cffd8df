"""When a call is tried again, and where."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from registry_admin.consul import Health, ServiceInstance
from registry_admin.discovery.policy import Attempt, AttemptError, Call, Outcome, is_repeatable, is_retried
from registry_admin.errors import CallFailedError, DeadlineExceededError


def instance(number: int) -> ServiceInstance:
    return ServiceInstance(service="api", id=f"api-{number}", address="10.0.0.1", port=number, health=Health.PASSING)


def attempt(outcome: Outcome, status: int | None = None) -> Attempt:
    return Attempt(instance="api-1", url="http://x", outcome=outcome, detail="…", duration=0.1, status=status)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def make_call(*, repeatable: bool = True, max_attempts: int = 3, clock: Clock | None = None) -> Call[SimpleNamespace]:
    return Call("api", repeatable=repeatable, timeout_s=10, max_attempts=max_attempts, clock=clock or Clock())


def first(candidates):
    return candidates[0]


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


@pytest.mark.parametrize("status", [None, 502, 503, 504])
def test_what_may_have_been_received_is_retried_only_if_repeatable(status):
    outcome = Outcome.REPLIED if status else Outcome.MAYBE_RECEIVED
    assert is_retried(attempt(outcome, status), repeatable=True)
    assert not is_retried(attempt(outcome, status), repeatable=False)


@pytest.mark.parametrize("status", [200, 204, 302, 400, 404, 409, 429, 500, 501])
def test_any_other_reply_is_final(status):
    assert not is_retried(attempt(Outcome.REPLIED, status), repeatable=True)


def test_a_reply_that_cannot_be_used_is_not_asked_for_again():
    assert not is_retried(attempt(Outcome.UNUSABLE), repeatable=True)


def test_each_attempt_goes_to_another_instance():
    call, seen = make_call(max_attempts=5), []
    for chosen in call.instances([instance(1), instance(2), instance(3)], first):
        seen.append(chosen.id)
        call.failed(chosen, AttemptError(Outcome.NOT_SENT, "connection refused"))
    assert seen == ["api-1", "api-2", "api-3"]


def test_there_are_no_more_attempts_than_allowed():
    call = make_call(max_attempts=2)
    for chosen in call.instances([instance(n) for n in range(1, 9)], first):
        call.failed(chosen, AttemptError(Outcome.NOT_SENT, "connection refused"))
    assert len(call.attempts) == 2


def test_a_final_reply_ends_the_call():
    call, reply = make_call(), SimpleNamespace(status_code=404)
    for chosen in call.instances([instance(1), instance(2)], first):
        call.replied(chosen, reply)
    assert call.result() is reply
    assert len(call.attempts) == 1


def test_the_last_reply_is_returned_when_every_instance_is_overloaded():
    call = make_call()
    replies = iter([SimpleNamespace(status_code=503), SimpleNamespace(status_code=502)])
    for chosen in call.instances([instance(1), instance(2)], first):
        call.replied(chosen, next(replies))
    assert call.result().status_code == 502


def test_a_reply_is_worth_more_than_the_failure_after_it():
    call = make_call()
    for chosen in call.instances([instance(1), instance(2)], first):
        if chosen.id == "api-1":
            call.replied(chosen, SimpleNamespace(status_code=503))
        else:
            call.failed(chosen, AttemptError(Outcome.NOT_SENT, "connection refused"))
    assert call.result().status_code == 503


def test_a_call_without_any_reply_fails_with_its_attempts_and_their_cause():
    call, clock = make_call(), Clock()
    call = make_call(clock=clock)
    for chosen in call.instances([instance(1), instance(2)], first):
        clock.now += 0.25
        call.failed(chosen, AttemptError(Outcome.NOT_SENT, "connection refused"))
    with pytest.raises(
        CallFailedError, match=r"api-1 at http://10\.0\.0\.1:1: connection refused after 250 ms"
    ) as caught:
        call.result()
    assert [one.instance for one in caught.value.attempts] == ["api-1", "api-2"]
    assert isinstance(caught.value.__cause__, AttemptError)
    assert not isinstance(caught.value, DeadlineExceededError)


def test_no_attempt_begins_after_the_deadline():
    clock = Clock()
    call = make_call(clock=clock)
    for chosen in call.instances([instance(1), instance(2)], first):
        clock.now += 10
        call.failed(chosen, AttemptError(Outcome.MAYBE_RECEIVED, "no answer in time"))
    assert len(call.attempts) == 1
    with pytest.raises(DeadlineExceededError, match="within 10 s"):
        call.result()


def test_time_left_is_never_negative():
    clock = Clock()
    call = make_call(clock=clock)
    clock.now += 11
    assert call.remaining() == 0
