"""The brake, rule by rule."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from registry_admin.reconcile.brake import Approval, Brake, Limits, Member, Removal

NODE = "node-1"


def members(service: str, count: int, *, start: int = 0, **fields: object) -> list[Member]:
    return [Member(**{"service": service, "node": NODE, "id": f"{service}-{n}"} | fields) for n in range(start, count)]


def removals(service: str, count: int, *, start: int = 0, **fields: object) -> list[Removal]:
    return [Removal(**{"service": service, "node": NODE, "id": f"{service}-{n}"} | fields) for n in range(start, count)]


def held(brake: Brake, wanted: Iterable[Removal]) -> list[str]:
    return [removal.id for removal in brake.held(wanted)]


def approved(wanted: Iterable[Removal], approval: Approval = Approval.NAMED) -> dict[str, Approval]:
    return {removal.id: approval for removal in wanted}


def many_services(count: int) -> list[Member]:
    """Two instances of each of `count` services."""
    return [member for number in range(count) for member in members(f"svc{number}", 2)]


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "lost"), [(4, 3), (20, 4), (100, 20)])
def test_removals_within_the_limits_pass(size, lost):
    assert held(Brake(members=members("api", size, start=lost)), removals("api", lost)) == []


@pytest.mark.parametrize(("size", "lost"), [(6, 4), (19, 4), (100, 21)])
def test_removals_beyond_the_limits_are_held_with_the_numbers(size, lost):
    reasons = Brake(members=members("api", size, start=lost)).held(removals("api", lost))
    assert set(reasons.values()) == {
        f"the service api would lose {lost} of {size} instances, more than 20% within 10 minutes"
    }
    assert len(reasons) == lost


def test_limits_are_settings():
    brake = Brake(members=members("api", 10, start=6), limits=Limits(free=6, share=0.1))
    assert held(brake, removals("api", 6)) == []


def test_one_service_within_the_share_of_all_is_held_by_its_own_limit():
    wanted = removals("small", 5)
    brake = Brake(members=members("small", 10, start=5) + members("large", 90))
    assert held(brake, wanted) == [removal.id for removal in wanted]


def test_many_services_that_lose_one_each_are_held_by_the_limit_of_all():
    wanted = [removal for n in range(10) for removal in removals(f"svc{n}", 1)]
    brake = Brake(members=[member for member in many_services(10) if not member.id.endswith("-0")])
    assert set(brake.held(wanted).values()) == {
        "the inventory would lose 10 of 20 instances, more than 20% within 10 minutes"
    }


def test_node_has_a_limit_of_its_own():
    wanted = [removal for n in range(4) for removal in removals(f"svc{n}", 1, node="Node-2")]
    others = [member for n in range(4) for member in members(f"svc{n}", 20, start=1)]
    assert set(Brake(members=others).held(wanted).values()) == {
        "node Node-2 would lose 4 of 4 instances, more than 20% within 10 minutes"
    }


# -- whole services ----------------------------------------------------------------------------------------------------


def test_small_service_as_a_whole_is_held_though_it_is_a_small_share():
    reasons = Brake(members=members("large", 98)).held(removals("small", 2))
    assert set(reasons.values()) == {"the service small would leave Consul as a whole"}


def test_small_service_as_a_whole_passes_once_it_is_named():
    wanted = removals("small", 2)
    assert held(Brake(members=members("large", 98), approvals=approved(wanted)), wanted) == []


def test_service_of_which_only_critical_instances_stay_is_held():
    brake = Brake(members=members("api", 3, start=1, stands=False) + members("large", 98))
    assert held(brake, removals("api", 1)) == ["api-0"]


def test_critical_instance_may_leave_critical_ones():
    brake = Brake(members=members("api", 3, start=1, stands=False) + members("large", 98))
    assert held(brake, removals("api", 1, is_up=False)) == []


def test_held_service_does_not_hold_removals_of_others():
    wanted = removals("small", 2) + removals("large", 1)
    assert held(Brake(members=members("large", 98, start=1)), wanted) == ["small-0", "small-1"]


def test_inventory_without_declarations_holds_every_removal():
    assert set(Brake().held(removals("api", 1)).values()) == {"the inventory declares nothing"}


def test_renamed_service_is_held_until_it_is_named_and_is_no_loss_of_its_node():
    wanted = removals("old", 10, renamed=True)
    present = [Member(service="new", node=NODE, id=removal.id) for removal in wanted]
    assert len(held(Brake(members=present), wanted)) == 10
    assert held(Brake(members=present, approvals=approved(wanted[:3])), wanted[:3]) == []
    assert held(Brake(members=present, approvals=approved(wanted, Approval.COUNTED)), wanted) == []


# -- the window --------------------------------------------------------------------------------------------------------


def test_ten_small_steps_are_one_large_one():
    recent: list[Removal] = []
    for number in range(10):
        step = removals("api", number + 1, start=number)
        brake = Brake(members=members("api", 10, start=number + 1), recent=recent, approvals=approved(step))
        if held(brake, step):
            break
        recent += step
    assert len(recent) == 3


def test_removal_that_is_back_does_not_count():
    brake = Brake(members=members("api", 10, start=1), recent=removals("api", 5, start=1))
    assert held(brake, removals("api", 1)) == []


def test_new_instances_make_up_for_older_ones_of_the_same_service_only():
    wanted = removals("api", 10)
    new = {member.id for member in members("api", 20, start=10) + members("web", 20)}
    assert held(Brake(members=members("api", 20, start=10), new=new), wanted) == []
    other = members("api", 12, start=10) + members("web", 20)
    assert len(held(Brake(members=other, new=new), wanted)) == 10


def test_new_instances_do_not_make_up_for_new_ones():
    new = {member.id for member in members("api", 14)}
    assert len(held(Brake(members=members("api", 14, start=4), new=new), removals("api", 4))) == 4


def test_moved_declarations_take_the_place_of_what_they_were():
    new = {member.id for member in members("api", 14)}
    moved = {f"api-{number}": f"api-{number + 10}" for number in range(4)}
    assert held(Brake(members=members("api", 14, start=4), new=new, moved=moved), removals("api", 4)) == []
    down = members("api", 10, start=4) + members("api", 14, start=10, stands=False)
    assert len(held(Brake(members=down, new=new, moved=moved), removals("api", 4))) == 4


def test_confirmed_number_passes_every_limit_and_is_not_counted_afterwards():
    wanted = removals("api", 10)
    brake = Brake(members=members("web", 10), approvals=approved(wanted, Approval.COUNTED))
    assert held(brake, wanted) == []


def test_named_removals_pass_before_those_that_exceed_the_limit():
    wanted = removals("api", 3) + removals("web", 4)
    brake = Brake(
        members=members("api", 10, start=3) + members("web", 10, start=4), approvals=approved(removals("api", 3))
    )
    assert held(brake, wanted) == [f"web-{n}" for n in range(4)]


def test_blocked_brake_holds_every_removal_whoever_approves():
    wanted = removals("api", 1)
    brake = Brake(
        members=members("api", 10, start=1), approvals=approved(wanted, Approval.COUNTED), blocked="ACLs hide a part"
    )
    assert list(brake.held(wanted).values()) == ["ACLs hide a part"]
