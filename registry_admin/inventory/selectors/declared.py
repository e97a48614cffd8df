"""The declared side of a plan, read whole on every pass: as tuples, and parsed only where a row has changed."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple

from django.db.models import Expression, F, Q, TextField
from django.db.models.functions import Cast
from django.utils import timezone

from registry_admin.consul import ServiceSpec, validation
from registry_admin.consul.observe import Observation
from registry_admin.errors import InvalidValueError
from registry_admin.inventory.models import Health, Instance, ObservedInstance, Service
from registry_admin.inventory.selectors.health import output_of
from registry_admin.inventory.selectors.trust import lost_state
from registry_admin.reconcile.plan import Declared

_ASK_BY_ID = 500  # at most so many names in one query


class DeclaredRow(NamedTuple):
    """A declared instance with its service, and then what syncing remembers of it. Lists and pairs are JSON text."""

    consul_id: str
    address: str
    port: int
    weight: int
    extra_tags: str
    extra_meta: str
    enabled: bool
    service_name: str
    service_enabled: bool
    service_tags: str
    service_meta: str
    check_kind: str
    check_path: str
    check_scheme: str
    check_interval: str
    check_timeout: str
    deregister_after: str
    pk: int
    service_pk: int
    claimed: bool
    departed: bool
    released: bool
    applied_digest: str
    evicted_at: datetime | None
    evicted_reason: str
    sync_status: str
    sync_reason: str
    sync_cause: str
    sync_action: str
    differences: str

    @property
    def is_enabled(self) -> bool:
        """Both it and its service."""
        return self.enabled and self.service_enabled

    @property
    def declaration(self) -> tuple[Any, ...]:
        """What its spec is made of."""
        return self[:_DECLARATION]

    def spec(self) -> ServiceSpec:
        """What should be registered; raises InvalidValueError, TypeError or ValueError for what nobody validated."""
        service = Service(
            name=self.service_name,
            tags=json.loads(self.service_tags),
            meta=json.loads(self.service_meta),
            check_kind=self.check_kind,
            check_path=self.check_path,
            check_scheme=self.check_scheme,
            check_interval=self.check_interval,
            check_timeout=self.check_timeout,
            deregister_after=self.deregister_after,
        )
        instance = Instance(
            service=service,
            address=self.address,
            port=self.port,
            consul_id=validation.service_id(self.consul_id),
            weight=self.weight,
            extra_tags=json.loads(self.extra_tags),
            extra_meta=json.loads(self.extra_meta),
        )
        return instance.spec()


_DECLARATION = DeclaredRow._fields.index("pk")
_AS_TEXT = ("extra_tags", "extra_meta", "service_tags", "service_meta", "differences")
_OF_SERVICE = DeclaredRow._fields[DeclaredRow._fields.index("check_kind") : _DECLARATION]


def _column(name: str) -> Expression | F:
    where = f"service__{name}" if name in _OF_SERVICE else name.replace("service_", "service__", 1)
    return Cast(where, TextField()) if name in _AS_TEXT else F(where)


_COLUMNS = [_column(name) for name in DeclaredRow._fields]


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The declared side of a plan, by instance ID.

    `broken`: what can't be what it says, and why. `taken_out`: what Consul itself has taken out as dead since the last
    look, and why. `released`: what is on its way out of the inventory, and must stay in Consul.
    """

    rows: Mapping[str, DeclaredRow]
    declared: tuple[Declared, ...]
    broken: Mapping[str, str]
    taken_out: Mapping[str, str] = field(default_factory=dict)
    released: frozenset[str] = frozenset()

    @cached_property
    def specs(self) -> dict[str, ServiceSpec]:
        """Of what isn't broken."""
        return {one.spec.id: one.spec for one in self.declared}

    def comparable(self, observation: Observation) -> Observation:
        """Without what is neither put in nor, being declared, taken out: the broken and the released."""
        left_out = self.broken.keys() | self.released
        if not left_out:
            return observation
        return replace(
            observation,
            here={key: one for key, one in observation.here.items() if key not in left_out},
            elsewhere=tuple(one for one in observation.elsewhere if one.id not in left_out),
        )


