"""A plan as data: what is safe in it, what is counted, and how it is told."""

from __future__ import annotations

import json

import pytest

from registry_admin.errors import UnsafePlanError
from registry_admin.reconcile.plan import Action, Cause, Declared, Plan
from tests.unit.planning import foreign, plan_for, seen, spec

# -- safety -----------------------------------------------------------------------------------------------------------


def crowd(owned: int, *, to_remove: int) -> Plan:
    """A plan over `owned` instances of ours of which `to_remove` aren't declared any more."""
    every = [spec(f"api-{number}", port=number + 1) for number in range(owned)]
    return plan_for([Declared(spec=one) for one in every[to_remove:]], *map(seen, every))


@pytest.mark.parametrize(("owned", "to_remove"), [(4, 3), (20, 4), (100, 20), (5, 0)])
def test_a_few_removals_are_safe(owned, to_remove):
    plan = crowd(owned, to_remove=to_remove)
    plan.check_safe()
    assert len(plan.changes) == to_remove


@pytest.mark.parametrize(("owned", "to_remove"), [(5, 4), (19, 4), (100, 21)])
def test_more_than_a_fifth_and_more_than_three_are_not(owned, to_remove):
    plan = crowd(owned, to_remove=to_remove)
    with pytest.raises(UnsafePlanError, match=f"would remove {to_remove} of {owned} .* --force") as caught:
        plan.check_safe()
    assert caught.value.would_remove == tuple(item.id for item in plan.changes)
    assert plan.without_removals().changes == ()


def test_a_single_removal_is_unsafe_where_nothing_at_all_is_declared():
    with pytest.raises(UnsafePlanError, match="declares nothing"):
        crowd(1, to_remove=1).check_safe()


def test_nothing_declared_and_nothing_owned_is_safe():
    plan_for([], foreign(spec())).check_safe()


def test_without_removals_keeps_the_rest():
    plan = plan_for([Declared(spec=spec("api-2"))], seen(spec("api-1")), foreign(spec("api-3")))
    kept = [item.action for item in plan.without_removals().items]
    assert kept == [Action.REGISTER, Action.LEAVE]


def test_a_plan_is_sorted_by_service_and_then_by_id():
    declared = [Declared(spec=spec(name + number, name=name)) for name in ("web", "api") for number in ("2", "1")]
    plan = plan_for(declared, foreign(spec("a", name="zebra")))
    assert [item.id for item in plan.items] == ["api1", "api2", "web1", "web2", "a"]


def test_the_summary_counts():
    plan = plan_for(
        [Declared(spec=spec("api-1")), Declared(spec=spec("api-2", port=1))],
        seen(spec("api-2")),
        seen(spec("api-3")),
        foreign(spec("api-4")),
    )
    assert plan.summary == "Plan: 1 to register, 1 to update, 1 to deregister, 1 left alone"


# -- doubt ------------------------------------------------------------------------------------------------------------


def test_where_there_is_doubt_a_single_removal_is_refused_and_the_reason_named():
    plan = plan_for([Declared(spec=spec("kept"))], seen(spec("gone")), seen(spec("kept")), doubt="ACLs hide a part")
    with pytest.raises(UnsafePlanError, match=r"ACLs hide a part.*--force") as caught:
        plan.check_safe()
    assert caught.value.would_remove == ("gone",)
    assert plan.without_removals().changes == ()


def test_where_there_is_doubt_a_restricted_plan_is_refused_too_and_evictions_with_it():
    plan = plan_for(Declared(spec=spec()), seen(spec()), evict={"api-1": "dead"}, doubt="no leader").restricted_to(
        {"api"}
    )
    with pytest.raises(UnsafePlanError, match="no leader"):
        plan.check_safe()
    assert plan.without_removals().changes == ()


def test_doubt_holds_up_nothing_that_removes_nothing():
    plan = plan_for([Declared(spec=spec("new")), Declared(spec=spec("old", port=1))], seen(spec("old")), doubt="?")
    plan.check_safe()
    assert len(plan.without_removals().changes) == 2


def test_evictions_are_no_removals_by_mistake():
    every = [spec(f"api-{number}", port=number + 1) for number in range(4)]
    plan = plan_for([Declared(spec=one) for one in every], *map(seen, every), evict={one.id: "dead" for one in every})
    plan.check_safe()
    assert len(plan.without_removals().of(Action.EVICT)) == 4


def test_the_shares_are_for_whole_plans_only():
    crowd(5, to_remove=5).restricted_to({"api"}).check_safe()


# -- told -------------------------------------------------------------------------------------------------------------


def test_the_summary_mentions_evictions_where_there_are_any():
    plan = plan_for(Declared(spec=spec()), seen(spec()), evict={"api-1": "dead"})
    assert plan.summary == "Plan: 0 to register, 0 to update, 0 to deregister, 1 to evict, 0 left alone"


def test_as_plain_data_it_has_counts_and_causes():
    told = plan_for(Declared(spec=spec()), foreign(spec("x"))).as_dict()
    assert told["summary"] == {"register": 1, "update": 0, "deregister": 0, "evict": 0, "left_alone": 1}
    assert [item["cause"] for item in told["items"]] == [Cause.NEVER_REGISTERED, Cause.FOREIGN]
    assert json.loads(json.dumps(told)) == told
