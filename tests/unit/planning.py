"""Declarations and observations, as the tests of the planner and of what is made of plans need them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from registry_admin.consul import CheckResult, ServiceInstance, ServiceSpec
from registry_admin.consul.observe import Observation
from registry_admin.consul.types import META_OWNER
from registry_admin.reconcile.compare import make_plan
from registry_admin.reconcile.plan import Declared, Plan, PlanItem

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


def look(*here: ServiceInstance, elsewhere: Iterable[ServiceInstance] = ()) -> Observation:
    """One look at Consul, whose own agent is on node-1."""
    return Observation(
        node="node-1",
        node_id="1",
        here={one.id: replace(one, node="node-1") for one in here},
        elsewhere=tuple(replace(one, node=one.node or "node-2") for one in elsewhere),
    )


def plan_for(
    declared: list[Declared] | Declared,
    *observed: ServiceInstance,
    elsewhere: Iterable[ServiceInstance] = (),
    **options: Any,
) -> Plan:
    """The plan for what is declared, where our agent has what is observed. `options` are those of make_plan."""
    wanted = [declared] if isinstance(declared, Declared) else declared
    return make_plan(wanted, look(*observed, elsewhere=elsewhere), owner=OWNER, **options)


def only_item(plan: Plan) -> PlanItem:
    (item,) = plan.items
    return item
