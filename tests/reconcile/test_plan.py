"""Plans as data: safety, counts and serialization."""

from __future__ import annotations

import json

import pytest

from registry_admin.reconcile.brake import Approval, Brake, Member, apply_brake
from registry_admin.reconcile.plan import Action, Declared, Plan
from tests.reconcile.planning import foreign, plan_for, registered, spec

# -- the brake --------------------------------------------------------------------------------------------------------


def kept_and_gone(kept: int, gone: int, **options) -> Plan:
    """Returns a plan that removes `gone` instances of service gone, and leaves `kept` of service kept."""
    keeping = [spec(f"kept-{n}", name="kept", port=n + 1) for n in range(kept)]
    going = [spec(f"gone-{n}", name="gone", port=n + 1001) for n in range(gone)]
    return plan_for([Declared(spec=declared) for declared in keeping], *map(registered, keeping + going), **options)


def test_held_items_are_no_changes_and_say_why():
    plan = apply_brake(kept_and_gone(1, 2), Brake())
    assert plan.changes == ()
    assert {item.held for item in plan.held} == {"the inventory declares nothing"}
    assert plan.held[0].reason == "owned but no longer declared; held by the brake: the inventory declares nothing"
    assert plan.summary == "Plan: 0 to register, 0 to update, 2 to deregister, 0 left alone; 2 held by the brake"


def test_refusal_names_what_would_go_and_how_to_confirm_it():
    plan = kept_and_gone(1, 2)
    assert plan.refusal is None
    refusal = apply_brake(plan, Brake()).refusal
    assert refusal.would_remove == ("gone-0", "gone-1")
    assert "The brake holds 2 of 2 removals: the inventory declares nothing." in str(refusal)
    assert "sync_registry --expect-removals 2" in str(refusal)


def test_expected_number_of_removals_passes_and_is_recorded_as_confirmed():
    plan = apply_brake(kept_and_gone(1, 2), Brake(), expected=2)
    assert [(item.id, item.confirmed) for item in plan.changes] == [("gone-0", True), ("gone-1", True)]


@pytest.mark.parametrize("expected", [0, 1, 3])
def test_another_number_of_removals_than_expected_is_held(expected):
    plan = apply_brake(kept_and_gone(1, 2), Brake(), expected=expected)
    assert plan.changes == ()
    assert {item.held for item in plan.held} == {f"it would be 2 removals, and {expected} are expected"}


def test_expected_number_does_not_release_what_is_blocked():
    assert apply_brake(kept_and_gone(1, 2), Brake(blocked="in doubt"), expected=2).changes == ()


def test_force_releases_everything():
    plan = apply_brake(kept_and_gone(1, 2), Brake(blocked="in doubt"), force=True)
    assert [item.id for item in plan.changes] == ["gone-0", "gone-1"]


def test_blocked_brake_holds_evictions_and_lets_other_changes_pass():
    plan = plan_for(
        [Declared(spec=spec("new")), Declared(spec=spec("old", port=1)), Declared(spec=spec("dead"))],
        registered(spec("old")),
        registered(spec("dead")),
        evict={"dead": "dead"},
    )
    plan = apply_brake(plan, Brake(blocked="ACLs hide a part"))
    assert [item.action for item in plan.changes] == [Action.REGISTER, Action.UPDATE]
    assert [item.held for item in plan.with_actions(Action.EVICT)] == ["ACLs hide a part"]


def test_renaming_counts_as_a_removal_from_the_former_service():
    old = spec("a", name="old")
    plan = plan_for(Declared(spec=spec("a", name="new"), applied_digest=old.digest), registered(old))
    assert [item.id for item in plan.removals] == ["a"]
    members = [Member("new", "node-1", "a")]
    assert apply_brake(plan, Brake(members=members)).changes == ()
    assert len(apply_brake(plan, Brake(members=members, approvals={"a": Approval.NAMED})).changes) == 1


# -- the plan ---------------------------------------------------------------------------------------------------------


def test_plan_items_are_sorted_by_service_and_id():
    declared = [Declared(spec=spec(name + number, name=name)) for name in ("web", "api") for number in ("2", "1")]
    plan = plan_for(declared, foreign(spec("a", name="zebra")))
    assert [item.id for item in plan.items] == ["api1", "api2", "web1", "web2", "a"]


def test_summary_counts_each_action():
    plan = plan_for(
        [Declared(spec=spec("api-1")), Declared(spec=spec("api-2", port=1))],
        registered(spec("api-2")),
        registered(spec("api-3")),
        foreign(spec("api-4")),
    )
    assert plan.summary == "Plan: 1 to register, 1 to update, 1 to deregister, 1 left alone"


# -- serialization ----------------------------------------------------------------------------------------------------


def test_summary_with_evictions_counts_them():
    plan = plan_for(Declared(spec=spec()), registered(spec()), evict={"api-1": "dead"})
    assert plan.summary == "Plan: 0 to register, 0 to update, 0 to deregister, 1 to evict, 0 left alone"


def test_plan_as_dict_has_counts_and_the_label_and_code_of_each_cause():
    data = plan_for(Declared(spec=spec()), foreign(spec("x"))).as_dict()
    assert data["summary"] == {"register": 1, "update": 0, "deregister": 0, "evict": 0, "left_alone": 1, "held": 0}
    assert [(item["cause"], item["cause_code"]) for item in data["items"]] == [
        ("never registered", "never_registered"),
        ("someone else's", "foreign"),
    ]
    assert json.loads(json.dumps(data)) == data
