"""The planner, by properties over anything that may be declared and observed, and each of its rules by an example."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.consul import CheckKind, CheckSpec, Health, ServiceInstance, ServiceSpec
from registry_admin.consul.observe import Observation
from registry_admin.consul.types import META_DIGEST, META_OWNER, META_SELF
from registry_admin.errors import UnsafePlanError
from registry_admin.reconcile.compare import differences, make_plan
from registry_admin.reconcile.plan import Action, Cause, Declared, FieldChange, Plan, SyncStatus
from tests.unit.planning import OWNER, foreign, look, only_item, plan_for, seen, spec


def applied(plan: Plan, observation: Observation) -> Observation:
    """What the next look would show once the plan is carried out, with the marks that apply_items gives."""
    after = dict(observation.here)
    for item in plan.changes:
        if item.action in (Action.DEREGISTER, Action.EVICT):
            del after[item.id]
        else:
            assert item.spec
            marks = {META_OWNER: plan.owner}
            if item.observed and item.observed.registered_itself:
                marks[META_SELF] = item.observed.meta[META_SELF]
            after[item.id] = seen(item.spec, marks=marks)
    return replace(observation, here=after)


def remembered(declared: list[Declared], plan: Plan) -> list[Declared]:
    """The declarations after it, with what the inventory notes: who was evicted, who is back, who is claimed."""
    evicted = {item.id for item in plan.of(Action.EVICT)}
    back = {item.id for item in plan.of(Action.REGISTER, Action.UPDATE)}
    return [
        replace(one, evicted="dead", answers=False)
        if one.spec.id in evicted
        else replace(one, evicted="", answers=False, claimed=True, departed=False, applied=one.spec.digest)
        if one.spec.id in back
        else one
        for one in declared
    ]


# -- properties -------------------------------------------------------------------------------------------------------

IDS = ["api-1", "api-2", "api-3", "web-1", "web-2"]
TWINS = ["API-1", "Web-1"]  # the same as others to Consul's catalog
_words = st.sampled_from(["v1", "v2", "blue"])
_checks = st.builds(CheckSpec, kind=st.sampled_from(CheckKind), interval=st.sampled_from(["10s", "20s"]))
_marks = st.builds(
    lambda owner, itself: owner | itself,
    st.sampled_from([{}, {META_OWNER: OWNER}, {META_OWNER: OWNER}, {META_OWNER: "another"}]),
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
    one = st.builds(
        Declared,
        spec=specs(ids),
        enabled=st.booleans(),
        claimed=st.booleans(),
        departed=st.sampled_from([False, False, False, True]),
        applied=st.sampled_from(["", "0" * 20]),
        evicted=st.sampled_from(["", "", "dead"]),
        answers=st.booleans(),
    )
    return st.lists(one, max_size=6, unique_by=lambda declared: declared.spec.id.lower())


@st.composite
def instances(draw: st.DrawFn, ids: list[str]) -> ServiceInstance:
    instance = seen(
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
def observations(draw: st.DrawFn, ids: list[str] = IDS) -> Observation:
    on_other_nodes = st.builds(replace, instances(ids), node=st.sampled_from(["node-2", "node-3"]))
    unique = st.lists(on_other_nodes, max_size=4, unique_by=lambda one: (one.node, one.id))
    return look(*draw(st.lists(instances(ids), max_size=6)), elsewhere=draw(unique))


def options(ids: list[str] = IDS) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "evict": st.dictionaries(st.sampled_from(ids), st.just("dead"), max_size=3),
            "agent_lost_state": st.booleans(),
            "doubt": st.sampled_from(["", "", "no leader"]),
        }
    )


@given(declarations(), observations(), options())
def test_applying_a_plan_gives_what_is_declared(declared, observation, how):
    plan = make_plan(declared, observation, owner=OWNER, **how)
    after = applied(plan, observation).here
    settled = {item.id for item in plan.of(Action.LEAVE, Action.EVICT)}
    settled |= {one.id for one in observation.elsewhere} - observation.here.keys()
    for one in declared:
        have = after.get(one.spec.id)
        if not one.enabled:
            assert have is None or one.spec.id in settled
        elif one.spec.id not in settled:
            assert have is not None
            assert differences(one.spec, have) == ()
    names = {one.spec.id for one in declared}
    for instance_id, have in after.items():
        assert instance_id in names or have.owner != OWNER or have.registered_itself


@given(declarations(), observations())
def test_what_is_left_alone_though_declared_has_a_reason_that_is_true(declared, observation):
    plan = make_plan(declared, observation, owner=OWNER)
    wanted = {one.spec.id: one for one in declared}
    nodes = {one.id: one for one in observation.elsewhere}
    for item in plan.of(Action.LEAVE):
        if item.id not in wanted:
            continue
        want, have = wanted[item.id], observation.here.get(item.id)
        assert (
            item.id in nodes
            or (have is not None and (have.owner == "another" or have.registered_itself or not want.claimed))
            or (have is None and ((want.evicted and not want.answers) or want.departed))
        )


@given(declarations(), observations(), options())
def test_a_second_plan_is_empty(declared, observation, how):
    plan = make_plan(declared, observation, owner=OWNER, **how)
    again = make_plan(remembered(declared, plan), applied(plan, observation), owner=OWNER)
    assert again.changes == ()


@given(declarations(IDS + TWINS), observations(IDS + TWINS), options())
def test_with_ids_that_differ_in_case_only_a_third_plan_is_empty(declared, observation, how):
    for _ in range(2):
        plan = make_plan(declared, observation, owner=OWNER, **how)
        declared, observation, how = remembered(declared, plan), applied(plan, observation), {}
    assert make_plan(declared, observation, owner=OWNER).changes == ()


@given(declarations(IDS + TWINS), observations(IDS + TWINS), st.booleans(), options(IDS + TWINS))
def test_nothing_that_is_not_owned_is_changed(declared, observation, prune, how):
    plan = make_plan(declared, observation, owner=OWNER, prune=prune, **how)
    claimed = {one.spec.id for one in declared if one.claimed}
    names = {one.spec.id for one in declared}
    for item in plan.changes:
        have = observation.here.get(item.id)
        if have is None:
            assert item.action is Action.REGISTER
            assert item.id in names
            continue
        assert have.owner in ("", OWNER)
        if have.owner != OWNER:
            assert have.registered_itself or item.id in claimed


@given(declarations(IDS + TWINS), observations(IDS + TWINS), options(IDS + TWINS))
def test_only_what_is_ours_and_named_is_evicted(declared, observation, how):
    for item in make_plan(declared, observation, owner=OWNER, **how).of(Action.EVICT):
        have = observation.here[item.id]
        assert item.id in how["evict"]
        assert have.owner == OWNER or (have.registered_itself and not have.owner)


@given(declarations(), observations(), options())
def test_nothing_on_another_node_is_changed_or_registered_here_a_second_time(declared, observation, how):
    there = {one.id for one in observation.elsewhere}
    for item in make_plan(declared, observation, owner=OWNER, **how).changes:
        assert item.node in ("", "node-1")
        assert item.id in observation.here or item.id not in there


@given(declarations(IDS + TWINS), observations(IDS + TWINS), options(IDS + TWINS))
def test_where_there_is_doubt_nothing_is_removed(declared, observation, how):
    plan = make_plan(declared, observation, owner=OWNER, **how | {"doubt": "ACLs hide a part"})
    removals = plan.of(Action.DEREGISTER, Action.EVICT)
    if removals:
        with pytest.raises(UnsafePlanError) as refusal:
            plan.check_safe()
        assert refusal.value.would_remove == tuple(item.id for item in removals)
    else:
        plan.check_safe()
    after = applied(plan.without_removals(), observation).here
    assert after.keys() >= observation.here.keys()


@given(declarations(IDS + TWINS), observations(IDS + TWINS), options())
def test_no_registration_takes_an_id_that_differs_from_a_present_one_in_case_only(declared, observation, how):
    present = {instance_id.lower() for instance_id in observation.here}
    for item in make_plan(declared, observation, owner=OWNER, **how).of(Action.REGISTER):
        assert item.id.lower() not in present


@given(declarations(IDS + TWINS), observations(IDS + TWINS), options(IDS + TWINS), st.randoms(use_true_random=False))
def test_the_order_of_inputs_does_not_matter(declared, observation, how, chance):
    plan = make_plan(declared, observation, owner=OWNER, **how)
    shuffled, pairs, elsewhere = list(declared), list(observation.here.items()), list(observation.elsewhere)
    for one in (shuffled, pairs, elsewhere):
        chance.shuffle(one)
    again = make_plan(shuffled, replace(observation, here=dict(pairs), elsewhere=tuple(elsewhere)), owner=OWNER, **how)
    assert again == plan


@given(declarations(), observations(), options())
def test_every_instance_has_a_status_and_each_item_a_cause_and_the_plan_is_plain_json(declared, observation, how):
    plan = make_plan(declared, observation, owner=OWNER, **how)
    assert plan.statuses.keys() == {one.spec.id for one in declared} | observation.here.keys()
    assert plan.elsewhere.keys() == {(one.node, one.id) for one in observation.elsewhere}
    assert all(item.cause for item in plan.items)
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
    again = make_plan([declared], applied(plan, look(old)), owner=OWNER)
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


# -- evictions --------------------------------------------------------------------------------------------------------

DEAD = {"api-1": "critical for 31 s, 30 s allowed"}


def test_what_has_been_critical_too_long_is_evicted_and_the_reason_kept():
    item = only_item(plan_for(Declared(spec=spec()), seen(spec()), evict=DEAD))
    assert (item.action, item.status, item.cause) == (Action.EVICT, SyncStatus.EVICTED, Cause.EVICTED)
    assert item.reason == DEAD["api-1"]


def test_what_registered_itself_is_evicted_even_if_nobody_declared_it():
    item = only_item(plan_for([], seen(spec(), marks={META_SELF: "0"}), evict=DEAD))
    assert item.action is Action.EVICT


@pytest.mark.parametrize(
    "have",
    [
        foreign(spec()),
        seen(spec(), marks={META_OWNER: "another"}),
        seen(spec(), marks={META_OWNER: "another", META_SELF: "0"}),
    ],
)
@pytest.mark.parametrize("declared", [[], [Declared(spec=spec())]])
def test_what_is_not_ours_is_never_evicted(have, declared):
    assert plan_for(declared, have, evict=DEAD).changes == ()


def test_what_is_disabled_is_taken_out_rather_than_evicted():
    item = only_item(plan_for(Declared(spec=spec(), enabled=False), seen(spec()), evict=DEAD))
    assert item.action is Action.DEREGISTER


def test_what_is_evicted_stays_out_until_it_answers():
    item = only_item(plan_for(Declared(spec=spec(), claimed=True, evicted="dead since 12:03")))
    assert (item.action, item.status, item.reason) == (Action.LEAVE, SyncStatus.EVICTED, "dead since 12:03")


def test_what_answers_again_is_registered_as_passing():
    item = only_item(plan_for(Declared(spec=spec(), claimed=True, evicted="dead", answers=True)))
    assert (item.action, item.cause, item.passing) == (Action.REGISTER, Cause.ANSWERS_AGAIN, True)


def test_what_was_evicted_and_has_registered_itself_again_is_synced():
    have = seen(spec(), marks={META_SELF: "0"})
    plan = plan_for(Declared(spec=spec(), evicted="dead"), have)
    assert (plan.items, plan.statuses) == ((), {"api-1": SyncStatus.SYNCED})


def test_an_ordinary_registration_claims_nothing_about_health():
    assert not only_item(plan_for(Declared(spec=spec()))).passing


# -- other nodes ------------------------------------------------------------------------------------------------------


def test_what_is_as_declared_on_another_node_is_synced():
    plan = plan_for(Declared(spec=spec()), elsewhere=[seen(spec())])
    assert (plan.items, plan.statuses["api-1"]) == ((), SyncStatus.SYNCED)
    assert plan.elsewhere == {("node-2", "api-1"): SyncStatus.SYNCED}


def test_what_differs_on_another_node_is_shown_and_left_to_its_own_agent():
    item = only_item(plan_for(Declared(spec=spec(port=8001)), elsewhere=[seen(spec())]))
    assert (item.action, item.status, item.cause) == (Action.LEAVE, SyncStatus.OUT_OF_SYNC, Cause.OTHER_NODE)
    assert item.changes == (FieldChange(field="port", before=8000, after=8001),)
    assert "node 'node-2', whose own agent must change it" in item.reason


@pytest.mark.parametrize("declared", [[], [Declared(spec=spec(), enabled=False, claimed=True)]])
def test_what_should_not_be_on_another_node_is_left_to_its_own_agent(declared):
    item = only_item(plan_for(declared, elsewhere=[seen(spec())]))
    assert (item.action, item.cause) == (Action.LEAVE, Cause.OTHER_NODE)


def test_what_is_critical_on_another_node_is_not_evicted():
    have = seen(spec(), marks={META_SELF: "0"})
    assert plan_for([], elsewhere=[have], evict=DEAD).changes == ()
    assert plan_for(Declared(spec=spec()), elsewhere=[have], evict=DEAD).changes == ()


def test_what_is_here_counts_before_what_is_elsewhere_and_the_other_is_still_told():
    plan = plan_for(Declared(spec=spec()), seen(spec()), elsewhere=[seen(spec())])
    assert plan.statuses["api-1"] is SyncStatus.SYNCED
    assert (only_item(plan).node, only_item(plan).cause) == ("node-2", Cause.OTHER_NODE)


def test_of_several_on_other_nodes_ours_counts():
    others = [foreign(spec(port=1), node="node-2"), seen(spec(), node="node-3")]
    plan = plan_for(Declared(spec=spec()), elsewhere=others)
    assert plan.statuses["api-1"] is SyncStatus.SYNCED
    assert plan.elsewhere == {
        ("node-2", "api-1"): SyncStatus.UNMANAGED,
        ("node-3", "api-1"): SyncStatus.SYNCED,
    }


# -- causes -----------------------------------------------------------------------------------------------------------

EDITED = seen(spec(), port=1)
OLDER = seen(spec(port=1))


@pytest.mark.parametrize(
    ("want", "have", "cause"),
    [
        (Declared(spec=spec()), None, Cause.NEVER_REGISTERED),
        (Declared(spec=spec(), claimed=True), None, Cause.REMOVED),
        (Declared(spec=spec(), departed=True), None, Cause.LEFT),
        (Declared(spec=spec(), applied=spec().digest), EDITED, Cause.EDITED),
        (Declared(spec=spec(), applied=spec().digest), OLDER, Cause.EDITED),
        (Declared(spec=spec()), EDITED, Cause.EDITED),
        (Declared(spec=spec(), applied=spec(port=1).digest), OLDER, Cause.DECLARATION_CHANGED),
        (Declared(spec=spec()), OLDER, Cause.DECLARATION_CHANGED),
        (Declared(spec=spec(), claimed=True, applied=spec().digest), foreign(spec()), Cause.EDITED),
        (Declared(spec=spec(), claimed=True), foreign(spec()), Cause.ADOPTED),
        (Declared(spec=spec()), foreign(spec()), Cause.FOREIGN),
        (Declared(spec=spec()), seen(spec(port=1), marks={META_SELF: "0"}), Cause.REGISTERED_ITSELF),
        (Declared(spec=spec(), enabled=False), seen(spec()), Cause.DISABLED),
    ],
)
def test_of_a_declared_instance_the_cause_is_told(want, have, cause):
    plan = plan_for(want, *([have] if have else []))
    assert only_item(plan).cause is cause


@pytest.mark.parametrize(
    ("have", "cause"),
    [
        (seen(spec()), Cause.NOT_DECLARED),
        (foreign(spec()), Cause.FOREIGN),
        (seen(spec(), marks={META_OWNER: "another"}), Cause.FOREIGN),
        (seen(spec(), marks={META_SELF: "0"}), Cause.REGISTERED_ITSELF),
    ],
)
def test_of_an_undeclared_instance_the_cause_is_told(have, cause):
    assert only_item(plan_for([], have)).cause is cause


def test_what_went_with_the_agent_s_memory_was_removed_by_nobody():
    want = [Declared(spec=spec("known"), claimed=True), Declared(spec=spec("new"))]
    causes = {item.id: item.cause for item in plan_for(want, agent_lost_state=True).items}
    assert causes == {"known": Cause.AGENT_LOST_STATE, "new": Cause.NEVER_REGISTERED}


def test_maintenance_is_no_drift():
    plan = plan_for(Declared(spec=spec()), seen(spec(), health=Health.MAINTENANCE))
    assert plan.items == ()
