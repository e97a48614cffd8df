"""Attempts of one call: order, limits, hedges, result and hooks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.consul import Health, ServiceInstance
from registry_admin.discovery.calls.call_state import CallState, PlannedAttempt
from registry_admin.discovery.calls.policy import CallPolicy
from registry_admin.discovery.instances.load_balancing import InstanceGroup
from registry_admin.discovery.instances.outlier_detection import Endpoint, OutlierDetector
from registry_admin.discovery.instances.response_times import ResponseTimes
from registry_admin.discovery.instances.retry_budget import RetryBudget
from registry_admin.errors import Attempt, AttemptError, CallFailedError, DeadlineExceededError, Outcome

REFUSED = AttemptError(Outcome.NOT_SENT, "connection refused")
RESET = AttemptError(Outcome.MAYBE_RECEIVED, "it reset the connection")
TOO_LARGE = AttemptError(Outcome.UNUSABLE, "its reply is larger than 64 bytes")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class FirstUntried:
    """Balancing that picks the first endpoint that hasn't been tried."""

    def pick(self, group: InstanceGroup, *, tried: Any, now: float, repeatable: bool) -> Endpoint | None:
        return next((endpoint for endpoint in group.endpoints if endpoint not in tried), None)


class Trial:
    """A call to `size` instances, with a clock to turn and a budget to use up."""

    def __init__(
        self,
        size: int = 3,
        *,
        repeatable: bool = True,
        hedged: bool = True,
        max_attempts: int = 3,
        random_share: float = 0.0,
        **policy: Any,
    ) -> None:
        self.clock = Clock()
        outlier_detector = OutlierDetector()
        self.endpoints = [
            Endpoint(instance(n), outlier_detector, now=self.clock(), warm=True) for n in range(1, size + 1)
        ]
        self.budget = RetryBudget(clock=self.clock)
        self.call: CallState[SimpleNamespace] = CallState(
            "api",
            method="GET",
            repeatable=repeatable,
            hedged=hedged,
            timeout_s=10,
            policy=CallPolicy(load_balancer=FirstUntried(), max_attempts=max_attempts, **policy),
            clock=self.clock,
            random_share=lambda: random_share,
        )
        self.response_times = ResponseTimes()
        self.call.use(InstanceGroup(self.endpoints), self.budget, self.response_times)

    def send(self) -> PlannedAttempt | None:
        planned = self.call.plan_attempt()
        if planned is not None:
            self.call.start_attempt(planned)
        return planned

    def hedge(self) -> PlannedAttempt:
        planned = self.call.plan_hedge()
        assert planned is not None
        self.call.start_attempt(planned)
        return planned

    def fail_all(self, error: AttemptError = REFUSED, *, after: float = 0.0) -> list[PlannedAttempt]:
        sent = []
        while (planned := self.send()) is not None:
            sent.append(planned)
            self.clock.now += after
            self.call.record_failure(planned, error)
        return sent

    @property
    def outstanding(self) -> list[int]:
        return [endpoint.outstanding for endpoint in self.endpoints]


def instance(number: int) -> ServiceInstance:
    return ServiceInstance(service="api", id=f"api-{number}", address="10.0.0.1", port=number, health=Health.PASSING)


def response(status: int, **headers: str) -> SimpleNamespace:
    return SimpleNamespace(status_code=status, headers=headers, close=lambda: None)


def ids(sent: list[PlannedAttempt]) -> list[str]:
    return [planned.endpoint.instance.id for planned in sent]


# -- attempts and the result -------------------------------------------------------------------------------------------


def test_attempts_each_go_to_another_instance():
    assert ids(Trial(max_attempts=5).fail_all()) == ["api-1", "api-2", "api-3"]


def test_attempts_are_at_most_max_attempts():
    assert ids(Trial(8, max_attempts=2).fail_all()) == ["api-1", "api-2"]


def test_unusable_response_ends_the_call_without_blaming_the_instance():
    trial = Trial()
    assert len(trial.fail_all(TOO_LARGE)) == 1
    assert trial.endpoints[0].failures_in_row == 0


def test_final_response_ends_the_call():
    trial, final = Trial(), response(404)
    trial.call.record_response(trial.send(), final)
    assert trial.send() is None
    assert trial.call.result() is final


def test_result_of_overloaded_instances_is_the_last_response():
    trial = Trial(2)
    trial.call.record_response(trial.send(), response(503))
    trial.call.record_response(trial.send(), response(502))
    assert trial.send() is None
    assert trial.call.result().status_code == 502


def test_result_of_a_response_and_a_later_failure_is_the_response():
    trial = Trial(2)
    trial.call.record_response(trial.send(), response(503))
    trial.call.record_failure(trial.send(), REFUSED)
    assert trial.send() is None
    assert trial.call.result().status_code == 503


