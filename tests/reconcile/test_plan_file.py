"""Plan files: the reviewed plan is applied unchanged, or refused as stale."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from registry_admin.consul import CheckSpec, Health, ServiceInstance
from registry_admin.consul.snapshot import Snapshot
from registry_admin.errors import InvalidValueError, StalePlanError
from registry_admin.reconcile.plan import Declared, Plan
from registry_admin.reconcile.plan_file import PlanFile
from tests.reconcile import planning
from tests.reconcile.planning import OURS, foreign, registered, snapshot_of, spec

DECLARED = [Declared(spec=spec("new")), Declared(spec=spec("changed", port=1)), Declared(spec=spec("same"))]
OBSERVED = [registered(spec("changed")), registered(spec("same")), registered(spec("gone")), foreign(spec("stranger"))]


def plan_of(declared: list[Declared], snapshot: Snapshot, **options: Any) -> Plan:
    return planning.plan_of(declared, snapshot, **options)


def loaded_file(only: set[str] | None = None) -> PlanFile:
    """Returns the plan file of `DECLARED` and `OBSERVED`, restricted to the services `only`, after dump and load."""
    plan = plan_of(DECLARED, snapshot_of(*OBSERVED))
    plan = plan if only is None else plan.restricted_to(only)
    return PlanFile.load(PlanFile.of(plan, declared=DECLARED, snapshot=snapshot_of(*OBSERVED)).dump())


def checked_plan(file: PlanFile, declared: list[Declared], snapshot: Snapshot, **options: Any) -> Plan:
    plan = plan_of(declared, snapshot, **options)
    return file.check_current(plan, declared=declared, snapshot=snapshot)


def test_plan_file_without_changes_returns_the_same_plan():
    assert (
        checked_plan(loaded_file(), DECLARED, snapshot_of(*OBSERVED)).changes
        == plan_of(DECLARED, snapshot_of(*OBSERVED)).changes
    )


def test_plan_file_contains_a_readable_summary():
    raw = json.loads(
        PlanFile.of(
            plan_of(DECLARED, snapshot_of(*OBSERVED)), declared=DECLARED, snapshot=snapshot_of(*OBSERVED)
        ).dump()
    )
    counts = {
        "register": 1,
        "update": 1,
        "deregister": 1,
        "evict": 0,
        "left_alone": 1,
        "held": 0,
    }
    assert raw["plan"]["summary"] == counts
    assert (raw["node"], raw["prune"], raw["services"]) == ("node-1", True, None)


def test_plan_file_ignores_order_and_health():
    critical = [
        replace(
            instance,
            health=Health.CRITICAL,
            checks=tuple(replace(check, status="critical", output="refused") for check in instance.checks),
        )
        for instance in OBSERVED
    ]
    assert checked_plan(loaded_file(), DECLARED[::-1], snapshot_of(*critical[::-1])).changes


def test_plan_file_ignores_foreign_instances():
    assert checked_plan(loaded_file(), DECLARED, snapshot_of(*OBSERVED[:-1], foreign(spec("another")))).changes


@pytest.mark.parametrize(
    "declared",
    [
        [*DECLARED[:2]],
        [*DECLARED, Declared(spec=spec("added"))],
        [*DECLARED[:2], Declared(spec=spec("same", check=CheckSpec(interval="20s")))],
        [*DECLARED[:2], replace(DECLARED[2], enabled=False)],
    ],
)
def test_plan_file_with_a_changed_declaration_is_stale_and_names_it(declared):
    with pytest.raises(StalePlanError, match=r"the declarations of (same|added) changed: nothing was done") as raised:
        checked_plan(loaded_file(), declared, snapshot_of(*OBSERVED))
    assert len(raised.value.declared) == 1
    assert raised.value.observed == ()


@pytest.mark.parametrize(
    "now",
    [
        [*OBSERVED[:2], *OBSERVED[3:]],
        [*OBSERVED, registered(spec("new"))],
        [*OBSERVED[:2], replace(OBSERVED[2], port=7), *OBSERVED[3:]],
        [*OBSERVED[:2], replace(OBSERVED[2], meta=OURS | {"edited": "1"}), *OBSERVED[3:]],
    ],
)
def test_plan_file_with_a_changed_instance_is_stale_and_names_it(now: list[ServiceInstance]):
    with pytest.raises(StalePlanError, match=r"what Consul has of (gone|new) changed") as raised:
        checked_plan(loaded_file(), DECLARED, snapshot_of(*now))
    assert raised.value.declared == ()
    assert len(raised.value.observed) == 1


def test_plan_file_with_a_changed_remote_instance_is_stale():
    with pytest.raises(StalePlanError, match="what Consul has of new changed"):
        checked_plan(loaded_file(), DECLARED, snapshot_of(*OBSERVED, remote=[registered(spec("new"))]))


def test_stale_plan_error_names_both_sides_and_is_truncated():
    many = [Declared(spec=spec(f"api-{number}")) for number in range(9)]
    with pytest.raises(StalePlanError, match=r"api-0, .* and 7 more and what Consul has of changed, same changed"):
        checked_plan(loaded_file(), many, snapshot_of(OBSERVED[2]))


def test_plan_file_of_another_node_is_stale():
    with pytest.raises(StalePlanError, match="node 'node-1', and this one is on 'node-9'"):
        checked_plan(loaded_file(), DECLARED, replace(snapshot_of(*OBSERVED), node="node-9"))


def test_plan_file_with_other_options_is_stale():
    with pytest.raises(StalePlanError, match="comes out otherwise"):
        checked_plan(loaded_file(), DECLARED, snapshot_of(*OBSERVED), prune=False)


def test_plan_file_restricted_to_services_ignores_other_services():
    declared = [*DECLARED, Declared(spec=spec("web-1", name="web"))]
    file = loaded_file({"api"})
    now = checked_plan(file, declared, snapshot_of(*OBSERVED, registered(spec("web-9", name="web"))))
    assert {item.service for item in now.items} == {"api"}
    assert len(now.changes) == 3
    with pytest.raises(StalePlanError):
        checked_plan(file, DECLARED[:2], snapshot_of(*OBSERVED))


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "{}", "{", '{"format": 2}', '{"format": "1"}', "[" * 100_000, "NaN",
        '{"format": 1, "plan": []}', '{"format": 1, "plan": {"items": [1]}}',
    ],
)  # fmt: skip
def test_plan_file_with_invalid_content_is_refused(text):
    with pytest.raises(InvalidValueError, match="plan file"):
        PlanFile.load(text)


@pytest.mark.parametrize(
    "change",
    [
        {"node": 1}, {"prune": "yes"}, {"services": "api"}, {"services": [1]}, {"declared": []},
        {"declared": {"a": 1}}, {"observed": None}, {"plan": None},
    ],
)  # fmt: skip
def test_plan_file_with_an_invalid_field_is_refused(change):
    raw = json.loads(loaded_file().dump()) | change
    with pytest.raises(InvalidValueError, match="plan file"):
        PlanFile.load(json.dumps(raw))
