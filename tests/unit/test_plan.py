"""The planner, by properties over anything that may be declared and observed, and each of its rules by an example."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.consul import CheckKind, CheckResult, CheckSpec, ServiceInstance, ServiceSpec
from registry_admin.consul.types import META_DIGEST, META_OWNER, META_SELF
from registry_admin.errors import UnsafePlanError
from registry_admin.reconcile.plan import (
    Action,
    Declared,
    FieldChange,
    Plan,
    PlanItem,
    SyncStatus,
    differences,
    make_plan,
)

OWNER = "us"


def spec(instance_id: str = "api-1", **fields: Any) -> ServiceSpec:
    return ServiceSpec(**{"name": "api", "address": "10.0.0.1", "port": 8000, "id": instance_id} | fields)


def seen(wanted: ServiceSpec, *, marks: Mapping[str, str] | None = None, **fields: Any) -> ServiceInstance:
    """What the agent shows after it was registered with this spec and these marks (ours, unless told otherwise)."""
    payload = wanted.payload(marks={META_OWNER: OWNER} if marks is None else marks)
    raw = payload | {"Service": payload["Name"]}
    checks = tuple(CheckResult(id=check["CheckID"], name="", status="passing") for check in payload.get("Checks", ()))
    return replace(ServiceInstance.from_agent(raw, checks), **fields)


def foreign(wanted: ServiceSpec, **fields: Any) -> ServiceInstance:
    """Registered by someone who has never heard of us."""
    return seen(wanted, marks={}, meta=dict(wanted.meta), **fields)


def plan_for(
    declared: list[Declared] | Declared, *observed: ServiceInstance, prune: bool = True, owner: str = OWNER
) -> Plan:
    wanted = [declared] if isinstance(declared, Declared) else declared
    return make_plan(wanted, {one.id: one for one in observed}, owner=owner, prune=prune)


def only_item(plan: Plan) -> PlanItem:
    (item,) = plan.items
    return item


def applied(plan: Plan, observed: Mapping[str, ServiceInstance]) -> dict[str, ServiceInstance]:
    """What an agent would show once the plan is carried out, with the marks that apply_items gives."""
    after = dict(observed)
    for item in plan.changes:
        if item.action is Action.DEREGISTER:
            del after[item.id]
        else:
            assert item.spec
            marks = {META_OWNER: plan.owner}
            if item.observed and item.observed.registered_itself:
                marks[META_SELF] = item.observed.meta[META_SELF]
            after[item.id] = seen(item.spec, marks=marks)
    return after


# -- properties -------------------------------------------------------------------------------------------------------

IDS = ["api-1", "api-2", "api-3", "web-1", "web-2"]
TWINS = ["API-1", "Web-1"]  # the same as others to Consul's catalog
_words = st.sampled_from(["v1", "v2", "blue"])
_checks = st.builds(CheckSpec, kind=st.sampled_from(CheckKind), interval=st.sampled_from(["10s", "20s"]))


def specs(ids: list[str]) -> st.SearchStrategy[ServiceSpec]:
    return st.builds(
        ServiceSpec,
        id=st.sampled_from(ids),
        name=st.sampled_from(["api", "web"]),
        address=st.sampled_from(["10.0.0.1", "host.example"]),
        port=st.sampled_from([80, 8000]),
        tags=st.sets(_words).map(tuple),
        meta=st.dictionaries(_words, _words, max_size=2),
        weight=st.integers(1, 3),
        check=_checks,
    )


def declarations(ids: list[str] = IDS) -> st.SearchStrategy[list[Declared]]:
    one = st.builds(
        Declared,
        spec=specs(ids),
        enabled=st.booleans(),
        claimed=st.booleans(),
        departed=st.sampled_from([False, False, False, True]),
    )
    return st.lists(one, max_size=6, unique_by=lambda declared: declared.spec.id.lower())


@st.composite
def observations(draw: st.DrawFn, ids: list[str] = IDS) -> dict[str, ServiceInstance]:
    found = {}
    for wanted in draw(st.lists(specs(ids), max_size=6)):
        marks = {
            **draw(st.sampled_from([{}, {META_OWNER: OWNER}, {META_OWNER: OWNER}, {META_OWNER: "another"}])),
            **draw(st.sampled_from([{}, {}, {META_SELF: "0" * 20}])),
        }
        instance = seen(wanted, marks=marks, tag_override=draw(st.booleans()))
        digest = draw(st.sampled_from(["kept", "kept", "wrong", "none"]))
        if digest != "kept":
            meta = {key: value for key, value in instance.meta.items() if key != META_DIGEST}
            instance = replace(instance, meta=meta | ({META_DIGEST: "wrong"} if digest == "wrong" else {}))
        found[wanted.id] = instance
    return found


@given(declarations(), observations())
def test_applying_a_plan_gives_what_is_declared(declared, observed):
    plan = make_plan(declared, observed, owner=OWNER)
    after = applied(plan, observed)
    left = {item.id: item for item in plan.of(Action.LEAVE)}
    for one in declared:
        have = after.get(one.spec.id)
        if one.spec.id in left or (not one.enabled and have is None):
            continue
        assert one.enabled
        assert have is not None
        assert differences(one.spec, have) == ()
    names = {one.spec.id for one in declared}
    for instance_id, have in after.items():
        assert instance_id in names or have.owner != OWNER or have.registered_itself


@given(declarations(), observations())
def test_a_second_plan_is_empty(declared, observed):
    after = applied(make_plan(declared, observed, owner=OWNER), observed)
    assert make_plan(declared, after, owner=OWNER).changes == ()


@given(declarations(IDS + TWINS), observations(IDS + TWINS), st.booleans())
def test_nothing_that_is_neither_owned_nor_declared_is_changed(declared, observed, prune):
    plan = make_plan(declared, observed, owner=OWNER, prune=prune)
    names = {one.spec.id for one in declared}
    for item in plan.changes:
        assert item.id in names or observed[item.id].owner == OWNER
    ours = {one.spec.id for one in declared if one.claimed} | {k for k, v in observed.items() if v.owner == OWNER}
    for item in plan.changes:  # and what is declared but somebody else's isn't either
        if item.id in observed:
            assert item.id in ours or observed[item.id].registered_itself
            assert observed[item.id].owner in ("", OWNER)


@given(declarations(IDS + TWINS), observations(IDS + TWINS))
def test_no_registration_takes_an_id_that_differs_from_a_present_one_in_case_only(declared, observed):
    present = {instance_id.lower() for instance_id in observed}
    for item in make_plan(declared, observed, owner=OWNER).of(Action.REGISTER):
        assert item.id.lower() not in present


@given(declarations(IDS + TWINS), observations(IDS + TWINS), st.randoms(use_true_random=False))
def test_the_order_of_inputs_does_not_matter(declared, observed, chance):
    plan = make_plan(declared, observed, owner=OWNER)
    shuffled, pairs = list(declared), list(observed.items())
    chance.shuffle(shuffled)
    chance.shuffle(pairs)
    again = make_plan(shuffled, dict(pairs), owner=OWNER)
    assert (again.items, dict(again.statuses)) == (plan.items, dict(plan.statuses))


@given(declarations(), observations())
def test_every_instance_has_a_status_and_the_plan_is_plain_json(declared, observed):
    plan = make_plan(declared, observed, owner=OWNER)
    assert plan.statuses.keys() == {one.spec.id for one in declared} | observed.keys()
    shown = json.loads(json.dumps(plan.as_dict()))
    assert sum(shown["summary"].values()) == len(plan.items) == len(shown["items"])


# -- what is declared -------------------------------------------------------------------------------------------------


def test_what_is_missing_is_registered():
    item = only_item(plan_for(Declared(spec=spec())))
    assert (item.action, item.status, item.reason) == (Action.REGISTER, SyncStatus.MISSING, "not in Consul yet")
    assert item.spec == spec()


def test_what_was_there_before_and_is_not_any_more_is_registered_and_the_reason_says_so():
    item = only_item(plan_for(Declared(spec=spec(), claimed=True)))
    assert (item.action, item.reason) == (Action.REGISTER, "not in Consul any more")


def test_what_is_as_declared_is_synced_and_in_no_plan():
    plan = plan_for(Declared(spec=spec()), seen(spec()))
    assert plan.items == ()
    assert plan.statuses == {"api-1": SyncStatus.SYNCED}


@pytest.mark.parametrize(
    ("wanted", "change"),
    [
        (spec(port=8001), FieldChange(field="port", before=8000, after=8001)),
        (spec(address="10.0.0.2"), FieldChange(field="address", before="10.0.0.1", after="10.0.0.2")),
        (spec(weight=5), FieldChange(field="weight", before=1, after=5)),
        (spec(tags=("b", "a")), FieldChange(field="tags", before=[], after=["a", "b"])),
        (spec(meta={"v": "2"}), FieldChange(field="meta.v", before=None, after="2")),
        (spec(name="renamed"), FieldChange(field="name", before="api", after="renamed")),
    ],
)
def test_what_differs_is_updated_and_the_plan_names_the_field(wanted, change):
    item = only_item(plan_for(Declared(spec=wanted), seen(spec())))
    assert (item.action, item.status, item.changes) == (Action.UPDATE, SyncStatus.OUT_OF_SYNC, (change,))


def test_a_check_that_differs_is_known_by_the_digest_alone():
    wanted = spec(check=CheckSpec(kind=CheckKind.TCP))
    item = only_item(plan_for(Declared(spec=wanted), seen(spec())))
    (change,) = item.changes
    assert item.action is Action.UPDATE
    assert (change.field, change.before) == ("check", "another definition")
    assert change.after.startswith("tcp, every 10s")


def test_an_instance_without_our_digest_has_an_unknown_check_and_is_registered_anew():
    have = foreign(spec())
    item = only_item(plan_for(Declared(spec=spec(), claimed=True), have))
    assert FieldChange(field="check", before="not registered by us", after=str(spec().check)) in item.changes


def test_where_others_may_change_tags_theirs_stay():
    have = seen(spec(tags=("theirs",)), tag_override=True)
    have = replace(have, meta={**have.meta, META_DIGEST: spec(tags=("ours",)).digest})
    plan = plan_for(Declared(spec=spec(tags=("ours",))), have)
    assert plan.items == ()


def test_a_renamed_service_is_found_under_both_names():
    plan = plan_for(Declared(spec=spec(name="new")), seen(spec(name="old")))
    assert plan.restricted_to({"old"}).items == plan.restricted_to({"new"}).items == plan.items != ()
    assert plan.restricted_to({"another"}).items == ()


def test_our_mark_taken_off_by_hand_is_put_back():
    have = seen(spec(), marks={})
    item = only_item(plan_for(Declared(spec=spec(), claimed=True), have))
    assert item.action is Action.UPDATE
    assert item.changes == (FieldChange(field="owner", before=None, after=OWNER),)


def test_an_instance_that_registers_itself_as_declared_is_synced_without_our_mark():
    have = seen(spec(), marks={META_SELF: spec().digest})
    plan = plan_for(Declared(spec=spec()), have)
    assert plan.items == ()
    assert plan.statuses == {"api-1": SyncStatus.SYNCED}


def test_an_instance_that_registers_itself_otherwise_than_declared_is_updated():
    have = seen(spec(tags=("its-own",)), marks={META_SELF: "0"})
    assert only_item(plan_for(Declared(spec=spec()), have)).action is Action.UPDATE


def test_an_instance_that_left_by_itself_stays_away():
    item = only_item(plan_for(Declared(spec=spec(), departed=True)))
    assert (item.action, item.status) == (Action.LEAVE, SyncStatus.MISSING)
    assert "left by itself" in item.reason


def test_another_inventory_s_instance_is_left_alone_even_if_declared_here():
    have = seen(spec(port=1), marks={META_OWNER: "another"})
    item = only_item(plan_for(Declared(spec=spec(), claimed=True), have))
    assert (item.action, item.status) == (Action.LEAVE, SyncStatus.OUT_OF_SYNC)
    assert "'another'" in item.reason


def test_a_stranger_s_instance_with_a_declared_id_is_left_alone():
    item = only_item(plan_for(Declared(spec=spec()), foreign(spec(port=1))))
    assert (item.action, item.status) == (Action.LEAVE, SyncStatus.OUT_OF_SYNC)
    assert "someone else" in item.reason


def test_an_id_that_differs_in_case_only_is_registered_once_the_other_is_gone():
    declared, old = Declared(spec=spec("API-1")), seen(spec("api-1"))
    plan = plan_for(declared, old)
    assert [(item.id, item.action) for item in plan.items] == [
        ("API-1", Action.LEAVE),
        ("api-1", Action.DEREGISTER),
    ]
    assert "upper and lower case" in plan.items[0].reason
    assert plan.statuses["API-1"] is SyncStatus.MISSING
    again = make_plan([declared], applied(plan, {"api-1": old}), owner=OWNER)
    assert only_item(again).action is Action.REGISTER


# -- what is disabled -------------------------------------------------------------------------------------------------


def test_what_is_disabled_is_taken_out():
    item = only_item(plan_for(Declared(spec=spec(), enabled=False), seen(spec())))
    assert (item.action, item.status) == (Action.DEREGISTER, SyncStatus.DISABLED)


def test_what_is_disabled_is_taken_out_even_with_prune_off():
    plan = plan_for(Declared(spec=spec(), enabled=False), seen(spec()), prune=False)
    assert only_item(plan).action is Action.DEREGISTER


def test_what_is_disabled_and_gone_is_not_even_mentioned():
    plan = plan_for(Declared(spec=spec(), enabled=False))
    assert plan.items == ()
    assert plan.statuses == {"api-1": SyncStatus.DISABLED}


@pytest.mark.parametrize(
    ("have", "why"),
    [
        (foreign(spec()), "someone else"),
        (seen(spec(), marks={META_OWNER: "another"}), "someone else"),
        (seen(spec(), marks={META_SELF: "0"}), "registers itself"),
        (seen(spec(), marks={META_SELF: "0", META_OWNER: OWNER}), "registers itself"),
    ],
)
def test_what_is_disabled_but_not_ours_to_remove_stays(have, why):
    item = only_item(plan_for(Declared(spec=spec(), enabled=False), have))
    assert (item.action, item.status) == (Action.LEAVE, SyncStatus.DISABLED)
    assert why in item.reason


def test_what_is_disabled_and_ours_is_taken_out_even_without_our_mark():
    plan = plan_for(Declared(spec=spec(), enabled=False, claimed=True), foreign(spec()))
    assert only_item(plan).action is Action.DEREGISTER


# -- what is not declared ---------------------------------------------------------------------------------------------


def test_what_is_owned_and_not_declared_any_more_is_removed():
    item = only_item(plan_for([], seen(spec())))
    assert (item.action, item.status) == (Action.DEREGISTER, SyncStatus.OUT_OF_SYNC)


def test_with_prune_off_it_stays_and_is_still_out_of_sync():
    item = only_item(plan_for([], seen(spec()), prune=False))
    assert (item.action, item.status) == (Action.LEAVE, SyncStatus.OUT_OF_SYNC)
    assert "prune is off" in item.reason


@pytest.mark.parametrize(
    ("have", "why"),
    [
        (foreign(spec()), "someone else"),
        (seen(spec(), marks={META_OWNER: "another"}), "'another'"),
        (seen(spec(), marks={META_SELF: "0"}), "registered itself"),
        (seen(spec(), marks={META_SELF: "0", META_OWNER: OWNER}), "registered itself"),
    ],
)
def test_what_is_not_ours_is_unmanaged_and_left_alone(have, why):
    item = only_item(plan_for([], have))
    assert (item.action, item.status) == (Action.LEAVE, SyncStatus.UNMANAGED)
    assert why in item.reason


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