def test_result_without_a_response_raises_with_the_attempts_and_the_cause():
    trial = Trial(2)
    trial.fail_all(after=0.25)
    with pytest.raises(
        CallFailedError, match=r"api-1 at http://10\.0\.0\.1:1: connection refused after 250 ms"
    ) as caught:
        trial.call.result()
    assert [attempt.instance for attempt in caught.value.attempts] == ["api-1", "api-2"]
    assert caught.value.__cause__ is REFUSED
    assert not isinstance(caught.value, DeadlineExceededError)


def test_attempt_after_the_deadline_is_not_planned():
    trial = Trial()
    assert len(trial.fail_all(RESET, after=10)) == 1
    with pytest.raises(DeadlineExceededError, match="within 10 s"):
        trial.call.result()


def test_call_that_begins_after_its_deadline_sends_no_attempt():
    trial = Trial()
    trial.clock.now += 10
    assert trial.send() is None
    with pytest.raises(DeadlineExceededError):
        trial.call.result()


def test_remaining_time_after_the_deadline_is_zero():
    trial = Trial()
    assert trial.call.remaining_s == 10
    trial.clock.now += 11
    assert trial.call.remaining_s == 0


@pytest.mark.parametrize(("remaining_s", "failures"), [(0.04, 0), (5.0, 1)])
def test_timeout_is_blamed_on_the_instance_only_if_it_had_time(remaining_s, failures):
    trial = Trial(1)
    trial.clock.now += 10 - remaining_s
    planned = trial.send()
    trial.clock.now += remaining_s
    trial.call.record_failure(planned, AttemptError(Outcome.MAYBE_RECEIVED, "no answer in time"))
    assert (planned.endpoint.failures_in_row, planned.endpoint.outstanding) == (failures, 0)
    with pytest.raises(DeadlineExceededError):
        trial.call.result()


def test_cancelled_attempt_is_not_blamed_on_the_instance():
    trial = Trial()
    planned = trial.send()
    assert trial.endpoints[0].outstanding == 1
    trial.clock.now += 5
    trial.call.cancel_attempt(planned)
    assert (trial.endpoints[0].failures_in_row, trial.endpoints[0].outstanding) == (0, 0)


# -- pauses and the budget ---------------------------------------------------------------------------------------------


def test_pause_after_a_refused_connection_is_zero():
    assert [planned.pause_s for planned in Trial(random_share=1.0).fail_all(REFUSED)] == [0, 0, 0]


def test_pauses_between_attempts_double():
    sent = Trial(4, max_attempts=4, random_share=1.0).fail_all(RESET)
    assert [planned.pause_s for planned in sent] == [0, 0.025, 0.05, 0.1]


@pytest.mark.parametrize("status", [429, 503])
def test_pause_after_an_overloaded_instance_is_its_retry_after(status):
    trial = Trial()
    trial.call.record_response(trial.send(), response(status, **{"Retry-After": "3600"}))
    assert trial.call.plan_attempt().pause_s == 1.0


def test_pause_beyond_the_deadline_ends_the_call():
    trial = Trial()
    trial.clock.now += 9.5
    trial.call.record_response(trial.send(), response(429, **{"Retry-After": "1"}))
    assert trial.call.plan_attempt() is None
    assert trial.call.result().status_code == 429


def test_used_up_budget_ends_the_call_and_is_named_in_the_error():
    trial = Trial()
    while trial.budget.try_retry(trial.clock()):
        pass
    assert len(trial.fail_all()) == 1
    with pytest.raises(CallFailedError, match="too many calls to this service are being tried again"):
        trial.call.result()


def test_successful_call_takes_nothing_from_the_budget():
    trial = Trial()
    allowed = 0
    trial.call.record_response(trial.send(), response(200))
    while trial.budget.try_retry(trial.clock()):
        allowed += 1
    assert allowed == 10


# -- hedges ------------------------------------------------------------------------------------------------------------


def test_hedge_goes_to_another_instance_after_half_of_the_time():
    trial = Trial()
    assert trial.send().hedge_at == 105.0
    trial.clock.now = 105.0
    hedge = trial.hedge()
    assert hedge.endpoint is trial.endpoints[1]
    assert hedge.hedge_at == 107.5


def test_hedge_time_is_hedge_after_of_the_policy():
    assert Trial(hedge_after=0.2).send().hedge_at == 100.2


def test_hedge_of_a_probe_comes_after_a_quarter_of_a_second():
    trial = Trial()
    trial.endpoints[0].probing = True
    assert trial.send().hedge_at == 100.25


def test_hedge_comes_once_a_response_is_later_than_almost_all_before_it():
    trial = Trial()
    for _ in range(100):
        trial.response_times.record(0.025)
    assert 100.05 <= trial.send().hedge_at <= 100.1


