"""Maintenance: an instance that is to get no calls for a while, and why. It is Consul's own state, no declaration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from registry_admin.consul.validation import text
from registry_admin.errors import ConsulUnavailableError, InvalidValueError, RegistryError
from registry_admin.inventory import acting
from registry_admin.inventory.conf import conf, consul_api
from registry_admin.inventory.models import ConsulContact, Instance, ObservedInstance, SyncRun
from registry_admin.inventory.passes import Pass, SyncOutcome
from registry_admin.reconcile.probing import try_check

MAX_REASON = 300
MAX_PROBES = 20


@dataclass(frozen=True, kw_only=True)
class Switched:
    """What became of each instance, and of the look that followed."""

    done: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    outcome: SyncOutcome | None = None


def set_maintenance(service: str, consul_ids: Collection[str], *, enable: bool, reason: str = "") -> Switched:
    """Puts instances of this service into maintenance, or takes them out. Nothing foreign is touched.

    `reason` is what others see in Consul, with the name of who did it. Raises InvalidValueError without one.
    """
    actor = acting.current().name
    if enable:
        reason = f"{text(_required(reason), 'reason', maximum=MAX_REASON)} ({actor or 'unknown'})"
    contact = ConsulContact.objects.filter(pk=1).first()
    rows = {row.consul_id: row for row in ObservedInstance.objects.filter(consul_id__in=consul_ids)}
    ours = set(
        Instance.objects.filter(consul_id__in=consul_ids, service__name__iexact=service).values_list(
            "consul_id", flat=True
        )
    )
    api, done, refused = consul_api(), [], {}
    for consul_id in sorted(consul_ids):
        row = rows.get(consul_id)
        if consul_id not in ours or row is None or (row.owner != conf.owner and not row.registered_itself):
            refused[consul_id] = "it isn't a declared instance that this inventory owns in Consul"
        elif contact is None or row.node != contact.node:
            refused[consul_id] = f"it is on node {row.node}, and can only be changed through that node's own agent"
        else:
            try:
                api.set_maintenance(consul_id, enable=enable, reason=reason if enable else "")
                done.append(consul_id)
            except RegistryError as error:
                refused[consul_id] = str(error)
                if isinstance(error, ConsulUnavailableError):
                    break
    outcome = None
    if done:  # so that pages show it at once
        outcome = Pass(trigger=SyncRun.Trigger.ACTION, actor=actor, only=[service], prune=False).make()
    return Switched(done=tuple(done), refused=refused, outcome=outcome)


def _required(reason: str) -> str:
    if not reason.strip():
        raise InvalidValueError("reason", reason, "say why, for those who see it in Consul")
    return reason.strip()


def try_checks(service: str) -> list[tuple[str, bool, str]]:
    """Tries the check of each declared instance once from here: (service ID, whether it answers, what was seen).

    At most 20 of them, at once, each within its check's own timeout; what can't be registered says why.
    """
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - rarely needed

    rows = Instance.objects.filter(service__name__iexact=service, enabled=True).select_related("service")
    results: list[tuple[str, bool, str]] = []
    specs = []
    for row in rows.order_by("consul_id")[:MAX_PROBES]:
        try:
            specs.append(row.spec())
        except InvalidValueError as error:
            results.append((row.consul_id, False, str(error)))
    with ThreadPoolExecutor(max_workers=MAX_PROBES) as threads:
        tried = threads.map(try_check, specs)
        results += [(spec.id, *one) for spec, one in zip(specs, tried, strict=True)]
    return results