class _Parsed(NamedTuple):
    """What became of a row when it was last read: the same row gives the same objects again."""

    declaration: tuple[Any, ...]
    memory: tuple[Any, ...]
    spec: ServiceSpec | str  # or why there is none
    declared: Declared | None


_parsed: dict[str, _Parsed] = {}  # replaced as a whole, so that threads need no lock


def read_inventory(
    observation: Observation, *, revive: Collection[str] = (), answering: Collection[str] = ()
) -> Inventory:
    """All declared instances, each with what the mirror remembers of it. One query, and up to four where some are gone.

    An instance that registered itself and isn't in Consul any more has left by itself; for the services named in
    `revive` that is overlooked, and that they were evicted. `answering`: evicted instances that a probe has just found
    to answer.
    """
    global _parsed  # noqa: PLW0603
    found = Instance.objects.order_by().values_list(*_COLUMNS)
    rows = {row.consul_id: row for row in map(DeclaredRow._make, found)}
    present = observation.here.keys() | {instance.id for instance in observation.elsewhere}
    gone = rows.keys() - present
    left, taken_out = _what_became_of(gone, rows, observation) if gone else (frozenset[str](), {})
    parsed, declared, broken = {}, [], {}
    for key, row in rows.items():
        is_away = key in gone and row.service_name not in revive
        evicted = (row.evicted_reason or taken_out.get(key, "")) if is_away else ""
        departed = is_away and not evicted and (row.departed or key in left)
        parsed[key] = entry = _parse(
            row, _parsed.get(key), departed=departed, evicted=evicted, answers=bool(evicted) and key in answering
        )
        if entry.declared is None:
            broken[key] = str(entry.spec)
        elif not row.released:
            declared.append(entry.declared)
    _parsed = parsed
    return Inventory(
        rows=rows,
        declared=tuple(declared),
        broken=broken,
        taken_out=taken_out,
        released=frozenset(key for key, row in rows.items() if row.released),
    )


def _parse(row: DeclaredRow, last: _Parsed | None, *, departed: bool, evicted: str, answers: bool) -> _Parsed:
    declaration, memory = row.declaration, (row.claimed, departed, row.applied_digest, evicted, answers)
    if last is not None and last.declaration == declaration:
        if last.memory == memory:
            return last
        spec = last.spec
    else:
        try:
            spec = row.spec()
        except (InvalidValueError, TypeError, ValueError) as error:
            spec = str(error)
    if isinstance(spec, str):
        return _Parsed(declaration, memory, spec, None)
    declared = Declared(
        spec=spec,
        enabled=row.is_enabled,
        claimed=row.claimed,
        departed=departed,
        applied=row.applied_digest,
        evicted=evicted,
        answers=answers,
    )
    return _Parsed(declaration, memory, spec, declared)


def _what_became_of(
    gone: Collection[str], rows: Mapping[str, DeclaredRow], observation: Observation
) -> tuple[frozenset[str], dict[str, str]]:
    """Of declared instances that aren't in Consul any more: those that left by themselves, and those that Consul itself
    has taken out, because they have been critical for longer than they may."""
    dead = Q(node=observation.node, health=Health.CRITICAL)
    mirrored = ObservedInstance.objects.filter(dead | Q(registered_itself=True)).order_by()
    if len(gone) <= _ASK_BY_ID:
        mirrored = mirrored.filter(consul_id__in=gone)
    now = timezone.now()
    left, taken_out = set(), {}
    for key, node, itself, health, since, checks in mirrored.values_list(
        "consul_id", "node", "registered_itself", "health", "health_since", "checks"
    ):
        if itself:
            left.add(key)
        row = rows.get(key) if key in gone else None
        if row and (node, health) == (observation.node, Health.CRITICAL) and _may_be_taken_out(row, now - since):
            taken_out[key] = f"Consul took it out, critical since {since:%Y-%m-%d %H:%M:%S} UTC: {output_of(checks)}"[
                :500
            ]
    if taken_out and lost_state(observation):
        taken_out = {}
    return frozenset(left), taken_out


def _may_be_taken_out(row: DeclaredRow, critical_for: timedelta) -> bool:
    if not (row.is_enabled and row.claimed and row.deregister_after) or row.evicted_at or row.departed:
        return False
    return critical_for.total_seconds() >= validation.seconds(row.deregister_after)