def test_hedge_never_comes_after_half_of_the_time():
    trial = Trial()
    for _ in range(100):
        trial.response_times.record(60.0)
    assert trial.send().hedge_at == 105.0


def test_hedge_after_of_the_policy_outweighs_what_is_late():
    trial = Trial(hedge_after=3.0)
    for _ in range(100):
        trial.response_times.record(0.025)
    assert trial.send().hedge_at == 103.0


def test_response_times_count_responses_of_calls_that_may_be_hedged():
    for hedged, late_s in [(True, pytest.approx(0.2, rel=0.25)), (False, None)]:
        times = ResponseTimes()
        for _ in range(20):
            trial = Trial(hedged=hedged)
            trial.call.use(InstanceGroup(trial.endpoints), trial.budget, times)
            planned = trial.send()
            trial.clock.now += 0.2
            trial.call.record_response(planned, response(200))
        assert times.late_s == late_s


@pytest.mark.parametrize("options", [{"hedged": False}, {"hedge": False}, {"size": 1}, {"max_attempts": 1}])
def test_attempt_that_must_not_or_can_not_go_elsewhere_has_no_hedge(options):
    assert Trial(**options).send().hedge_at is None


def test_response_of_a_hedge_cancels_the_first_attempt():
    trial = Trial()
    silent = trial.send()
    trial.clock.now += 5
    trial.call.record_response(trial.hedge(), response(200))
    trial.call.cancel_attempt(silent)
    assert trial.call.result().status_code == 200
    assert trial.endpoints[0].failures_in_row == 1, "five seconds of silence are a failure"
    assert trial.outstanding == [0, 0, 0]


def test_response_after_the_final_one_is_ignored():
    trial = Trial()
    first = trial.send()
    trial.clock.now += 5
    trial.call.record_response(trial.hedge(), response(200))
    trial.call.record_response(first, response(503))
    assert trial.call.is_over
    assert trial.call.result().status_code == 200
    assert trial.send() is None
    assert trial.outstanding == [0, 0, 0]


# -- hooks -------------------------------------------------------------------------------------------------------------


def test_hooks_receive_each_attempt_and_the_call():
    attempts: list[Attempt] = []
    calls: list[Any] = []
    trial = Trial(on_attempt=attempts.append, on_call=calls.append)
    trial.clock.now += 0.5
    trial.call.record_failure(trial.send(), REFUSED)
    trial.call.record_response(trial.send(), response(201))
    trial.call.report()
    assert [(attempt.service, attempt.instance, attempt.status) for attempt in attempts] == [
        ("api", "api-1", None),
        ("api", "api-2", 201),
    ]
    (report,) = calls
    assert (report.service, report.method, report.status, report.error, report.duration) == ("api", "GET", 201, "", 0.5)
    assert list(report.attempts) == attempts


def test_hook_that_raises_is_logged_and_does_not_fail_the_call(caplog):
    def fail(_: object) -> None:
        raise RuntimeError("broken metrics")

    trial = Trial(on_attempt=fail, on_call=fail)
    trial.call.record_response(trial.send(), response(200))
    trial.call.report()
    assert trial.call.result().status_code == 200
    assert caplog.text.count("A hook of the client failed.") == 2


@pytest.mark.parametrize(("status", "failed"), [(200, False), (404, False), (500, True)])
def test_record_call_counts_a_5xx_as_failed(status, failed):
    records: list[tuple[str, float, bool]] = []
    trial = Trial(record_call=lambda *record: records.append(record))
    planned = trial.send()
    trial.clock.now += 0.25
    trial.call.record_response(planned, response(status))
    trial.call.report()
    assert records == [("api", 0.25, failed)]


# -- any order of events -----------------------------------------------------------------------------------------------

ERRORS = {"refused": REFUSED, "reset": RESET, "too large": TOO_LARGE}
events = st.sampled_from([*ERRORS, 200, 404, 429, 500, 503])


@given(st.lists(events, max_size=12), st.booleans(), st.integers(1, 6), st.integers(1, 6))
def test_attempts_never_reach_an_instance_twice_nor_repeat_a_call_that_is_not_repeatable(
    sequence, repeatable, size, max_attempts
):
    trial, received, tried = Trial(size, repeatable=repeatable, max_attempts=max_attempts), 0, []
    for event in sequence:
        planned = trial.send()
        if planned is None:
            break
        tried.append(planned.endpoint)
        received += event != "refused"
        if isinstance(event, int):
            trial.call.record_response(planned, response(event))
        else:
            trial.call.record_failure(planned, ERRORS[event])
    assert len(tried) == len(set(tried)) <= max_attempts
    assert repeatable or received <= 1
    assert set(trial.outstanding) == {0}
