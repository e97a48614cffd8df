"""Declarations as the reconciler needs them: read whole for each run, and parsed only where a row has changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple

from django.db.models import Expression, F, Q, TextField
from django.db.models.functions import Cast
from django.utils import timezone

from registry_admin.consul import Owner, Place, ServiceInstance, ServiceSpec, validation
from registry_admin.consul.snapshot import Snapshot
from registry_admin.errors import InvalidValueError
from registry_admin.inventory.models import Health, Instance, ObservedInstance, Service
from registry_admin.inventory.models.declared_fields import declared_fields
from registry_admin.inventory.selectors.completeness import agent_lost_state
from registry_admin.inventory.selectors.health import failing_output
from registry_admin.inventory.selectors.maintenance import NO_MAINTENANCE, KeptMaintenance, MaintenanceKeeper
from registry_admin.reconcile.ownership import is_issued_by
from registry_admin.reconcile.plan import Cause, Declared

_MAX_IDS_IN_QUERY = 500
_MAX_REASON = 500  # as the column


_SERVICE = tuple(field for field in declared_fields(Service) if field.is_registered)
_INSTANCE = tuple(field for field in declared_fields(Instance) if field.is_registered)
_DECLARED = (*((Instance, field) for field in _INSTANCE), *((Service, field) for field in _SERVICE))
_INDEX = {(model, field.name): index for index, (model, field) in enumerate(_DECLARED)}
_ID, _NAME = _INDEX[Instance, "consul_id"], _INDEX[Service, "name"]


class DeclaredRow(NamedTuple):
    """A declared instance with its service, and the state that syncing keeps of it. JSON columns are text.

    `declaration`: the values that a registration is made of, those of the instance before those of its service.
    """

    declaration: tuple[Any, ...]
    pk: int
    service_pk: int
    claimed_datacenter: str
    claimed_node: str
    departed: bool
    departed_node: str
    released: bool
    applied_digest: str
    evicted_at: datetime | None
    evicted_reason: str
    replaces: str
    maintenance: str
    maintenance_index: int
    sync_status: str
    sync_reason: str
    sync_cause: str
    sync_action: str
    differences: str

    @classmethod
    def of(cls, values: tuple[Any, ...]) -> DeclaredRow:
        """Returns the row of a query for `_COLUMNS`."""
        return cls(values[: len(_DECLARED)], *values[len(_DECLARED) :])

    def has_values(self, values: tuple[Any, ...]) -> bool:
        """Returns whether a query for `_COLUMNS` would give this row."""
        return self.declaration == values[: len(_DECLARED)] and self[1:] == values[len(_DECLARED) :]

    @property
    def consul_id(self) -> str:
        """The service ID."""
        return str(self.declaration[_ID])

    @property
    def claim(self) -> Place | None:
        """The place where we have registered it, or None."""
        return Place(self.claimed_datacenter, self.claimed_node, self.consul_id) if self.claimed_node else None

    @property
    def service_name(self) -> str:
        """The name of the service."""
        return str(self.declaration[_NAME])

    @property
    def deregister_after(self) -> str:
        """The duration after which a critical instance is taken out; empty: never."""
        return str(self.declaration[_INDEX[Service, "deregister_after"]])

    @property
    def former_ids(self) -> tuple[str, ...]:
        """IDs that it had before, and that may still be registered."""
        return () if self.replaces == "[]" else tuple(json.loads(self.replaces))

    @property
    def is_enabled(self) -> bool:
        """True if both the instance and its service are enabled."""
        return bool(self.declaration[_INDEX[Instance, "enabled"]] and self.declaration[_INDEX[Service, "enabled"]])

    def spec(self) -> ServiceSpec:
        """Returns the registration. Raises InvalidValueError, TypeError or ValueError for an invalid row."""
        values = [
            json.loads(value) if field.is_json else value
            for (_, field), value in zip(_DECLARED, self.declaration, strict=True)
        ]
        names = [field.name for _, field in _DECLARED]
        count = len(_INSTANCE)
        service = Service(**dict(zip(names[count:], values[count:], strict=True)))
        instance = Instance(service=service, **dict(zip(names[:count], values[:count], strict=True)))
        instance.consul_id = validation.service_id(instance.consul_id)
        return instance.spec()


_JSON_STATE = ("differences", "replaces")


def _column(name: str, *, is_json: bool) -> Expression | F:
    return Cast(name, TextField()) if is_json else F(name)


_COLUMNS = [
    _column(field.name if model is Instance else f"service__{field.name}", is_json=field.is_json)
    for model, field in _DECLARED
] + [
    _column("service__pk" if name == "service_pk" else name, is_json=name in _JSON_STATE)
    for name in DeclaredRow._fields[1:]
]


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """All declarations, by instance ID.

    `invalid`: reasons why a declaration can't be registered. `removed_by_consul`: reasons of instances that Consul
    itself has deregistered since the last snapshot. `released`: instances that leave the inventory and stay in Consul.
    `maintenance`: what is kept of the maintenance mode of those that are in it, or are to be.
    """

    owner: Owner
    rows: Mapping[str, DeclaredRow]
    declared: tuple[Declared, ...]
    invalid: Mapping[str, str]
    removed_by_consul: Mapping[str, str] = field(default_factory=dict)
    released: frozenset[str] = frozenset()
    maintenance: Mapping[str, KeptMaintenance] = field(default_factory=dict)

    @cached_property
    def specs(self) -> dict[str, ServiceSpec]:
        """Specs of the valid declarations, by instance ID."""
        return {declared.spec.id: declared.spec for declared in self.declared}

    @cached_property
    def excluded(self) -> frozenset[str]:
        """IDs of instances that are not to be touched: those of invalid and released declarations."""
        excluded = self.invalid.keys() | self.released
        return frozenset(excluded | {former_id for key in excluded for former_id in self.rows[key].former_ids})

    def without_excluded(self, snapshot: Snapshot) -> Snapshot:
        """Returns the snapshot without instances that are not to be touched."""
        excluded = self.excluded
        if not excluded:
            return snapshot
        return replace(
            snapshot,
            local={key: instance for key, instance in snapshot.local.items() if key not in excluded},
            remote=tuple(instance for instance in snapshot.remote if instance.id not in excluded),
        )


class _Parsed(NamedTuple):
    """A row and what was made of it, to be reused while it doesn't change."""

    row: DeclaredRow
    memory: tuple[Any, ...]
    spec: ServiceSpec | str  # a text is the reason why the row is invalid
    declared: Declared | None


