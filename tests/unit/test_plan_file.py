"""A plan kept in a file: what was reviewed is what runs, or nothing is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from registry_admin.consul import CheckResult, CheckSpec, Health, ServiceInstance
from registry_admin.consul.observe import Observation
from registry_admin.consul.types import META_OWNER
from registry_admin.errors import InvalidValueError, PlanMovedError
from registry_admin.reconcile.compare import make_plan
from registry_admin.reconcile.plan import Declared, Plan
from registry_admin.reconcile.plan_file import PlanFile
from tests.unit.planning import OWNER, foreign, look, seen, spec

WANTED = [Declared(spec=spec("new")), Declared(spec=spec("changed", port=1)), Declared(spec=spec("same"))]
SEEN = [seen(spec("changed")), seen(spec("same")), seen(spec("gone")), foreign(spec("stranger"))]


def planned(declared: list[Declared], observation: Observation, **options: Any) -> Plan:
    return make_plan(declared, observation, owner=OWNER, **options)


def kept(only: set[str] | None = None) -> PlanFile:
    """As it comes back from a file."""
    plan = planned(WANTED, look(*SEEN))
    plan = plan if only is None else plan.restricted_to(only)
    return PlanFile.load(PlanFile.of(plan, declared=WANTED, observation=look(*SEEN)).dump())


def later(file: PlanFile, declared: list[Declared], observation: Observation, **options: Any) -> Plan:
    plan = planned(declared, observation, **options)
    return file.unmoved(plan, declared=declared, observation=observation)


def test_where_nothing_has_moved_it_is_the_same_plan():
    assert later(kept(), WANTED, look(*SEEN)).changes == planned(WANTED, look(*SEEN)).changes


def test_a_file_is_for_people_too():
    raw = json.loads(PlanFile.of(planned(WANTED, look(*SEEN)), declared=WANTED, observation=look(*SEEN)).dump())
    assert raw["plan"]["summary"] == {"register": 1, "update": 1, "deregister": 1, "evict": 0, "left_alone": 1}
    assert (raw["node"], raw["prune"], raw["services"]) == ("node-1", True, None)


def test_the_order_of_things_and_their_health_are_no_movement():
    sick = [
        replace(one, health=Health.CRITICAL, checks=(CheckResult(id="c", name="", status="critical"),)) for one in SEEN
    ]
    assert later(kept(), WANTED[::-1], look(*sick[::-1])).changes


def test_strangers_that_nobody_declared_may_come_and_go():
    assert later(kept(), WANTED, look(*SEEN[:-1], foreign(spec("another")))).changes


@pytest.mark.parametrize(
    "declared",
    [
        [*WANTED[:2]],
        [*WANTED, Declared(spec=spec("added"))],
        [*WANTED[:2], Declared(spec=spec("same", check=CheckSpec(interval="20s")))],
        [*WANTED[:2], replace(WANTED[2], enabled=False)],
    ],
)
def test_a_declaration_that_has_changed_is_named(declared):
    with pytest.raises(PlanMovedError, match=r"the declarations of (same|added) changed: nothing was done") as caught:
        later(kept(), declared, look(*SEEN))
    assert len(caught.value.declared) == 1
    assert caught.value.observed == ()


@pytest.mark.parametrize(
    "now",
    [
        [*SEEN[:2], *SEEN[3:]],
        [*SEEN, seen(spec("new"))],
        [*SEEN[:2], replace(SEEN[2], port=7), *SEEN[3:]],
        [*SEEN[:2], replace(SEEN[2], meta={META_OWNER: OWNER, "edited": "1"}), *SEEN[3:]],
    ],
)
def test_what_has_changed_in_consul_is_named(now: list[ServiceInstance]):
    with pytest.raises(PlanMovedError, match=r"what Consul has of (gone|new) changed") as caught:
        later(kept(), WANTED, look(*now))
    assert caught.value.declared == ()
    assert len(caught.value.observed) == 1


def test_what_has_moved_on_another_node_counts():
    with pytest.raises(PlanMovedError, match="what Consul has of new changed"):
        later(kept(), WANTED, look(*SEEN, elsewhere=[seen(spec("new"))]))


def test_both_sides_are_named_and_not_without_end():
    many = [Declared(spec=spec(f"api-{number}")) for number in range(9)]
    with pytest.raises(PlanMovedError, match=r"api-0, .* and 7 more and what Consul has of changed, same changed"):
        later(kept(), many, look(SEEN[2]))


def test_another_agent_is_another_place():
    with pytest.raises(PlanMovedError, match="node 'node-1', and this one is on 'node-9'"):
        later(kept(), WANTED, replace(look(*SEEN), node="node-9"))


def test_other_options_make_another_plan():
    with pytest.raises(PlanMovedError, match="comes out otherwise"):
        later(kept(), WANTED, look(*SEEN), prune=False)


def test_a_plan_for_some_services_minds_those_only():
    wanted = [*WANTED, Declared(spec=spec("web-1", name="web"))]
    file = kept({"api"})
    now = later(file, wanted, look(*SEEN, seen(spec("web-9", name="web"))))
    assert {item.service for item in now.items} == {"api"}
    assert len(now.changes) == 3
    with pytest.raises(PlanMovedError):
        later(file, WANTED[:2], look(*SEEN))


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "{}", "{", '{"format": 2}', '{"format": "1"}', "[" * 100_000, "NaN",
        '{"format": 1, "plan": []}', '{"format": 1, "plan": {"items": [1]}}',
    ],
)  # fmt: skip
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(InvalidValueError, match="plan file"):
        PlanFile.load(text)


@pytest.mark.parametrize(
    "change",
    [
        {"node": 1}, {"prune": "yes"}, {"services": "api"}, {"services": [1]}, {"declared": []},
        {"declared": {"a": 1}}, {"observed": None}, {"plan": None},
    ],
)  # fmt: skip
def test_a_plan_with_something_else_in_it_is_refused(change):
    raw = json.loads(kept().dump()) | change
    with pytest.raises(InvalidValueError, match="plan file"):
        PlanFile.load(json.dumps(raw))
