"""Builders of declarations, instances, snapshots and plans for the tests of the reconciler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from registry_admin.consul import CheckResult, Mark, Owner, Place, ServiceInstance, ServiceSpec
from registry_admin.consul.marks import META_MARK, META_OWNER
from registry_admin.consul.snapshot import Snapshot
from registry_admin.reconcile.ownership import FormerDeclarations
from registry_admin.reconcile.plan import Declared, Plan, PlanItem
from registry_admin.reconcile.planner import make_plan

OWNER = Owner(name="us", inventory="a" * 32, revision=5)
DATACENTER, NODE = "dc1", "node-1"
UNPLACED = "0" * 20  # in a mark: `snapshot_of` puts the place there
OURS = {META_OWNER: OWNER.name, META_MARK: str(Mark(inventory=OWNER.inventory, revision=1, place=UNPLACED))}
THEIRS = {META_OWNER: "another", META_MARK: str(Mark(inventory="b" * 32, revision=1, place=UNPLACED))}


def spec(instance_id: str = "api-1", **fields: Any) -> ServiceSpec:
    return ServiceSpec(**{"name": "api", "address": "10.0.0.1", "port": 8000, "id": instance_id} | fields)


def registered(declared: ServiceSpec, *, marks: Mapping[str, str] | None = None, **fields: Any) -> ServiceInstance:
    """Returns the instance as the agent lists it after a registration with this spec and these marks.

    `marks` default to those of our inventory; `fields` replace fields of the instance.
    """
    payload = declared.payload(marks=OURS if marks is None else marks)
    raw = payload | {"Service": payload["Name"]}
    checks = tuple(CheckResult(id=check["CheckID"], name="", status="passing") for check in payload.get("Checks", ()))
    return replace(ServiceInstance.from_agent(raw, checks), **fields)


def foreign(declared: ServiceSpec, **fields: Any) -> ServiceInstance:
    """Returns an instance that someone else registered, without our marks."""
    return registered(declared, marks={}, meta=dict(declared.meta), **fields)


def placed(instance: ServiceInstance, node: str = NODE) -> ServiceInstance:
    """Returns the instance on this node, with its mark made for this place."""
    placed = replace(instance, node=node, datacenter=DATACENTER)
    if placed.mark is None or placed.mark.place != UNPLACED:
        return placed
    return replace(placed, meta={**placed.meta, META_MARK: str(replace(placed.mark, place=placed.place.digest))})


def snapshot_of(
    *local: ServiceInstance, remote: Iterable[ServiceInstance] = (), failed: Iterable[str] = ()
) -> Snapshot:
    """Returns a snapshot with `local` instances at our agent on node-1, and `remote` ones on other nodes."""
    elsewhere = tuple(placed(instance, instance.node or "node-2") for instance in remote)
    return Snapshot(
        node=NODE,
        node_id="1",
        datacenter=DATACENTER,
        local={instance.id: placed(instance) for instance in local},
        remote=elsewhere,
        nodes=frozenset({instance.node for instance in elsewhere} | {"node-2", *failed}),
        failed_nodes=frozenset(failed),
    )


def claim_of(instance_id: str = "api-1", *, node: str = NODE) -> Place:
    """Returns the claim of an instance at our agent, unless another node is given."""
    return Place(DATACENTER, node, instance_id)


def plan_of(declared: Iterable[Declared], snapshot: Snapshot, **options: Any) -> Plan:
    """Returns the plan of an inventory that has declared all instances of the snapshot once."""
    instances = (*snapshot.local.values(), *snapshot.remote)
    known = {instance.id: frozenset({(instance.address, instance.port)}) for instance in instances}
    return make_plan(declared, snapshot, **{"owner": OWNER, "former": FormerDeclarations(endpoints=known)} | options)


def plan_for(
    declared: list[Declared] | Declared,
    *observed: ServiceInstance,
    remote: Iterable[ServiceInstance] = (),
    failed: Iterable[str] = (),
    **options: Any,
) -> Plan:
    """Returns the plan for `declared` and the `observed` instances of our agent. `options` are those of make_plan."""
    declarations = [declared] if isinstance(declared, Declared) else declared
    return plan_of(declarations, snapshot_of(*observed, remote=remote, failed=failed), **options)


def only_item(plan: Plan) -> PlanItem:
    (item,) = plan.items
    return item
