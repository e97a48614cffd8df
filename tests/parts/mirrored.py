"""Mirror rows as a sync leaves them, for tests of pages."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils import timezone

from registry_admin.inventory.models import ConsulContact, Instance, ObservedInstance, Service

NODE = "node-1"
HOSTILE = "</textarea><script>alert(1)</script>\x1b[31m\u202e"


def look() -> ConsulContact:
    """Records a successful contact with Consul at this moment."""
    contact, _ = ConsulContact.objects.update_or_create(
        pk=1, defaults={"reachable": True, "problem": "", "seen_at": timezone.now(), "node": NODE}
    )
    return contact


def declare(name: str = "api", instances: int = 1, *, first_port: int = 8000, **fields: Any) -> Service:
    """Creates a service whose instances are synced and passing."""
    service = Service.objects.create(
        **{"name": name, "check_kind": "tcp", "sync_status": "synced", "health": "passing"} | fields
    )
    for number in range(instances):
        row = Instance.objects.create(service=service, address="127.0.0.1", port=first_port + number)
        Instance.objects.filter(pk=row.pk).update(claimed_node=NODE, sync_status="synced")
        marks = {"owner": "registry-admin", "owned": True, "declared": True}
        observe(row.consul_id, name, port=row.port, sync_status="synced", **marks)
    return service


def observe(consul_id: str, service: str = "api", **fields: Any) -> ObservedInstance:
    """Creates the mirror row of an instance, unmanaged unless `fields` differ."""
    hour_ago = timezone.now() - timedelta(hours=1)
    columns = {
        "node": NODE, "address": "127.0.0.1", "port": 9000, "sync_status": "unmanaged", "health": "passing",
        "first_seen": hour_ago, "health_since": hour_ago,
    }  # fmt: skip
    return ObservedInstance.objects.create(consul_id=consul_id, service_name=service, **columns | fields)


def fail(consul_id: str, output: str = "connection refused") -> None:
    """Makes the check of an instance fail and its service critical."""
    rows = ObservedInstance.objects.filter(consul_id=consul_id)
    check = {"id": f"service:{consul_id}", "name": "check", "status": "critical", "output": output}
    rows.update(health="critical", checks=[check])
    Service.objects.filter(name=rows.get().service_name).update(health="critical")


def lose(consul_id: str, status: str = "missing", reason: str = "not in Consul any more") -> None:
    """Removes an instance from the mirror and gives its declaration `status` and `reason`."""
    ObservedInstance.objects.filter(consul_id=consul_id).delete()
    rows = Instance.objects.filter(consul_id=consul_id)
    rows.update(sync_status=status, sync_reason=reason, sync_cause="removed", sync_action="register")
    Service.objects.filter(pk=rows.get().service_id).update(sync_status=status)
