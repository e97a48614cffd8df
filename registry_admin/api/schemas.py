"""What the API takes and gives."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from ninja import Schema
from pydantic import Field

from registry_admin.consul import Health
from registry_admin.inventory.selectors import Freshness
from registry_admin.reconcile.plan import SyncStatus

MAX_LIMIT = 200


class Kind(StrEnum):
    """Declared services, or those that Consul has and nobody declares."""

    DECLARED = "declared"
    FOREIGN = "foreign"


class ListQuery(Schema):
    """Parameters of every list."""

    limit: int = Field(50, ge=1, le=MAX_LIMIT, description="How many at most.")
    cursor: str = Field("", max_length=4096, description="`next` of the page before.")
    fields: str = Field("", max_length=500, description="Names of the fields to return, parted by commas. Empty: all.")


class ServicesQuery(ListQuery):
    """Filters of services, as on the page. Statuses are compared as last seen."""

    q: str = Field("", max_length=200, description="Part of a name, owner, description, tag, address or service ID.")
    health: Health | None = None
    sync: SyncStatus | None = None
    kind: Kind | None = None
    owner: str = Field("", max_length=200)


class InstancesQuery(ListQuery):
    """Filters of instances. Statuses are compared as last seen."""

    service: str = Field("", max_length=512, description="The name of its service.")
    health: Health | None = None
    sync: SyncStatus | None = None


class Mirror(Schema):
    """Whether Consul has been seen lately. While it hasn't, statuses are `unknown`."""

    current: bool
    problem: str = Field(description="Why it isn't current.")

    @classmethod
    def of(cls, freshness: Freshness) -> Mirror:
        """Returns what a reply says of the mirror; the time of the last look would change each reply's ETag."""
        return cls(current=freshness.is_current, problem=freshness.problem)


class ServiceItem(Schema):
    """A service."""

    name: str
    href: str = Field(description="Where this service is, however its name is spelt.")
    declared: bool
    registers_itself: bool = Field(description="Undeclared, and all of its instances are registered by our module.")
    owner: str
    health: Health = Field(description="The most severe of its instances.")
    sync: SyncStatus
    last_health: Health = Field(description="As last seen.")
    last_sync: SyncStatus = Field(description="As last seen.")
    instances: int
    changed: datetime | None = Field(description="The last change of its declaration or of an instance's health.")


class InstanceItem(Schema):
    """An instance of a service."""

    id: str = Field(description="The service ID.")
    service: str
    datacenter: str
    node: str
    address: str
    port: int
    declared: bool
    owned: bool = Field(description="This inventory may change and remove it.")
    in_consul: bool
    health: Health | None = Field(description="Null where it isn't in Consul.")
    sync: SyncStatus
    last_health: Health | None = Field(description="As last seen.")
    last_sync: SyncStatus = Field(description="As last seen.")
    reason: str = Field(description="Why it has this sync status.")
    health_since: datetime | None


class ServiceList(Schema):
    """A page of services, by name."""

    items: list[ServiceItem]
    next: str | None = Field(description="The cursor of the next page; null after the last one.")
    mirror: Mirror


class InstanceList(Schema):
    """A page of instances, by ID."""

    items: list[InstanceItem]
    next: str | None = Field(description="The cursor of the next page; null after the last one.")
    mirror: Mirror


class ServiceReply(ServiceItem):
    """A service by its name."""

    mirror: Mirror


class Leader(Schema):
    """The watcher that leads, if any."""

    holder: str
    since: datetime | None


class StatusReply(Schema):
    """The state of the registry as a whole."""

    mirror: Mirror
    seen_at: datetime | None = Field(description="When Consul was read last.")
    leader: Leader | None
    evictions_halted: str = Field(description="Why nothing is evicted now; empty while instances are.")
    removals_halted: str = Field(description="Why nothing is removed now; empty while instances are.")
    services: int
    needing_attention: int
    by_last_health: dict[str, int] = Field(description="Numbers of services, as last seen.")
    by_last_sync: dict[str, int] = Field(description="Numbers of services, as last seen.")
