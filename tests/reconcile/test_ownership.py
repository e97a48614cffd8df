"""Whose an instance is: each line of the table, and what may follow from it for a plan."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from registry_admin.consul import Mark, Owner, Place, ServiceInstance
from registry_admin.consul.marks import META_DIGEST, META_MARK, META_OWNER, META_SELF
from registry_admin.reconcile.ownership import FormerDeclarations, Ownership, Takeover, judge, newest_revision
from registry_admin.reconcile.plan import Action, Declared
from tests.reconcile.planning import (
    DATACENTER,
    NODE,
    OURS,
    OWNER,
    THEIRS,
    UNPLACED,
    claim_of,
    foreign,
    only_item,
    placed,
    plan_for,
    plan_of,
    registered,
    spec,
)
from tests.reconcile.test_planner import CASE_TWINS, IDS, declarations, observations, options

FOREIGN, DOUBT = Ownership.FOREIGN, Ownership.DOUBT
DECLARED = Declared(spec=spec())
CLAIMED = replace(DECLARED, claim=claim_of())
CLAIMED_ELSEWHERE = replace(DECLARED, claim=claim_of(node="node-9"))
KNOWN = FormerDeclarations(endpoints={"api-1": frozenset({("10.0.0.1", 8000)})})
OLD = {META_OWNER: OWNER.name}
SELF = {META_SELF: "0"}


def marked(revision: int = 1, *, place: str = UNPLACED) -> dict[str, str]:
    return OURS | {META_MARK: str(Mark(inventory=OWNER.inventory, revision=revision, place=place))}


def seen(marks: dict[str, str], **fields: object) -> ServiceInstance:
    return placed(registered(spec(**fields), marks=marks))


@pytest.mark.parametrize(
    ("instance", "declared", "former", "ownership", "reason"),
    [
        # no mark
        (placed(foreign(spec())), None, KNOWN, FOREIGN, "someone else"),
        (placed(foreign(spec())), DECLARED, KNOWN, FOREIGN, "someone else"),
        (placed(foreign(spec())), CLAIMED, KNOWN, Ownership.OURS, ""),
        (placed(foreign(spec())), CLAIMED_ELSEWHERE, KNOWN, FOREIGN, "someone else"),
        # registered by the module itself
        (seen(SELF), DECLARED, KNOWN, Ownership.OURS, ""),
        (seen(SELF, port=9), DECLARED, KNOWN, Ownership.OURS, ""),
        (seen(SELF, port=9), CLAIMED_ELSEWHERE, KNOWN, FOREIGN, "someone else"),
        (seen(SELF), CLAIMED_ELSEWHERE, KNOWN, Ownership.OURS, ""),
        # a mark that can't be read, or of a newer format
        (seen({META_MARK: "rubbish"}), CLAIMED, KNOWN, DOUBT, "can't be read"),
        (seen(marked() | {META_MARK: "2:" + "a" * 32 + ":1:" + "0" * 20}), CLAIMED, KNOWN, DOUBT, "newer version"),
        # another inventory's
        (seen(THEIRS), CLAIMED, KNOWN, FOREIGN, "'another'"),
        (seen(THEIRS | {META_OWNER: OWNER.name}), CLAIMED, KNOWN, FOREIGN, "b" * 32),
        (seen(THEIRS), None, KNOWN, FOREIGN, "'another'"),
        # an old mark
        (seen({META_OWNER: "another"}), CLAIMED, KNOWN, FOREIGN, "'another'"),
        (seen(OLD, port=9), CLAIMED, KNOWN, Ownership.OURS, ""),
        (seen(OLD), CLAIMED_ELSEWHERE, KNOWN, DOUBT, "not registered there"),
        (seen(OLD), DECLARED, KNOWN, Ownership.OURS, ""),
        (seen(OLD, port=9), DECLARED, KNOWN, DOUBT, "not registered there"),
        (seen(OLD), None, KNOWN, Ownership.OURS, ""),
        (seen(OLD, port=9), None, KNOWN, DOUBT, "never declared here"),
        (seen(OLD), None, FormerDeclarations(), DOUBT, "never declared here"),
        # ours
        (seen(marked(OWNER.revision + 1)), CLAIMED, KNOWN, DOUBT, "newer declarations"),
        (seen(marked(OWNER.revision + 1)), None, KNOWN, DOUBT, "newer declarations"),
        (seen(marked(place="1" * 20)), CLAIMED, KNOWN, DOUBT, "another place"),
        (seen(marked()), CLAIMED, KNOWN, Ownership.OURS, ""),
        (seen(marked()), CLAIMED_ELSEWHERE, KNOWN, Ownership.OURS, ""),
        (seen(marked() | {META_OWNER: "renamed"}), CLAIMED, KNOWN, Ownership.OURS, ""),
        (seen(marked()), None, KNOWN, Ownership.OURS, ""),
        (seen(marked()), None, FormerDeclarations(), DOUBT, "never declared here"),
        (seen(marked()), None, replace(KNOWN, released=frozenset({"api-1"})), FOREIGN, "released"),
        (seen(OLD), None, replace(KNOWN, released=frozenset({"api-1"})), FOREIGN, "released"),
        (seen(marked()), CLAIMED, replace(KNOWN, released=frozenset({"api-1"})), Ownership.OURS, ""),
    ],
)
def test_judge_follows_the_table(instance, declared, former, ownership, reason):
    judgement = judge(instance, owner=OWNER, declared=declared, former=former)
    assert judgement.ownership is ownership
    assert reason in judgement.reason


def test_judge_doubts_undeclared_instances_of_lost_revisions():
    owner = replace(OWNER, revision=9, lost_after=3, lost_until=7)
    judged = {
        revision: judge(seen(marked(revision)), owner=owner, declared=None, former=KNOWN).ownership
        for revision in (3, 4, 7, 8)
    }
    assert judged == {3: Ownership.OURS, 4: DOUBT, 7: DOUBT, 8: Ownership.OURS}


@pytest.mark.parametrize(
    ("takeover", "marks", "is_covered"),
    [
        (Takeover(owner_name="another"), THEIRS, True),
        (Takeover(owner_name="another"), {META_OWNER: "another"}, True),
        (Takeover(owner_name="else"), THEIRS, False),
        (Takeover(owner_name=OWNER.name), marked(), False),
        (Takeover(owner_name="former"), marked() | {META_OWNER: "former"}, True),
        (Takeover(inventory="b" * 32), THEIRS, True),
        (Takeover(inventory="c" * 32), THEIRS, False),
        (Takeover(node="former"), marked(place=Place(DATACENTER, "former", "api-1").digest), True),
        (Takeover(node="other"), marked(place=Place(DATACENTER, "former", "api-1").digest), False),
        (Takeover(restored=True), marked(OWNER.revision + 1), True),
        (Takeover(restored=True), marked(), False),
        (Takeover(restored=True), THEIRS, False),
        (Takeover(owner_name="another"), THEIRS | {META_MARK: "2:x"}, False),
    ],
)
def test_takeover_covers_what_it_names_where_it_is_declared(takeover, marks, is_covered):
    taken = plan_for(DECLARED, registered(spec(), marks=marks), takeover=takeover)
    assert bool(taken.changes) is is_covered
    if is_covered:
        item = only_item(taken)
        assert (item.action, item.cause, item.changes[-1].field) == (Action.UPDATE, "taken_over", "owner")
    assert plan_for([], registered(spec(), marks=marks), takeover=takeover, prune=False).changes == ()


@given(declarations(IDS + CASE_TWINS), observations(IDS + CASE_TWINS), options(IDS + CASE_TWINS))
def test_foreign_and_doubtful_instances_are_never_in_the_changes(declared, snapshot, plan_options):
    by_id = {declaration.spec.id: declaration for declaration in declared}
    former = FormerDeclarations()
    plan = plan_of(declared, snapshot, **plan_options | {"former": former})
    for item in plan.changes:
        if item.observed is None:
            continue
        if item.action is Action.EVICT and item.observed.registered_itself and not item.observed.is_marked:
            continue  # a module's own, which says itself after how long it is to be taken out
        declaration = by_id.get(item.observed.id)
        assert judge(item.observed, owner=OWNER, declared=declaration, former=former).ownership is Ownership.OURS


# -- marks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["", "1", "2:" + "a" * 32 + ":1:" + "0" * 20,
     "1:" + "A" * 32 + ":1:" + "0" * 20, "1:" + "a" * 32 + ":-1:" + "0" * 20,
     "1:" + "a" * 32 + ":1:" + "0" * 20 + "\n", "1:" + "a" * 32 + ":" + "9" * 19 + ":" + "0" * 20],
)  # fmt: skip
def test_mark_of_another_form_is_unreadable(text):
    assert Mark.parse(text) is None


def test_mark_survives_formatting():
    mark = Mark(inventory="a" * 32, revision=12, place="0" * 20)
    assert Mark.parse(str(mark)) == mark


def test_place_ignores_the_case_of_the_node_and_nothing_else():
    place = Place("dc1", "Node-1", "api-1")
    same, unknown = Place("dc1", "node-1", "api-1"), Place("", "node-1", "api-1")
    assert place.is_at(same)
    assert place.digest == same.digest
    assert place.is_at(unknown)
    for other in (Place("dc2", "node-1", "api-1"), Place("dc1", "node-2", "api-1"), Place("dc1", "node-1", "API-1")):
        assert not place.is_at(other)
        assert place.digest != other.digest


def test_marks_of_an_owner_name_it_its_inventory_its_revision_and_the_place():
    owner = Owner(name="us", inventory="a" * 32, revision=7)
    place = Place(DATACENTER, NODE, "api-1")
    assert owner.marks(place) == {META_OWNER: "us", META_MARK: f"1:{'a' * 32}:7:{place.digest}"}


def test_newest_revision_ignores_copies_and_other_inventories():
    instances = [seen(marked(3)), seen(marked(8, place="1" * 20)), seen(THEIRS | {META_DIGEST: "x"})]
    assert newest_revision(instances, OWNER) == 3
    assert newest_revision([], OWNER) == 0


def test_marks_fit_into_consul_s_meta():
    value = str(Mark(inventory="a" * 32, revision=10**18 - 1, place="0" * 20))
    assert len(value) <= 512
