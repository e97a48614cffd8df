"""Rows of a small invented inventory with a history, for screenshots."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.utils import timezone
from simple_history.utils import bulk_create_with_history

from registry_admin.callgraph.models import CallCount
from registry_admin.inventory.actor import acting_as
from registry_admin.inventory.models import (
    ConsulContact,
    HealthTransition,
    Instance,
    Lease,
    ObservedInstance,
    Service,
    SyncRun,
)

NODE, OWNER = "node-1", "registry-admin"
# Name, owner, description, tags, number of instances, first port.
SERVICES = [
    ("backend-api", "team-core", "Takes and publishes documents", ["api", "v2"], 4, 8000),
    ("research-api", "team-research", "Enriches what was published", ["api"], 3, 8100),
    ("search-index", "team-research", "Full-text search", ["internal"], 3, 8200),
    ("billing", "team-money", "Invoices", ["api", "pci"], 2, 8300),
    ("mailer", "team-core", "Sends mail", ["worker"], 2, 8400),
    ("thumbnailer", "team-core", "Makes small pictures", ["worker"], 6, 8500),
    ("session-cache", "team-core", "Redis for sessions", ["tcp"], 1, 6379),
]
# Caller, called, calls in an hour, failures among them.
CALLS = [
    ("gateway", "backend-api", 18_400, 12),
    ("backend-api", "research-api", 9_100, 4),
    ("backend-api", "mailer", 640, 0),
    ("research-api", "search-index", 7_300, 310),
    ("gateway", "billing", 420, 0),
    ("billing", "mailer", 75, 0),
    ("backend-api", "thumbnailer", 2_200, 1),
]


def fill() -> None:
    """Creates the rows; of the instances one is critical, one missing, one in maintenance and one unmanaged."""
    now = timezone.now()
    with acting_as("ada", "admin"):
        _declare()
    rows = {row.consul_id: row for row in Instance.objects.select_related("service")}
    for row in rows.values():
        _observe(row)
    _observe_unmanaged()
    _add_faults()
    for caller, called, calls, failures in CALLS:
        for ago in range(12):
            CallCount.objects.create(
                at=now - timedelta(minutes=5 * ago + now.minute % 5, seconds=now.second, microseconds=now.microsecond),
                caller=caller, called=called, calls=calls // 12, failures=failures // 12, milliseconds=calls * 1.7,
                slowest_ms=38 + len(called) * 11,
            )  # fmt: skip
    long_ago = now - timedelta(days=2)
    ConsulContact.objects.create(
        pk=1, reachable=True, since=long_ago, seen_at=now + timedelta(hours=1), node=NODE, revision=1
    )
    Lease.objects.create(
        pk=1, holder="registry-watcher-1", since=now - timedelta(hours=31), expires_at=now + timedelta(hours=1),
        next_pass_at=now + timedelta(minutes=3),
    )  # fmt: skip


def _declare() -> None:
    services = [
        Service(
            name=name, owner=owner, description=about, tags=tags, check_kind="tcp" if "tcp" in tags else "http",
            sync_status="synced", health="passing",
        )
        for name, owner, about, tags, _, _ in SERVICES
    ]  # fmt: skip
    bulk_create_with_history(services, Service)
    instances = [
        Instance(
            service=service, address=f"10.20.0.{11 + number}", port=port, weight=1, claimed_node=NODE,
            sync_status="synced", consul_id=f"{service.name}-{number + 1}",
        )
        for service, (*_, count, port) in zip(services, SERVICES, strict=True)
        for number in range(count)
    ]  # fmt: skip
    bulk_create_with_history(instances, Instance)


def _observe(row: Instance) -> None:
    now = timezone.now()
    place = f"{row.address}:{row.port}"
    output = (
        f"TCP connect {place}: Success"
        if row.service.check_kind == "tcp"
        else f"HTTP GET http://{place}/health: 200 OK"
    )
    check = {
        "id": f"service:{row.consul_id}",
        "name": f"{row.service.name} check",
        "status": "passing",
        "output": output,
    }
    ObservedInstance.objects.create(
        node=NODE, consul_id=row.consul_id, service_name=row.service.name, address=row.address, port=row.port,
        tags=row.service.tags, owner=OWNER, owned=True, sync_status="synced", health="passing", checks=[check],
        health_since=now - timedelta(hours=29), first_seen=now - timedelta(days=9),
    )  # fmt: skip


def _observe_unmanaged() -> None:
    now = timezone.now()
    ObservedInstance.objects.create(
        node=NODE, consul_id="legacy-reports", service_name="legacy-reports", address="10.20.0.90", port=9090,
        sync_status="unmanaged", health="passing", health_since=now - timedelta(days=4),
        first_seen=now - timedelta(days=4),
    )  # fmt: skip


def _add_faults() -> None:
    now = timezone.now()
    refused = "Get http://10.20.0.12:8200/health: dial tcp 10.20.0.12:8200: connect: connection refused"
    _set_health("search-index-2", "critical", refused, now - timedelta(minutes=12))
    Service.objects.filter(name="search-index").update(health="critical")
    _set_health("mailer-1", "maintenance", "New disks (ada)", now - timedelta(minutes=50))
    Service.objects.filter(name="mailer").update(health="maintenance")
    ObservedInstance.objects.filter(consul_id="billing-2").delete()
    Instance.objects.filter(consul_id="billing-2").update(
        sync_status="missing",
        sync_reason="not in Consul any more",
        sync_cause="removed",
        sync_action="register",
    )
    Service.objects.filter(name="billing").update(sync_status="missing")
    for hours, minutes, consul_id in ((20, 9, "backend-api-3"), (7, 30, "research-api-1"), (15, 4, "thumbnailer-2")):
        service = consul_id.rpartition("-")[0]
        failed_at = now - timedelta(hours=hours)
        HealthTransition.objects.create(
            at=failed_at, node=NODE, service_name=service, consul_id=consul_id, before="passing", after="critical",
            output="no answer within 5s",
        )  # fmt: skip
        HealthTransition.objects.create(
            at=failed_at + timedelta(minutes=minutes), node=NODE, service_name=service, consul_id=consul_id,
            before="critical", after="passing",
        )  # fmt: skip
    item = {
        "action": "update", "service": "backend-api", "id": "backend-api-2", "reason": "differs from its declaration",
        "cause": "edited by hand", "ok": True, "error": "",
        "changes": [{"field": "tags", "before": ["v1"], "after": ["api", "v2"]}],
    }  # fmt: skip
    SyncRun.objects.create(
        trigger="watch", holder="registry-watcher-1", outcome="done", planned=1, updated=1, items=[item], seconds=0.02,
        started_at=now - timedelta(hours=3),
    )  # fmt: skip


def _set_health(consul_id: str, health: str, output: str, at: datetime) -> None:
    row = ObservedInstance.objects.get(consul_id=consul_id)
    check = row.checks[0] | {"status": "critical", "output": output}
    ObservedInstance.objects.filter(pk=row.pk).update(health=health, health_since=at, checks=[check])
    HealthTransition.objects.create(
        at=at,
        node=NODE,
        service_name=row.service_name,
        consul_id=consul_id,
        before="passing",
        after=health,
        output=output,
    )