_parsed: dict[str, _Parsed] = {}  # replaced as a whole, so that threads need no lock


def read_inventory(
    snapshot: Snapshot,
    owner: Owner,
    *,
    restore: Collection[str] = (),
    recovered: Collection[str] = (),
    retried: Collection[str] = (),
    agent_lost_state: bool = False,
    created_indexes: Callable[[], Mapping[str, int]] = dict,
) -> Inventory:
    """Returns all declarations, each with its sync state. One query, and up to four where instances are absent.

    An absent instance that registered itself counts as departed. Instances of the services in `restore` count neither
    as departed nor as evicted, unless they left on another node, where they may start at any time: then there would be
    two. `recovered`: IDs of evicted instances that have just answered a probe; `retried`: IDs of those that get another
    chance, though nobody knows that they answer. `agent_lost_state`: what is on our agent has registered itself anew.
    `created_indexes` returns the catalog's CreateIndex of each instance on our node; it is called at most once, and
    only where that tells whether maintenance mode was ended or lost.
    """
    global _parsed  # noqa: PLW0603
    rows = {row.consul_id: row for row in map(_row_of, Instance.objects.order_by().values_list(*_COLUMNS))}
    absent = _absent_ids(rows, snapshot, owner)
    left, removed_by_consul = _explain_absence(absent, rows, snapshot, owner) if absent else ({}, {})
    keeper = MaintenanceKeeper(snapshot.local, agent_lost_state=agent_lost_state, created_indexes=created_indexes)
    parsed, declared, invalid, maintenance = {}, [], {}, {}
    for key, row in rows.items():
        is_absent, is_restored = key in absent, row.service_name in restore
        evicted = (row.evicted_reason or removed_by_consul.get(key, "")) if is_absent and not is_restored else ""
        node = left.get(key, row.departed_node if row.departed else "")
        departed = is_absent and not evicted and (row.departed or key in left)
        if departed and is_restored and not _may_start_elsewhere(node, snapshot):
            departed = False
        kept = maintenance[key] = _kept_maintenance(row, keeper, snapshot, owner)
        parsed[key] = entry = _parse(
            row,
            _parsed.get(key),
            kept=kept,
            departed=departed,
            departed_node=node if departed else "",
            evicted=evicted,
            returns=bool(evicted) and (key in recovered or key in retried),
            passes=key in recovered,
        )
        if entry.declared is None:
            invalid[key] = str(entry.spec)
        elif not row.released:
            declared.append(entry.declared)
    _parsed = parsed
    return Inventory(
        owner=owner,
        rows=rows,
        declared=tuple(declared),
        invalid=invalid,
        removed_by_consul=removed_by_consul,
        released=frozenset(key for key, row in rows.items() if row.released),
        maintenance=maintenance,
    )


def _row_of(values: tuple[Any, ...]) -> DeclaredRow:
    """Returns the row of these values: the same object as at the last read if nothing has changed."""
    known = _parsed.get(values[_ID])
    return known.row if known is not None and known.row.has_values(values) else DeclaredRow.of(values)


