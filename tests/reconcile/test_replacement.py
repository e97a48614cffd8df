"""Planning of a declaration that has a new ID, and of kept maintenance mode: make before break."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry_admin.consul import CheckResult, Health, ServiceInstance
from registry_admin.reconcile.plan import Action, Cause, Declared, Plan, SyncStatus
from tests.reconcile.planning import foreign, only_item, plan_for, registered, spec

OLD = spec("api-old", port=8000)
NEW = spec("api-new", port=8001)
MOVED = Declared(spec=NEW, replaces=("api-old",))
CRITICAL = {"health": Health.CRITICAL}
IN_MAINTENANCE = CheckResult(id="_service_maintenance:api-new", name="", status="critical", notes="a disk")


def actions(plan: Plan) -> dict[str, tuple[Action, Cause | None]]:
    return {item.id: (item.action, item.cause) for item in plan.items}


def maintained(instance: ServiceInstance) -> ServiceInstance:
    return replace(instance, health=Health.MAINTENANCE, checks=(*instance.checks, IN_MAINTENANCE))


def test_new_id_is_registered_and_the_former_one_stays():
    plan = plan_for(MOVED, registered(OLD))
    assert actions(plan) == {
        "api-new": (Action.REGISTER, Cause.NEVER_REGISTERED),
        "api-old": (Action.LEAVE, Cause.REPLACED),
    }
    assert plan.replacing == {"api-old": NEW}


@pytest.mark.parametrize("health", [Health.CRITICAL, Health.WARNING, Health.UNKNOWN])
def test_former_id_stays_while_the_new_one_does_not_pass(health):
    plan = plan_for(MOVED, registered(OLD), registered(NEW, health=health))
    assert actions(plan) == {
        "api-new": (Action.LEAVE, Cause.REPLACED),
        "api-old": (Action.LEAVE, Cause.REPLACED),
    }
    assert plan.statuses["api-new"] is SyncStatus.OUT_OF_SYNC
    assert "'api-old' stays in its place" in plan.items[0].reason


def test_former_id_leaves_once_the_new_one_passes():
    plan = plan_for(MOVED, registered(OLD), registered(NEW))
    assert actions(plan) == {"api-old": (Action.DEREGISTER, Cause.REPLACED)}
    assert plan.items[0].successor == NEW
    assert plan.statuses["api-new"] is SyncStatus.SYNCED


def test_former_id_stays_where_prune_is_off():
    assert actions(plan_for(MOVED, registered(OLD), registered(NEW), prune=False)) == {
        "api-old": (Action.LEAVE, Cause.REPLACED)
    }


def test_former_id_stays_while_the_new_one_differs_or_is_a_strangers():
    edited = registered(NEW, tags=("by hand",))
    assert actions(plan_for(MOVED, registered(OLD), edited))["api-old"] == (Action.LEAVE, Cause.REPLACED)
    assert actions(plan_for(MOVED, registered(OLD), foreign(NEW)))["api-old"] == (Action.LEAVE, Cause.REPLACED)


def test_former_id_leaves_with_a_disabled_declaration():
    plan = plan_for(replace(MOVED, enabled=False), registered(OLD), registered(NEW, **CRITICAL))
    assert {key: action for key, (action, _) in actions(plan).items()} == {
        "api-old": Action.DEREGISTER, "api-new": Action.DEREGISTER,
    }  # fmt: skip


def test_former_id_leaves_by_the_normal_rules_after_its_declaration_is_deleted():
    assert actions(plan_for([], registered(OLD))) == {"api-old": (Action.DEREGISTER, Cause.NOT_DECLARED)}


def test_all_former_ids_stay_after_two_changes():
    third = spec("api-third", port=8002)
    declared = Declared(spec=third, replaces=("api-old", "api-new"))
    waiting = plan_for(declared, registered(OLD), registered(NEW, **CRITICAL), registered(third, **CRITICAL))
    assert {item.action for item in waiting.items} == {Action.LEAVE}
    done = plan_for(declared, registered(OLD), registered(NEW, **CRITICAL), registered(third))
    assert {item.id for item in done.with_actions(Action.DEREGISTER)} == {"api-old", "api-new"}


def test_change_back_before_the_new_id_passed_removes_only_the_new_one():
    declared = Declared(spec=OLD, replaces=("api-new",))
    plan = plan_for(declared, registered(OLD), registered(NEW, **CRITICAL))
    assert actions(plan) == {"api-new": (Action.DEREGISTER, Cause.REPLACED)}


def test_swapped_ids_change_nothing():
    declared = [Declared(spec=OLD, replaces=("api-new",)), Declared(spec=NEW, replaces=("api-old",))]
    assert plan_for(declared, registered(OLD), registered(NEW)).items == ()


def test_former_id_that_registered_itself_or_is_a_strangers_is_never_removed():
    itself = registered(OLD, marks={"registry-self": "0"})
    for actual in (itself, foreign(OLD)):
        plan = plan_for(MOVED, actual, registered(NEW))
        assert plan.changes == ()
        assert plan.statuses["api-new"] is SyncStatus.SYNCED


def test_former_id_that_differs_in_case_only_leaves_first():
    declared = Declared(spec=spec("API-OLD", port=8001), replaces=("api-old",))
    plan = plan_for(declared, registered(OLD))
    assert actions(plan)["api-old"] == (Action.DEREGISTER, Cause.NOT_DECLARED)


def test_removal_of_the_former_id_belongs_to_plans_of_the_new_one():
    renamed = Declared(spec=spec("api-new", name="renamed", port=8001), replaces=("api-old",))
    plan = plan_for(renamed, registered(OLD), registered(renamed.spec))
    assert [item.id for item in plan.restricted_to({"renamed"}).items] == ["api-old"]
    assert [item.id for item in plan.restricted_to_items({"api-new"}).items] == ["api-old"]
    assert plan.restricted_to({"other"}).items == ()


# -- maintenance ------------------------------------------------------------------------------------------------------


def test_missing_instance_is_registered_in_maintenance_if_it_was():
    item = only_item(plan_for(Declared(spec=NEW, maintenance="a disk")))
    assert (item.action, item.maintenance) == (Action.REGISTER, "a disk")


def test_recovered_instance_returns_in_maintenance():
    declared = Declared(spec=NEW, maintenance="a disk", evicted_reason="dead", recovered=True)
    item = only_item(plan_for(declared))
    assert (item.action, item.passing, item.maintenance) == (Action.REGISTER, True, "a disk")


def test_lost_maintenance_is_put_back():
    declared = Declared(spec=NEW, maintenance="a disk", lost_maintenance=True)
    item = only_item(plan_for(declared, registered(NEW)))
    assert (item.action, item.cause, item.maintenance) == (Action.UPDATE, Cause.MAINTENANCE_LOST, "a disk")
    assert plan_for(declared, maintained(registered(NEW))).items == ()


def test_maintenance_that_is_kept_and_not_lost_is_no_difference():
    assert plan_for(Declared(spec=NEW, maintenance="a disk"), registered(NEW)).items == ()


def test_former_id_leaves_once_the_new_one_is_in_maintenance():
    plan = plan_for(replace(MOVED, maintenance="a disk"), registered(OLD), maintained(registered(NEW)))
    assert actions(plan) == {"api-old": (Action.DEREGISTER, Cause.REPLACED)}
