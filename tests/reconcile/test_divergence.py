"""Our agent and the catalog: when a difference is confirmed, and what follows for the plan."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from registry_admin.consul import Health, ServiceInstance
from registry_admin.consul.own_node import CatalogComparison
from registry_admin.reconcile.brake import Brake, apply_brake
from registry_admin.reconcile.conclusion import Conclusion, conclude
from registry_admin.reconcile.divergence import ORPHANED, Difference, Divergence, follow, sync_interval
from registry_admin.reconcile.ownership import FormerDeclarations
from registry_admin.reconcile.plan import Action, Cause, Declared, Plan, SyncStatus
from registry_admin.reconcile.planner import make_plan
from tests.reconcile.planning import NODE, OWNER, claim_of, foreign, placed, registered, snapshot_of, spec

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEXT = "the catalog shows it as passing, and its agent as critical"
DIFFERING = CatalogComparison(differing={"api-1": TEXT})
MINUTE = timedelta(seconds=60)


def at(comparison: CatalogComparison, seconds: float, before: Divergence | None = None) -> Divergence:
    known = before.differences if before else {}
    return follow(comparison, known, now=NOW + timedelta(seconds=seconds), interval=MINUTE)


def orphan(instance: ServiceInstance | None = None) -> ServiceInstance:
    return replace(placed(instance or registered(spec()), NODE), health=Health.UNKNOWN, checks=())


def orphaned(instance: ServiceInstance | None = None, *, confirmed: bool = True) -> Divergence:
    instance_of_catalog = orphan(instance)
    return Divergence(
        differences={instance_of_catalog.id: Difference(ORPHANED, NOW)},
        confirmed=frozenset({instance_of_catalog.id} if confirmed else ()),
        orphans={instance_of_catalog.id: instance_of_catalog},
        interval=MINUTE,
    )


def plan_with(declared: list[Declared], *local: ServiceInstance, divergence: Divergence, **options: Any) -> Plan:
    former = FormerDeclarations(endpoints={"api-1": frozenset({("10.0.0.1", 8000)})})
    return make_plan(
        declared, snapshot_of(*local), **{"owner": OWNER, "former": former, "divergence": divergence} | options
    )


# -- confirmation -----------------------------------------------------------------------------------------------------


def test_follow_difference_seen_once_is_not_confirmed():
    divergence = at(DIFFERING, 0)
    assert (divergence.differences.keys(), divergence.confirmed) == ({"api-1"}, frozenset())
    assert divergence.due_in_s(NOW) == 60


def test_follow_same_difference_after_the_interval_is_confirmed():
    assert not at(DIFFERING, 59.9, at(DIFFERING, 0)).confirmed
    divergence = at(DIFFERING, 60, at(DIFFERING, 0))
    assert (divergence.confirmed, divergence.due_in_s(NOW)) == ({"api-1"}, None)


def test_follow_difference_of_another_kind_begins_anew():
    other = CatalogComparison(differing={"api-1": "the catalog doesn't have it"})
    assert not at(other, 60, at(DIFFERING, 0)).confirmed


def test_follow_difference_that_was_gone_at_a_look_begins_anew():
    equal = at(CatalogComparison(), 30, at(DIFFERING, 0))
    assert not at(DIFFERING, 60, equal).confirmed


def test_follow_difference_from_the_future_begins_anew():
    assert at(DIFFERING, 0, at(DIFFERING, 3600)).due_in_s(NOW) == 60


@pytest.mark.parametrize(("nodes", "seconds"), [(1, 75), (128, 75), (129, 135), (256, 135), (512, 195)])
def test_sync_interval_grows_with_the_datacenter_as_in_consul(nodes, seconds):
    assert sync_interval(nodes) == timedelta(seconds=seconds)


def test_shown_instance_that_differs_is_not_known_to_pass():
    passing = registered(spec(), health=Health.PASSING)
    divergent = at(DIFFERING, 0).shown(snapshot_of(passing, registered(spec("api-2"), health=Health.PASSING)), [])
    assert {key: instance.health for key, instance in divergent.local.items()} == {
        "api-1": Health.UNKNOWN, "api-2": Health.PASSING,
    }  # fmt: skip


# -- what differs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "action"), [(0, Action.LEAVE), (60, Action.UPDATE)])
def test_instance_as_declared_that_differs_in_the_catalog_is_registered_anew_once_that_is_confirmed(seconds, action):
    divergence = at(DIFFERING, seconds, at(DIFFERING, 0))
    plan = plan_with([Declared(spec=spec(), claim=claim_of())], registered(spec()), divergence=divergence)
    (item,) = plan.items
    assert (item.action, item.cause, item.reason) == (action, Cause.DIVERGED, TEXT)
    assert plan.statuses == {"api-1": SyncStatus.OUT_OF_SYNC}
    expected = Conclusion.HELD if action is Action.LEAVE else Conclusion.PENDING
    assert conclude(plan, invalid={}) is expected


def test_foreign_instance_that_differs_in_the_catalog_is_left_alone():
    plan = plan_with([], foreign(spec()), divergence=at(DIFFERING, 60, at(DIFFERING, 0)))
    assert [(item.action, item.cause) for item in plan.items] == [(Action.LEAVE, Cause.FOREIGN)]


def test_token_that_changed_registers_anew_what_is_ours_and_no_module():
    declared = [Declared(spec=spec(), claim=claim_of()), Declared(spec=spec("m"), claim=claim_of("m"))]
    module = registered(spec("m"), marks={"registry-self": "d"})
    plan = plan_with(declared, registered(spec()), module, divergence=Divergence(), token_changed=True)
    assert [(item.id, item.action, item.cause) for item in plan.items] == [
        ("api-1", Action.UPDATE, Cause.TOKEN_CHANGED)
    ]


# -- orphans ----------------------------------------------------------------------------------------------------------

EVICTED = Declared(spec=spec(), claim=claim_of(), evicted_reason="critical for 30 s")


@pytest.mark.parametrize(("confirmed", "action"), [(False, Action.LEAVE), (True, Action.DEREGISTER)])
@pytest.mark.parametrize(
    ("declared", "status"),
    [
        ([], None),
        ([EVICTED], SyncStatus.OUT_OF_SYNC),
        ([replace(EVICTED, evicted_reason="", enabled=False)], SyncStatus.DISABLED),
    ],
    ids=["undeclared", "evicted", "disabled"],
)
def test_orphan_leaves_the_catalog_once_it_is_confirmed(declared, status, confirmed, action):
    plan = plan_with(declared, divergence=orphaned(confirmed=confirmed))
    (item,) = plan.items
    assert (item.action, item.cause, item.is_removal) == (
        action,
        Cause.ORPHANED,
        action != "leave alone" and not declared,
    )
    assert plan.statuses.get("api-1") is status
    assert conclude(plan, invalid={}) is (Conclusion.PENDING if confirmed else Conclusion.HELD)


def test_orphan_that_is_declared_is_registered_and_not_removed():
    plan = plan_with([Declared(spec=spec(), claim=claim_of())], divergence=orphaned())
    assert [(item.action, item.status) for item in plan.items] == [(Action.REGISTER, SyncStatus.MISSING)]


@pytest.mark.parametrize("instance", [foreign(spec()), registered(spec(), marks={"registry-owner": "another"})])
def test_orphan_of_somebody_else_is_left_in_the_catalog(instance):
    assert plan_with([], divergence=orphaned(instance)).items == ()


def test_orphan_that_was_never_declared_here_is_left_in_the_catalog():
    assert plan_with([], divergence=orphaned(), former=FormerDeclarations()).items == ()


def test_orphan_with_prune_off_is_left_in_the_catalog():
    (item,) = plan_with([], divergence=orphaned(), prune=False).items
    assert (item.action, item.cause) == (Action.LEAVE, Cause.ORPHANED)


@pytest.mark.parametrize("declared", [[], [EVICTED]], ids=["undeclared", "evicted"])
def test_orphan_is_held_while_the_look_is_in_doubt(declared):
    plan = apply_brake(plan_with(declared, divergence=orphaned()), Brake(blocked="in doubt"))
    assert (len(plan.held), plan.changes) == (1, ())