def _kept_maintenance(row: DeclaredRow, keeper: MaintenanceKeeper, snapshot: Snapshot, owner: Owner) -> KeptMaintenance:
    """Returns what is kept of an instance's maintenance mode. That of a stranger with its ID isn't its own."""
    instance = snapshot.local.get(row.consul_id)
    if instance is not None and instance.health is not Health.MAINTENANCE and not (row.maintenance or row.former_ids):
        return NO_MAINTENANCE
    remembered = KeptMaintenance(row.maintenance, row.maintenance_index)
    if instance is not None and not _may_be(row, instance, owner):
        return remembered
    return keeper.update(row.consul_id, remembered, former_ids=row.former_ids)


def _absent_ids(rows: Mapping[str, DeclaredRow], snapshot: Snapshot, owner: Owner) -> Collection[str]:
    """Returns the IDs of declarations that no instance in Consul can be.

    An instance on another node with the same ID may be a stranger's; on a node whose agent has failed, none is present.
    """

    def may_be_declared(instance: ServiceInstance) -> bool:
        if instance.id not in rows or instance.node in snapshot.failed_nodes:
            return False
        return _may_be(rows[instance.id], instance, owner)

    return (
        rows.keys() - snapshot.local.keys() - {instance.id for instance in snapshot.remote if may_be_declared(instance)}
    )


def _may_be(row: DeclaredRow, instance: ServiceInstance, owner: Owner) -> bool:
    """Returns whether an instance with the row's ID can be the declared one, and not a stranger's."""
    if instance.registered_itself or is_issued_by(instance, owner):
        return True
    return row.claim is not None and row.claim.is_at(instance.place)


def _may_start_elsewhere(node: str, snapshot: Snapshot) -> bool:
    """Returns whether this is another node than our agent's, and still there, if only as one that has failed."""
    return node.lower() in {name.lower() for name in snapshot.nodes} - {snapshot.node.lower()}


def _parse(
    row: DeclaredRow,
    last: _Parsed | None,
    *,
    kept: KeptMaintenance,
    departed: bool,
    departed_node: str,
    evicted: str,
    returns: bool,
    passes: bool,
) -> _Parsed:
    memory = (departed, departed_node, evicted, returns, passes, kept)
    if last is not None and last.row is row and last.memory == memory:
        return last
    if last is not None and last.row.declaration == row.declaration:
        spec = last.spec
    else:
        try:
            spec = row.spec()
        except (InvalidValueError, TypeError, ValueError) as error:
            spec = str(error)
    if isinstance(spec, str):
        return _Parsed(row, memory, spec, None)
    declared = Declared(
        spec=spec,
        enabled=row.is_enabled,
        claim=row.claim,
        departed=departed,
        departed_node=departed_node,
        applied_digest=row.applied_digest,
        evicted_reason=evicted,
        recovered=returns,
        passes=passes or not returns,
        replaces=row.former_ids,
        maintenance=kept.reason,
        lost_maintenance=kept.is_lost,
    )
    return _Parsed(row, memory, spec, declared)


def _explain_absence(
    absent: Collection[str], rows: Mapping[str, DeclaredRow], snapshot: Snapshot, owner: Owner
) -> tuple[Mapping[str, str], dict[str, str]]:
    """Returns the nodes of absent instances that deregistered themselves, and the reasons of those that Consul removed.

    Consul removes an instance that has been critical for longer than its `deregister_after`.
    """
    critical = Q(node=snapshot.node, health=Health.CRITICAL)
    mirrored = ObservedInstance.objects.filter(critical | Q(registered_itself=True)).order_by()
    mirrored = mirrored.exclude(sync_cause=Cause.FOREIGN)
    if len(absent) <= _MAX_IDS_IN_QUERY:
        mirrored = mirrored.filter(consul_id__in=absent)
    now = timezone.now()
    still_there = {(instance.node, instance.id) for instance in snapshot.remote}
    left, removed_by_consul = {}, {}
    for key, node, registered_itself, health, since, checks in mirrored.values_list(
        "consul_id", "node", "registered_itself", "health", "health_since", "checks"
    ):
        if registered_itself and (node, key) not in still_there:
            left[key] = node
        row = rows.get(key) if key in absent else None
        if row and (node, health) == (snapshot.node, Health.CRITICAL) and _is_removable_by_consul(row, now - since):
            removed_by_consul[key] = (
                f"Consul took it out, critical since {since:%Y-%m-%d %H:%M:%S} UTC: {failing_output(checks)}"[:500]
            )
    if removed_by_consul and agent_lost_state(snapshot, owner):
        removed_by_consul = {}
    return left, removed_by_consul


def _is_removable_by_consul(row: DeclaredRow, critical_for: timedelta) -> bool:
    if not (row.is_enabled and row.claimed_node and row.deregister_after) or row.evicted_at or row.departed:
        return False
    return critical_for.total_seconds() >= validation.seconds(row.deregister_after)
