"""The conclusion on a plan: the exit code, and what it names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry_admin.reconcile.brake import Brake, apply_brake
from registry_admin.reconcile.conclusion import Conclusion, conclude, deviations
from registry_admin.reconcile.plan import Declared, Plan
from tests.reconcile.planning import foreign, plan_for, registered, spec


def conclusion(plan: Plan | None, **options: object) -> Conclusion:
    return conclude(plan, **{"invalid": {}} | options)


def verified() -> Plan:
    return plan_for(Declared(spec=spec()), registered(spec()))


def test_everything_as_declared_is_verified():
    assert (conclusion(verified()), deviations(verified())) == (Conclusion.VERIFIED, ())


def test_foreign_instances_that_nothing_declares_are_no_deviation():
    assert conclusion(plan_for([], foreign(spec("theirs")))) is Conclusion.VERIFIED


def test_changes_to_make_are_pending():
    assert conclusion(plan_for(Declared(spec=spec()))) is Conclusion.PENDING


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (plan_for(Declared(spec=spec()), foreign(spec())), "someone else registered"),
        (plan_for(Declared(spec=spec(), departed=True)), "left by itself"),
        (plan_for(Declared(spec=spec(), evicted_reason="dead")), "dead"),
        (plan_for(Declared(spec=spec(), enabled=False), foreign(spec())), "disabled, and registered by someone else"),
        (apply_brake(plan_for([], registered(spec())), Brake()), "held by the brake"),
    ],
    ids=["foreign", "departed", "evicted", "disabled", "held"],
)
def test_what_is_left_alone_is_held_and_named_with_its_reason(plan, reason):
    assert conclusion(plan) is Conclusion.HELD
    assert [deviation.id for deviation in deviations(plan)] == ["api-1"]
    assert reason in deviations(plan)[0].reason


def test_disabled_instance_that_is_absent_is_verified():
    assert conclusion(plan_for(Declared(spec=spec(), enabled=False))) is Conclusion.VERIFIED


def test_status_without_an_item_is_a_deviation():
    plan = verified()
    plan = replace(plan, statuses=dict.fromkeys(plan.statuses, "missing"))
    assert conclusion(plan) is Conclusion.HELD
    assert str(deviations(plan)[0]) == "api-1: its status is missing"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"failed": True, "incomplete": "?"}, Conclusion.ERROR),
        ({"error": OSError(), "incomplete": "?"}, Conclusion.ERROR),
        ({"invalid": {"a": "port"}}, Conclusion.ERROR),
        ({"incomplete": "?"}, Conclusion.INCOMPLETE),
    ],
)
def test_faults_outweigh_the_state(options, expected):
    assert conclusion(verified(), **options) is expected


def test_doubt_outweighs_what_is_left_alone():
    plan = plan_for(Declared(spec=spec()), foreign(spec()), doubt="restored?")
    assert conclusion(plan) is Conclusion.DOUBT


def test_run_without_a_plan_is_an_error():
    assert conclusion(None) is Conclusion.ERROR
