"""Maintenance mode of instances (no calls for a while, with a reason): a state of Consul, not a declaration."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from registry_admin.consul import ServiceSpec
from registry_admin.consul.check_probe import probe_instance
from registry_admin.consul.one_agent import on_one_agent
from registry_admin.consul.validation import text
from registry_admin.errors import ConsulRefusedError, InvalidValueError, RegistryError, StalePlanError
from registry_admin.inventory.actor import current_actor
from registry_admin.inventory.audit_trail import record_act
from registry_admin.inventory.conf import conf, consul_api
from registry_admin.inventory.models import AuditEvent, ConsulContact, Instance, ObservedInstance, SyncRun
from registry_admin.inventory.sync.reconciler import Reconciler
from registry_admin.inventory.sync.result import SyncResult
from registry_admin.reconcile.plan import Cause

MAX_REASON = 300
MAX_PROBES = 20
PROBE_THREADS = 8
TRY_S = 6.0  # a probe takes 5 s at most
_tries = threading.BoundedSemaphore(2)  # in each process: the site has few threads


@dataclass(frozen=True, kw_only=True)
class MaintenanceResult:
    """Outcome for each instance, and of the run that followed."""

    done: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    outcome: SyncResult | None = None


def set_maintenance(service: str, consul_ids: Collection[str], *, enable: bool, reason: str = "") -> MaintenanceResult:
    """Puts instances of this service into maintenance, or takes them out. Nothing foreign is touched.

    One that isn't registered now will be in maintenance when it is. Former IDs of an instance go with it.
    `reason` is what others see in Consul, with the name of who did it. Raises InvalidValueError without one.
    """
    actor = current_actor().name
    if enable:
        reason = f"{text(_required(reason), 'reason', maximum=MAX_REASON)} ({actor or 'unknown'})"
    contact = ConsulContact.objects.filter(pk=1).first()
    node = contact.node if contact else ""
    declared = {
        row.consul_id: row for row in Instance.objects.filter(consul_id__in=consul_ids, service__name__iexact=service)
    }
    observed = _observed({*declared, *(former_id for row in declared.values() for former_id in row.replaces)})
    registered: dict[str, list[str]] = {}  # what is to be changed in Consul, by the ID of the declaration
    done, refused = [], dict[str, str]()
    for consul_id in sorted(consul_ids):
        refusal = _refusal_reason(observed.get(consul_id, []), node=node) if consul_id in declared else _NOT_OURS
        if refusal:
            refused[consul_id] = refusal
        else:
            ids = (*declared[consul_id].replaces, consul_id)
            registered[consul_id] = [key for key in ids if _is_changeable(observed.get(key, []), node=node)]
            _remember(declared[consul_id], reason if enable else "")
    try:
        with on_one_agent(consul_api()) as api:
            _check_node(api.identity.name, node)
            for consul_id, keys in registered.items():
                try:
                    for key in keys:
                        api.set_maintenance(key, enable=enable, reason=reason if enable else "")
                    done.append(consul_id)
                except ConsulRefusedError as error:
                    refused[consul_id] = str(error)
    except RegistryError as error:
        refused |= {consul_id: str(error) for consul_id in registered if consul_id not in (*done, *refused)}
    for consul_id in refused.keys() & registered.keys():
        _remember(declared[consul_id], declared[consul_id].maintenance, declared[consul_id].maintenance_index)
    _record_maintenance(service, done, refused, reason=reason, enable=enable)
    outcome = None
    if done:  # so that pages show it at once
        outcome = Reconciler(trigger=SyncRun.Trigger.ACTION, actor=actor, only=[service], prune=False).run()
    return MaintenanceResult(done=tuple(done), refused=refused, outcome=outcome)


def _record_maintenance(
    service: str, done: Collection[str], refused: Mapping[str, str], *, reason: str, enable: bool
) -> None:
    action = AuditEvent.Action.MAINTENANCE_ON if enable else AuditEvent.Action.MAINTENANCE_OFF
    failures = "".join(f"; not {consul_id}: {error}" for consul_id, error in refused.items())
    record_act(
        action, target=service, detail=f"{', '.join(done) or 'nothing'}{f': {reason}' if enable else ''}{failures}"
    )


def _check_node(node: str, mirrored: str) -> None:
    if mirrored and node.lower() != mirrored.lower():
        raise StalePlanError(f"Consul's address leads to node {node} now, not to {mirrored}: look again first.")


_NOT_OURS = "it isn't a declared instance that this inventory owns in Consul"


def _observed(consul_ids: Collection[str]) -> dict[str, list[ObservedInstance]]:
    """Returns the instances with these IDs on all nodes, by ID."""
    observed: dict[str, list[ObservedInstance]] = {}
    for row in ObservedInstance.objects.filter(consul_id__in=consul_ids):
        observed.setdefault(row.consul_id, []).append(row)
    return observed


def _refusal_reason(rows: Collection[ObservedInstance], *, node: str) -> str:
    """Returns why a declared instance can't be changed; an instance that isn't registered anywhere can."""
    if not rows or _is_changeable(rows, node=node):
        return ""
    elsewhere = [row.node for row in rows if row.node != node and _is_ours(row)]
    if not elsewhere:
        return _NOT_OURS
    return f"it is on node {elsewhere[0]}, and can only be changed through that node's own agent"


def _is_changeable(rows: Collection[ObservedInstance], *, node: str) -> bool:
    return any(row.node == node and _is_ours(row) for row in rows)


def _is_ours(row: ObservedInstance) -> bool:
    """Returns whether it is the declared instance, and not one that only has its ID."""
    return (row.owned or row.registered_itself) and row.sync_cause not in (Cause.FOREIGN, Cause.DOUBT)


def _remember(row: Instance, reason: str, created_index: int = 0) -> None:
    """Keeps this as the instance's maintenance mode, before Consul is told: a run may be on its way."""
    Instance.objects.filter(pk=row.pk).update(maintenance=reason, maintenance_index=created_index)


