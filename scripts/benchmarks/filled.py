"""Rows of a large inventory with a history, for measuring pages without registering anything in Consul."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta

from django.utils import timezone
from simple_history.utils import bulk_create_with_history

from registry_admin.callgraph.models import CallCount
from registry_admin.consul.marks import META_OWNER
from registry_admin.inventory.models import (
    ConsulContact,
    Health,
    HealthTransition,
    Instance,
    Lease,
    ObservationGap,
    ObservedInstance,
    Service,
    SyncRun,
    SyncStatus,
)

NODE = "node-1"
OWNER = "registry-admin"
ODD = 37  # every 37th instance has a fault
TRANSITIONS = 5000
RUNS = 500
BATCH = 1000


def fill(count: int, *, per_service: int = 10, seed: int = 1) -> None:
    """Replaces all rows by `count` declared instances with a history, and a tenth as many unmanaged ones."""
    chance, now = random.Random(seed), timezone.now()  # noqa: S311 - the same rows each time
    for model in (
        CallCount,
        HealthTransition,
        SyncRun,
        ObservationGap,
        ObservedInstance,
        Service,
        Lease,
        ConsulContact,
    ):
        model.objects.all().delete()
    ConsulContact.objects.all().delete()
    services = [
        Service(
            name=f"service-{number:04}",
            description=f"Description of service {number}",
            owner=f"team-{number % 12}",
            tags=["api", f"v{number % 3}"],
            sync_status=SyncStatus.SYNCED,
            health=Health.PASSING,
        )
        for number in range(-(-count // per_service))
    ]
    bulk_create_with_history(services, Service, batch_size=BATCH)
    instances = [_instance(number, services[number // per_service]) for number in range(count)]
    for instance in instances:
        service = instance.service
        if instance.sync_status != SyncStatus.SYNCED:
            service.sync_status = instance.sync_status
        if _health(instance) != Health.PASSING:
            service.health = _health(instance)
    Service.objects.bulk_update(services, ["sync_status", "health"], batch_size=BATCH)
    bulk_create_with_history(instances, Instance, batch_size=BATCH)
    observed = [_observed(instance, now) for instance in instances if instance.sync_status != SyncStatus.MISSING]
    observed += _foreign(count // 10, now)
    ObservedInstance.objects.bulk_create(observed, batch_size=BATCH)
    transitions = sorted(_transitions(instances, now, chance), key=lambda transition: transition.at)
    HealthTransition.objects.bulk_create(transitions, batch_size=BATCH)
    SyncRun.objects.bulk_create(_runs(instances, now, chance), batch_size=BATCH)
    CallCount.objects.bulk_create(_calls(services[:40], now, chance), batch_size=BATCH)
    ObservationGap.objects.create(
        began_at=now - timedelta(hours=9), ended_at=now - timedelta(hours=8), reason="Consul at 127.0.0.1:8500 was away"
    )
    ConsulContact.objects.create(
        pk=1, reachable=True, since=now - timedelta(hours=8), seen_at=now, looked_at=now, node=NODE, revision=1
    )
    Lease.objects.create(
        pk=1, holder="watcher-1", since=now - timedelta(hours=5), expires_at=now + timedelta(hours=1),
        next_pass_at=now + timedelta(minutes=4),
    )  # fmt: skip


def _instance(number: int, service: Service) -> Instance:
    address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    instance = Instance(
        service=service,
        address=address,
        port=8000,
        consul_id=f"{service.name}-{address}-8000",
        claimed_node=NODE,
        sync_status=SyncStatus.SYNCED,
    )
    if number % ODD == 1:
        instance.sync_status, instance.sync_cause, instance.sync_action = (
            SyncStatus.MISSING,
            "removed",
            "register",
        )
        instance.sync_reason = "not in Consul any more"
    elif number % ODD == 2:
        instance.sync_status, instance.sync_cause, instance.sync_action = (
            SyncStatus.OUT_OF_SYNC,
            "edited",
            "update",
        )
        instance.sync_reason = "differs from its declaration"
        instance.differences = [{"field": "port", "before": 81, "after": 8000}]
    return instance


def _health(instance: Instance) -> Health:
    return Health.CRITICAL if instance.sync_status == SyncStatus.OUT_OF_SYNC else Health.PASSING


def _observed(instance: Instance, now: datetime) -> ObservedInstance:
    health = _health(instance)
    place = f"{instance.address}:{instance.port}"
    output = f"HTTP GET http://{place}/health: 200 OK Output: " + '{"status": "ok", "checked": ["database", "cache"]}'
    return ObservedInstance(
        node=NODE,
        consul_id=instance.consul_id,
        service_name=instance.service.name,
        address=instance.address,
        port=instance.port,
        tags=instance.service.tags,
        meta={META_OWNER: OWNER},
        owner=OWNER,
        owned=True,
        sync_status=instance.sync_status,
        sync_reason=instance.sync_reason,
        health=health,
        health_since=now - timedelta(hours=3),
        checks=[{
            "id": f"service:{instance.consul_id}",
            "name": f"{instance.service.name} check",
            "status": str(health),
            "output": output if health == Health.PASSING else f"Get http://{place}/health: connection refused",
        }],
        first_seen=now - timedelta(days=3),
    )  # fmt: skip


def _foreign(count: int, now: datetime) -> Iterator[ObservedInstance]:
    for number in range(count):
        yield ObservedInstance(
            node=NODE,
            consul_id=f"legacy-{number}",
            service_name=f"legacy-{number // 10:03}",
            address="10.99.0.1",
            port=10_000 + number,
            sync_status=SyncStatus.UNMANAGED,
            sync_reason="registered by someone else and not declared",
            sync_cause="foreign",
            health=Health.PASSING,
            health_since=now - timedelta(days=2),
            first_seen=now - timedelta(days=2),
        )


def _transitions(instances: list[Instance], now: datetime, chance: random.Random) -> Iterator[HealthTransition]:
    for _ in range(TRANSITIONS // 2):
        instance = chance.choice(instances)
        failed_at = now - timedelta(seconds=chance.uniform(600, 7 * 86_400))
        for at, before, after in (
            (failed_at, Health.PASSING, Health.CRITICAL),
            (failed_at + timedelta(seconds=chance.uniform(5, 500)), Health.CRITICAL, Health.PASSING),
        ):
            yield HealthTransition(
                at=at,
                node=NODE,
                service_name=instance.service.name,
                consul_id=instance.consul_id,
                before=before,
                after=after,
                output="connection refused" if after == Health.CRITICAL else "",
            )


def _runs(instances: list[Instance], now: datetime, chance: random.Random) -> Iterator[SyncRun]:
    for number in range(RUNS):
        instance = chance.choice(instances)
        item = {
            "action": "update", "service": instance.service.name, "id": instance.consul_id, "ok": True, "error": "",
            "reason": "differs from its declaration", "cause": "edited by hand", "seconds": 0.004,
            "changes": [{"field": "tags", "before": ["edited"], "after": ["api"]}],
        }  # fmt: skip
        yield SyncRun(
            trigger=SyncRun.Trigger.WATCH,
            holder="watcher-1",
            started_at=now - timedelta(minutes=15 * (RUNS - number)),
            seconds=0.02,
            outcome=SyncRun.Outcome.DONE,
            planned=1,
            updated=1,
            items=[item],
        )


def _calls(services: list[Service], now: datetime, chance: random.Random) -> Iterator[CallCount]:
    start = now.replace(minute=now.minute // 5 * 5, second=0, microsecond=0)
    pairs = [(caller, chance.choice(services)) for caller in services for _ in range(2)]
    for caller, called in {(caller.name, called.name) for caller, called in pairs if caller is not called}:
        for ago in range(12):
            calls = chance.randrange(10, 5000)
            yield CallCount(
                at=start - timedelta(minutes=5 * ago),
                caller=caller,
                called=called,
                calls=calls,
                failures=calls // 200 if chance.random() < 0.1 else 0,
                milliseconds=calls * chance.uniform(1, 40),
                slowest_ms=chance.uniform(40, 900),
            )
