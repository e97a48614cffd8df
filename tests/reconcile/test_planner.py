"""The planner: properties over generated declarations and snapshots, and an example of each rule."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.consul import CheckKind, CheckSpec, Health, ServiceInstance, ServiceSpec
from registry_admin.consul.marks import META_DIGEST, META_OWNER, META_SELF
from registry_admin.consul.snapshot import Snapshot
from registry_admin.reconcile.brake import Brake, apply_brake
from registry_admin.reconcile.diff import diff_fields
from registry_admin.reconcile.ownership import is_issued_by
from registry_admin.reconcile.plan import Action, Cause, Declared, FieldChange, Plan, SyncStatus
from tests.reconcile.planning import (
    OURS,
    OWNER,
    THEIRS,
    claim_of,
    foreign,
    only_item,
    placed,
    plan_for,
    plan_of,
    registered,
    snapshot_of,
    spec,
)


def applied(plan: Plan, snapshot: Snapshot) -> Snapshot:
    """Returns the snapshot after `plan` is applied, with the marks that apply_items sets."""
    after = dict(snapshot.local)
    for item in plan.changes:
        if item.action in (Action.DEREGISTER, Action.EVICT):
            del after[item.id]
        else:
            assert item.spec
            marks = dict(OURS)
            if item.observed and item.observed.registered_itself:
                marks[META_SELF] = item.observed.meta[META_SELF]
            after[item.id] = placed(registered(item.spec, marks=marks))
    return replace(snapshot, local=after)


def remembered(declared: list[Declared], plan: Plan) -> list[Declared]:
    """Returns the declarations after `plan`, with the evictions, recoveries and claims that the inventory records."""
    evicted = {item.id for item in plan.with_actions(Action.EVICT)}
    back = {item.id for item in plan.with_actions(Action.REGISTER, Action.UPDATE)}
    return [
        replace(declaration, evicted_reason="dead", recovered=False)
        if declaration.spec.id in evicted
        else replace(
            declaration,
            evicted_reason="",
            recovered=False,
            claim=claim_of(declaration.spec.id),
            departed=False,
            applied_digest=declaration.spec.digest,
        )
        if declaration.spec.id in back
        else declaration
        for declaration in declared
    ]


# -- properties -------------------------------------------------------------------------------------------------------

IDS = ["api-1", "api-2", "api-3", "web-1", "web-2"]
CASE_TWINS = ["API-1", "Web-1"]  # equal to IDs above in Consul's catalog, which ignores case
_words = st.sampled_from(["v1", "v2", "blue"])
_checks = st.builds(CheckSpec, kind=st.sampled_from(CheckKind), interval=st.sampled_from(["10s", "20s"]))
_marks = st.builds(
    lambda owner, itself: owner | itself,
    st.sampled_from([{}, OURS, OURS, THEIRS, {META_OWNER: "another"}]),
    st.sampled_from([{}, {}, {META_SELF: "0" * 20}]),
)


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
    declaration = st.builds(
        Declared,
        spec=specs(ids),
        enabled=st.booleans(),
        claim=st.sampled_from([None, "node-1", "node-2"]),
        departed=st.sampled_from([False, False, False, True]),
        applied_digest=st.sampled_from(["", "0" * 20]),
        evicted_reason=st.sampled_from(["", "", "dead"]),
        recovered=st.booleans(),
    )
    placed_claim = declaration.map(
        lambda declared: replace(declared, claim=declared.claim and claim_of(declared.spec.id, node=declared.claim))
    )
    return st.lists(placed_claim, max_size=6, unique_by=lambda declared: declared.spec.id.lower())


@st.composite
def instances(draw: st.DrawFn, ids: list[str]) -> ServiceInstance:
    instance = registered(
        draw(specs(ids)),
        marks=draw(_marks),
        tag_override=draw(st.booleans()),
        health=draw(st.sampled_from(Health)),
    )
    digest = draw(st.sampled_from(["kept", "kept", "wrong", "none"]))
    if digest != "kept":
        meta = {key: value for key, value in instance.meta.items() if key != META_DIGEST}
        instance = replace(instance, meta=meta | ({META_DIGEST: "wrong"} if digest == "wrong" else {}))
    return instance


@st.composite
def observations(draw: st.DrawFn, ids: list[str] = IDS) -> Snapshot:
    on_other_nodes = st.builds(replace, instances(ids), node=st.sampled_from(["node-2", "node-3"]))
    unique = st.lists(on_other_nodes, max_size=4, unique_by=lambda instance: (instance.node, instance.id))
    return snapshot_of(*draw(st.lists(instances(ids), max_size=6)), remote=draw(unique))


def options(ids: list[str] = IDS) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "evict": st.dictionaries(st.sampled_from(ids), st.just("dead"), max_size=3),
            "agent_lost_state": st.booleans(),
            "doubt": st.sampled_from(["", "", "no leader"]),
        }
    )


@given(declarations(), observations(), options())
def test_applied_plan_matches_declarations(declared, snapshot, plan_options):
    plan = plan_of(declared, snapshot, **plan_options)
    after = applied(plan, snapshot).local
    settled = {item.id for item in plan.with_actions(Action.LEAVE, Action.EVICT)}
    settled |= {instance.id for instance in snapshot.remote} - snapshot.local.keys()
    passing_elsewhere = {instance.id for instance in snapshot.remote if instance.health is Health.PASSING}
    for declaration in declared:
        actual = after.get(declaration.spec.id)
        if not declaration.enabled:
            assert actual is None or declaration.spec.id in settled
        elif declaration.spec.id not in settled:
            if actual is None:
                assert declaration.spec.id in passing_elsewhere
            else:
                assert diff_fields(declaration.spec, actual) == ()
    names = {declaration.spec.id for declaration in declared}
    for instance_id, actual in after.items():
        assert instance_id in names or not is_issued_by(actual, OWNER) or actual.registered_itself


@given(declarations(), observations())
def test_declared_instance_left_alone_has_a_true_reason(declared, snapshot):
    plan = plan_of(declared, snapshot)
    declarations_by_id = {declaration.spec.id: declaration for declaration in declared}
    for item in plan.with_actions(Action.LEAVE):
        if item.id not in declarations_by_id:
            continue
        declaration, actual = declarations_by_id[item.id], item.observed
        if actual is None:
            assert (declaration.evicted_reason and not declaration.recovered) or declaration.departed
        else:
            assert (
                actual.node != "node-1"
                or not is_issued_by(actual, OWNER)
                or actual.registered_itself
                or item.cause is Cause.OTHER_NODE
            )


@given(declarations(), observations(), options())
def test_second_plan_is_empty(declared, snapshot, plan_options):
    plan = plan_of(declared, snapshot, **plan_options)
    again = plan_of(remembered(declared, plan), applied(plan, snapshot))
    assert again.changes == ()


@given(declarations(IDS + CASE_TWINS), observations(IDS + CASE_TWINS), options())
def test_third_plan_with_ids_differing_in_case_is_empty(declared, snapshot, plan_options):
    for _ in range(2):
        plan = plan_of(declared, snapshot, **plan_options)
        declared, snapshot, plan_options = remembered(declared, plan), applied(plan, snapshot), {}
    assert plan_of(declared, snapshot).changes == ()


@given(declarations(IDS + CASE_TWINS), observations(IDS + CASE_TWINS), st.booleans(), options(IDS + CASE_TWINS))
def test_plan_changes_only_owned_claimed_or_self_registered_instances(declared, snapshot, prune, plan_options):
    plan = plan_of(declared, snapshot, prune=prune, **plan_options)
    claimed = {declaration.spec.id for declaration in declared if declaration.claim}
    names = {declaration.spec.id for declaration in declared}
    for item in plan.changes:
        actual = snapshot.local.get(item.id)
        if actual is None:
            assert item.action is Action.REGISTER
            assert item.id in names
            continue
        assert actual.owner in ("", OWNER.name)
        if not is_issued_by(actual, OWNER):
            assert actual.registered_itself or item.id in claimed


@given(declarations(IDS + CASE_TWINS), observations(IDS + CASE_TWINS), options(IDS + CASE_TWINS))
def test_plan_evicts_only_owned_or_self_registered_instances_listed_for_eviction(declared, snapshot, plan_options):
    for item in plan_of(declared, snapshot, **plan_options).with_actions(Action.EVICT):
        actual = snapshot.local[item.id]
        assert item.id in plan_options["evict"]
        assert is_issued_by(actual, OWNER) or (actual.registered_itself and not actual.is_marked)


@given(declarations(), observations(), options())
def test_plan_changes_no_remote_instance(declared, snapshot, plan_options):
    for item in plan_of(declared, snapshot, **plan_options).changes:
        assert item.node in ("", "node-1")


@given(declarations(IDS + CASE_TWINS), observations(IDS + CASE_TWINS), options(IDS + CASE_TWINS))
def test_plan_with_doubt_removes_no_instance(declared, snapshot, plan_options):
    plan = plan_of(declared, snapshot, **plan_options | {"doubt": "ACLs hide a part"})
    plan = apply_brake(plan, Brake(blocked=plan.doubt))
    assert not [item for item in plan.changes if item.action in (Action.DEREGISTER, Action.EVICT)]
    after = applied(plan, snapshot).local
    assert after.keys() >= snapshot.local.keys()


@given(declarations(IDS + CASE_TWINS), observations(IDS + CASE_TWINS), options())
def test_registration_never_uses_an_id_that_differs_from_a_present_one_in_case_only(declared, snapshot, plan_options):
    present = {instance_id.lower() for instance_id in snapshot.local}
    for item in plan_of(declared, snapshot, **plan_options).with_actions(Action.REGISTER):
        assert item.id.lower() not in present


@given(
    declarations(IDS + CASE_TWINS),
    observations(IDS + CASE_TWINS),
    options(IDS + CASE_TWINS),
    st.randoms(use_true_random=False),
)
def test_make_plan_is_independent_of_input_order(declared, snapshot, plan_options, chance):
    plan = plan_of(declared, snapshot, **plan_options)
    shuffled, pairs, remote = list(declared), list(snapshot.local.items()), list(snapshot.remote)
    for inputs in (shuffled, pairs, remote):
        chance.shuffle(inputs)
    again = plan_of(shuffled, replace(snapshot, local=dict(pairs), remote=tuple(remote)), **plan_options)
    assert again == plan


@given(declarations(), observations(), options())
def test_plan_has_a_status_per_instance_and_a_cause_per_item_and_is_json(declared, snapshot, plan_options):
    plan = plan_of(declared, snapshot, **plan_options)
    assert plan.statuses.keys() == {declaration.spec.id for declaration in declared}
    assert plan.observed.keys() == {instance.place for instance in (*snapshot.local.values(), *snapshot.remote)}
    assert all(item.cause for item in plan.items)
    data = json.loads(json.dumps(plan.as_dict()))
    assert sum(data["summary"].values()) == len(plan.items) == len(data["items"])


# -- declared instances -----------------------------------------------------------------------------------------------


def test_declared_instance_missing_in_consul_is_registered():
    item = only_item(plan_for(Declared(spec=spec())))
    assert (item.action, item.status, item.reason) == (Action.REGISTER, SyncStatus.MISSING, "not in Consul yet")
    assert item.spec == spec()


def test_claimed_instance_missing_in_consul_is_registered_with_its_reason():
    item = only_item(plan_for(Declared(spec=spec(), claim=claim_of())))
    assert (item.action, item.reason) == (Action.REGISTER, "not in Consul any more")


def test_instance_as_declared_is_synced_and_not_in_plan():
    plan = plan_for(Declared(spec=spec()), registered(spec()))
    assert plan.items == ()
    assert plan.statuses == {"api-1": SyncStatus.SYNCED}


@pytest.mark.parametrize(
    ("declared", "change"),
    [
        (spec(port=8001), FieldChange(field="port", before=8000, after=8001)),
        (spec(address="10.0.0.2"), FieldChange(field="address", before="10.0.0.1", after="10.0.0.2")),
        (spec(weight=5), FieldChange(field="weight", before=1, after=5)),
        (spec(tags=("b", "a")), FieldChange(field="tags", before=[], after=["a", "b"])),
        (spec(meta={"v": "2"}), FieldChange(field="meta.v", before=None, after="2")),
        (spec(name="renamed"), FieldChange(field="name", before="api", after="renamed")),
    ],
)
def test_instance_with_a_differing_field_is_updated_and_the_field_named(declared, change):
    item = only_item(plan_for(Declared(spec=declared), registered(spec())))
    assert (item.action, item.status, item.changes) == (Action.UPDATE, SyncStatus.OUT_OF_SYNC, (change,))


def test_check_difference_is_detected_by_digest():
    declared = spec(check=CheckSpec(kind=CheckKind.TCP))
    item = only_item(plan_for(Declared(spec=declared), registered(spec())))
    (change,) = item.changes
    assert item.action is Action.UPDATE
    assert (change.field, change.before) == ("check", "another definition")
    assert change.after.startswith("tcp, every 10s")


def test_instance_without_digest_is_updated_because_its_check_is_unknown():
    actual = foreign(spec())
    item = only_item(plan_for(Declared(spec=spec(), claim=claim_of()), actual))
    assert FieldChange(field="check", before="not registered by us", after=str(spec().check)) in item.changes


def test_instance_with_tag_override_keeps_foreign_tags():
    declared = spec(tags=("ours",), tag_override=True)
    plan = plan_for(Declared(spec=declared), registered(declared, tags=("theirs",)))
    assert (plan.items, plan.statuses) == ((), {"api-1": SyncStatus.SYNCED})


def test_instance_with_fields_that_no_declaration_carries_is_not_registered_anew():
    actual = registered(spec(port=1), uncarried=("Connect",))
    item = only_item(plan_for(Declared(spec=spec()), actual))
    assert (item.action, item.status) == (Action.LEAVE, SyncStatus.OUT_OF_SYNC)
    assert "it has Connect, which registering it anew would drop" in item.reason
    assert plan_for(Declared(spec=spec()), registered(spec(), uncarried=("Connect",))).items == ()


def test_restricted_plan_of_renamed_service_matches_both_names():
    plan = plan_for(Declared(spec=spec(name="new")), registered(spec(name="old")))
    assert plan.restricted_to({"old"}).items == plan.restricted_to({"new"}).items == plan.items != ()
    assert plan.restricted_to({"another"}).items == ()


def test_owner_mark_removed_by_hand_is_restored():
    actual = registered(spec(), marks={})
    item = only_item(plan_for(Declared(spec=spec(), claim=claim_of()), actual))
    assert item.action is Action.UPDATE
    assert item.changes == (FieldChange(field="owner", before=None, after=OWNER.name),)


def test_self_registered_instance_as_declared_is_synced_without_owner_mark():
    actual = registered(spec(), marks={META_SELF: spec().digest})
    plan = plan_for(Declared(spec=spec()), actual)
    assert plan.items == ()
    assert plan.statuses == {"api-1": SyncStatus.SYNCED}


def test_self_registered_instance_that_differs_is_updated():
    actual = registered(spec(tags=("its-own",)), marks={META_SELF: "0"})
    assert only_item(plan_for(Declared(spec=spec()), actual)).action is Action.UPDATE


def test_departed_instance_is_not_registered():
    item = only_item(plan_for(Declared(spec=spec(), departed=True)))
    assert (item.action, item.status) == (Action.LEAVE, SyncStatus.MISSING)
    assert "left by itself" in item.reason


def test_declared_instance_of_another_inventory_is_left_alone():
    actual = registered(spec(port=1), marks={META_OWNER: "another"})
    item = only_item(plan_for(Declared(spec=spec(), claim=claim_of()), actual))
    assert (item.action, item.status) == (Action.LEAVE, SyncStatus.OUT_OF_SYNC)
    assert "'another'" in item.reason


def test_foreign_instance_with_a_declared_id_is_left_alone():
    item = only_item(plan_for(Declared(spec=spec()), foreign(spec(port=1))))
    assert (item.action, item.status) == (Action.LEAVE, SyncStatus.OUT_OF_SYNC)
    assert "someone else" in item.reason


def test_id_differing_in_case_only_is_registered_after_the_old_one_is_removed():
    declared, old = Declared(spec=spec("API-1")), registered(spec("api-1"))
    plan = plan_for(declared, old)
    assert [(item.id, item.action) for item in plan.items] == [
        ("API-1", Action.LEAVE),
        ("api-1", Action.DEREGISTER),
    ]
    assert "upper and lower case" in plan.items[0].reason
    assert plan.statuses["API-1"] is SyncStatus.MISSING
    again = plan_of([declared], applied(plan, snapshot_of(old)))
    assert only_item(again).action is Action.REGISTER


# -- disabled instances -----------------------------------------------------------------------------------------------


def test_disabled_instance_is_deregistered():
    item = only_item(plan_for(Declared(spec=spec(), enabled=False), registered(spec())))
    assert (item.action, item.status) == (Action.DEREGISTER, SyncStatus.DISABLED)


def test_disabled_instance_with_prune_off_is_deregistered():
    plan = plan_for(Declared(spec=spec(), enabled=False), registered(spec()), prune=False)
    assert only_item(plan).action is Action.DEREGISTER


def test_disabled_instance_missing_in_consul_is_not_in_plan():
    plan = plan_for(Declared(spec=spec(), enabled=False))
    assert plan.items == ()
    assert plan.statuses == {"api-1": SyncStatus.DISABLED}


@pytest.mark.parametrize(
    ("actual", "reason"),
    [
        (foreign(spec()), "someone else"),
        (registered(spec(), marks={META_OWNER: "another"}), "owned by 'another'"),
        (registered(spec(), marks={META_SELF: "0"}), "registers itself"),
        (registered(spec(), marks=OURS | {META_SELF: "0"}), "registers itself"),
    ],
)
def test_disabled_instance_that_is_foreign_or_self_registered_is_left_alone(actual, reason):
    item = only_item(plan_for(Declared(spec=spec(), enabled=False), actual))
    assert (item.action, item.status) == (Action.LEAVE, SyncStatus.DISABLED)
    assert reason in item.reason


def test_disabled_claimed_instance_without_owner_mark_is_deregistered():
    plan = plan_for(Declared(spec=spec(), enabled=False, claim=claim_of()), foreign(spec()))
    assert only_item(plan).action is Action.DEREGISTER


# -- undeclared instances ---------------------------------------------------------------------------------------------


def test_owned_instance_without_declaration_is_deregistered():
    item = only_item(plan_for([], registered(spec())))
    assert (item.action, item.status) == (Action.DEREGISTER, SyncStatus.OUT_OF_SYNC)


def test_owned_instance_without_declaration_with_prune_off_stays_out_of_sync():
    item = only_item(plan_for([], registered(spec()), prune=False))
    assert (item.action, item.status) == (Action.LEAVE, SyncStatus.OUT_OF_SYNC)
    assert "prune is off" in item.reason


@pytest.mark.parametrize(
    ("actual", "reason"),
    [
        (foreign(spec()), "someone else"),
        (registered(spec(), marks={META_OWNER: "another"}), "'another'"),
        (registered(spec(), marks={META_SELF: "0"}), "registered itself"),
        (registered(spec(), marks=OURS | {META_SELF: "0"}), "registered itself"),
    ],
)
def test_foreign_or_self_registered_instance_without_declaration_is_unmanaged(actual, reason):
    item = only_item(plan_for([], actual))
    assert (item.action, item.status) == (Action.LEAVE, SyncStatus.UNMANAGED)
    assert reason in item.reason


# -- evictions --------------------------------------------------------------------------------------------------------

DEAD = {"api-1": "critical for 31 s, 30 s allowed"}


def test_instance_critical_too_long_is_evicted_with_its_reason():
    item = only_item(plan_for(Declared(spec=spec()), registered(spec()), evict=DEAD))
    assert (item.action, item.status, item.cause) == (Action.EVICT, SyncStatus.EVICTED, Cause.EVICTED)
    assert item.reason == DEAD["api-1"]


def test_self_registered_instance_without_declaration_is_evicted():
    item = only_item(plan_for([], registered(spec(), marks={META_SELF: "0"}), evict=DEAD))
    assert item.action is Action.EVICT


@pytest.mark.parametrize(
    "actual",
    [
        foreign(spec()),
        registered(spec(), marks={META_OWNER: "another"}),
        registered(spec(), marks={META_OWNER: "another", META_SELF: "0"}),
    ],
)
@pytest.mark.parametrize("declared", [[], [Declared(spec=spec())]])
def test_foreign_instance_is_left_alone_instead_of_evicted(actual, declared):
    plan = plan_for(declared, actual, evict=DEAD)
    assert plan.changes == ()
    assert only_item(plan).action is Action.LEAVE


def test_disabled_critical_instance_is_deregistered_instead_of_evicted():
    item = only_item(plan_for(Declared(spec=spec(), enabled=False), registered(spec()), evict=DEAD))
    assert item.action is Action.DEREGISTER


def test_evicted_instance_is_left_out_until_it_recovers():
    item = only_item(plan_for(Declared(spec=spec(), claim=claim_of(), evicted_reason="dead since 12:03")))
    assert (item.action, item.status, item.reason) == (Action.LEAVE, SyncStatus.EVICTED, "dead since 12:03")


def test_recovered_instance_is_planned_as_passing():
    item = only_item(plan_for(Declared(spec=spec(), claim=claim_of(), evicted_reason="dead", recovered=True)))
    assert (item.action, item.cause, item.passing) == (Action.REGISTER, Cause.RECOVERED, True)


def test_evicted_instance_that_registers_itself_again_is_synced():
    actual = registered(spec(), marks={META_SELF: "0"})
    plan = plan_for(Declared(spec=spec(), evicted_reason="dead"), actual)
    assert (plan.items, plan.statuses) == ((), {"api-1": SyncStatus.SYNCED})


def test_new_registration_is_not_marked_as_passing():
    item = only_item(plan_for(Declared(spec=spec())))
    assert (item.action, item.passing) == (Action.REGISTER, False)


# -- other nodes ------------------------------------------------------------------------------------------------------


def test_remote_instance_as_declared_is_synced():
    plan = plan_for(Declared(spec=spec()), remote=[registered(spec())])
    assert (plan.items, plan.statuses["api-1"]) == ((), SyncStatus.SYNCED)
    assert plan.observed == {claim_of(node="node-2"): SyncStatus.SYNCED}


def test_remote_instance_that_differs_is_reported_and_left_to_its_agent():
    item = only_item(plan_for(Declared(spec=spec(port=8001)), remote=[registered(spec())]))
    assert (item.action, item.status, item.cause) == (Action.LEAVE, SyncStatus.OUT_OF_SYNC, Cause.OTHER_NODE)
    assert item.changes == (FieldChange(field="port", before=8000, after=8001),)
    assert "node 'node-2', whose own agent must change it" in item.reason


@pytest.mark.parametrize("declared", [[], [Declared(spec=spec(), enabled=False, claim=claim_of())]])
def test_remote_instance_not_declared_or_disabled_is_left_to_its_agent(declared):
    item = only_item(plan_for(declared, remote=[registered(spec())]))
    assert (item.action, item.cause) == (Action.LEAVE, Cause.OTHER_NODE)


def test_remote_critical_instance_is_left_alone():
    actual = registered(spec(), marks={META_SELF: "0"})
    for declared in ([], Declared(spec=spec())):
        plan = plan_for(declared, remote=[actual], evict=DEAD)
        assert plan.changes == ()
        assert plan.observed.keys() == {claim_of(node="node-2")}


def test_local_instance_takes_precedence_and_remote_twin_is_reported():
    plan = plan_for(Declared(spec=spec()), registered(spec()), remote=[registered(spec())])
    assert plan.statuses["api-1"] is SyncStatus.SYNCED
    assert (only_item(plan).node, only_item(plan).cause) == ("node-2", Cause.OTHER_NODE)


def test_owned_remote_instance_takes_precedence_over_foreign_ones():
    remote = [foreign(spec(port=1), node="node-2"), registered(spec(), node="node-3")]
    plan = plan_for(Declared(spec=spec()), remote=remote)
    assert plan.statuses["api-1"] is SyncStatus.SYNCED
    assert plan.observed == {
        claim_of(node="node-2"): SyncStatus.UNMANAGED,
        claim_of(node="node-3"): SyncStatus.SYNCED,
    }


# -- causes -----------------------------------------------------------------------------------------------------------

EDITED = registered(spec(), port=1)
OLDER = registered(spec(port=1))


@pytest.mark.parametrize(
    ("declaration", "actual", "cause"),
    [
        (Declared(spec=spec()), None, Cause.NEVER_REGISTERED),
        (Declared(spec=spec(), claim=claim_of()), None, Cause.REMOVED),
        (Declared(spec=spec(), departed=True), None, Cause.LEFT),
        (Declared(spec=spec(), applied_digest=spec().digest), EDITED, Cause.EDITED),
        (Declared(spec=spec(), applied_digest=spec().digest), OLDER, Cause.EDITED),
        (Declared(spec=spec()), EDITED, Cause.EDITED),
        (Declared(spec=spec(), applied_digest=spec(port=1).digest), OLDER, Cause.DECLARATION_CHANGED),
        (Declared(spec=spec()), OLDER, Cause.DECLARATION_CHANGED),
        (Declared(spec=spec(), claim=claim_of(), applied_digest=spec().digest), foreign(spec()), Cause.EDITED),
        (Declared(spec=spec(), claim=claim_of()), foreign(spec()), Cause.ADOPTED),
        (Declared(spec=spec()), foreign(spec()), Cause.FOREIGN),
        (Declared(spec=spec()), registered(spec(port=1), marks={META_SELF: "0"}), Cause.REGISTERED_ITSELF),
        (Declared(spec=spec(), enabled=False), registered(spec()), Cause.DISABLED),
    ],
)
def test_declared_instance_item_has_its_cause(declaration, actual, cause):
    plan = plan_for(declaration, *([actual] if actual else []))
    assert only_item(plan).cause is cause


@pytest.mark.parametrize(
    ("actual", "cause"),
    [
        (registered(spec()), Cause.NOT_DECLARED),
        (foreign(spec()), Cause.FOREIGN),
        (registered(spec(), marks={META_OWNER: "another"}), Cause.FOREIGN),
        (registered(spec(), marks={META_SELF: "0"}), Cause.REGISTERED_ITSELF),
    ],
)
def test_undeclared_instance_item_has_its_cause(actual, cause):
    assert only_item(plan_for([], actual)).cause is cause


def test_missing_instance_after_agent_lost_state_has_that_cause():
    declared = [Declared(spec=spec("known"), claim=claim_of("known")), Declared(spec=spec("new"))]
    causes = {item.id: item.cause for item in plan_for(declared, agent_lost_state=True).items}
    assert causes == {"known": Cause.AGENT_LOST_STATE, "new": Cause.NEVER_REGISTERED}


def test_maintenance_is_not_drift():
    plan = plan_for(Declared(spec=spec()), registered(spec(), health=Health.MAINTENANCE))
    assert (plan.items, plan.statuses) == ((), {"api-1": SyncStatus.SYNCED})


def test_unmarked_instance_of_a_restored_database_s_claim_is_left_alone():
    """A release since the backup is unknown to the database."""
    declaration = Declared(spec=spec(), claim=claim_of())
    unmarked = foreign(spec(tags=["theirs"]))
    assert only_item(plan_for(declaration, unmarked)).action is Action.UPDATE
    behind = replace(OWNER, newest_revision=OWNER.revision + 1)
    assert only_item(plan_for(declaration, unmarked, owner=behind)).action is Action.LEAVE