def _required(reason: str) -> str:
    if not reason.strip():
        raise InvalidValueError("reason", reason, "say why, for those who see it in Consul")
    return reason.strip()


def probe_checks(service: str) -> list[tuple[str, bool, str]]:
    """Tries the check of each declared instance once from here: (service ID, whether it answers, what was seen).

    At most 20 of them, within TRY_S seconds in all, so that hanging instances don't hold up the site; and for two
    requests at once. What can't be registered, or wasn't tried in time, says why.
    """
    rows = Instance.objects.filter(service__name__iexact=service, enabled=True).select_related("service")
    record_act(AuditEvent.Action.CHECK_TRIED, target=service)
    results: list[tuple[str, bool, str]] = []
    specs = []
    for row in rows.order_by("consul_id")[:MAX_PROBES]:
        try:
            specs.append(row.spec())
        except InvalidValueError as error:
            results.append((row.consul_id, False, str(error)))
    if not _tries.acquire(blocking=False):
        busy = "not tried, because checks are being tried for others: try again in some seconds"
        return results + [(spec.id, False, busy) for spec in specs]
    try:
        return results + _probe_all(specs)
    finally:
        _tries.release()


def _probe_all(specs: Sequence[ServiceSpec]) -> list[tuple[str, bool, str]]:
    threads = ThreadPoolExecutor(max_workers=PROBE_THREADS, thread_name_prefix="try-check")
    try:
        futures = [threads.submit(probe_instance, spec, rules=conf.target_rules) for spec in specs]
        wait(futures, timeout=TRY_S)
        results = [
            (spec, future.result() if future.done() else None) for spec, future in zip(specs, futures, strict=True)
        ]
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
    late = "no answer in time: too many instances took too long"
    return [(spec.id, result.is_alive, result.text) if result else (spec.id, False, late) for spec, result in results]
