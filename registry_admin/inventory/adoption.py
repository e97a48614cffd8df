"""Taking over what someone else registered (adopt), and letting go of what is ours without touching it (release)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import transaction
from django.db.models import QuerySet

from registry_admin.consul import ServiceInstance, ServiceSpec
from registry_admin.consul.types import RESERVED_META
from registry_admin.errors import ConsulUnavailableError, RegistryError
from registry_admin.inventory.conf import conf, consul_api
from registry_admin.inventory.models import ConsulContact, Instance, ObservedInstance, Service

# Consul never shows a check's definition, but its output begins with what was asked.
_HTTP_OUTPUT = re.compile(r"HTTP GET (https?://\S+): ")
_TCP_OUTPUT = re.compile(r"TCP connect (\S+): ")


@dataclass(frozen=True, kw_only=True)
class Handover:
    """What became of an adoption or a release: the service IDs that changed hands, and why others did not."""

    done: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


@transaction.atomic
def adopt(rows: Iterable[ObservedInstance]) -> Handover:
    """Declares what is in Consul as it is there; a single pass, on commit, puts our mark on all of it.

    The check is told from its last output where that is possible; else none is declared, and the one that is there
    stays as it is. A declared service of that name gets the instance, with the service's check.
    """
    contact = ConsulContact.objects.filter(pk=1).first()
    done: list[str] = []
    refused: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: (row.service_name, row.consul_id)):
        reason = _why_not(row, node=contact.node if contact else "")
        if not reason:
            try:
                with transaction.atomic():
                    _declare(row)
            except ValidationError as error:
                reason = _told(error)
        if reason:
            refused[row.consul_id] = reason
        else:
            done.append(row.consul_id)
    return Handover(done=tuple(done), refused=refused)


def _why_not(row: ObservedInstance, *, node: str) -> str:
    if row.owner not in ("", conf.owner):
        return f"another inventory owns it: {row.owner}"
    if row.node != node:
        return f"it is on node {row.node}, and can only be changed through that node's own agent"
    if Instance.objects.filter(consul_id__iexact=row.consul_id).exists():
        return "it is declared already"
    return ""


def _told(error: ValidationError) -> str:
    """With each field's name, as no form stands beside it."""
    if not hasattr(error, "error_dict"):
        return "; ".join(error.messages)
    return "; ".join(
        text if name == NON_FIELD_ERRORS else f"{name}: {text}"
        for name, texts in error.message_dict.items()
        for text in texts
    )


def _declare(row: ObservedInstance) -> None:
    own_meta = {key: value for key, value in row.meta.items() if key not in RESERVED_META}
    service = Service.objects.filter(name__iexact=row.service_name).first()
    if service is None:
        service = Service(name=row.service_name, **_check_of(row))
        service.full_clean()
        service.save()
    instance = Instance(
        service=service,
        address=row.address,
        port=row.port,
        consul_id=row.consul_id,
        weight=row.weight,
        extra_tags=[tag for tag in row.tags if tag not in service.tags],
        extra_meta={key: value for key, value in own_meta.items() if service.meta.get(key) != value},
    )
    instance.full_clean()
    instance.save()
    # Not a field of the form, and validation clears it for an ID that is new to the row.
    Instance.objects.filter(pk=instance.pk).update(claimed=not row.registered_itself)


def _check_of(row: ObservedInstance) -> dict[str, Any]:
    """Only where ours would ask just what its only check asks: else it would lose a check, or get one that fails."""
    own = [check for check in row.checks if str(check.get("id", "")).startswith("service:")]
    output = str(own[0].get("output", "")) if len(own) == 1 else ""
    place = f"{f'[{row.address}]' if ':' in row.address else row.address}:{row.port}"
    if found := _HTTP_OUTPUT.match(output):
        url = urlsplit(found[1])
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        if url.netloc == place:
            return {"check_kind": Service.Check.HTTP, "check_scheme": url.scheme, "check_path": path}
    if (found := _TCP_OUTPUT.match(output)) and found[1] == place:
        return {"check_kind": Service.Check.TCP}
    return {"check_kind": Service.Check.NONE}


def release(services: QuerySet[Service]) -> Handover:
    """Takes our mark off in Consul, where the instances stay as they are, and then forgets the declarations.

    An instance that Consul doesn't take stays declared, and its service with it. Raises ConsulUnavailableError or
    ConsulRefusedError where Consul can't even be looked at.
    """
    api = consul_api()
    here = api.agent_instances()
    rows = list(Instance.objects.filter(service__in=services).select_related("service").order_by("consul_id"))
    Instance.objects.filter(pk__in=[row.pk for row in rows]).update(released=True)  # from here on no pass touches them
    refused: dict[str, str] = {}
    away = ""
    for row in rows:
        have = here.get(row.consul_id)
        try:
            if away:
                refused[row.consul_id] = away
            elif have is not None and have.owner == conf.owner and not have.registered_itself:
                api.register(_as_it_is(row.spec(), have), marks=None)
        except RegistryError as error:
            refused[row.consul_id] = str(error)
            if isinstance(error, ConsulUnavailableError) and error.status is None:
                away = "not tried, because Consul is away"  # each would wait for it, and somebody waits for all
    kept = [row.pk for row in rows if row.consul_id in refused]
    Instance.objects.filter(pk__in=kept).update(released=False)
    with transaction.atomic():
        Instance.objects.filter(pk__in=[row.pk for row in rows if row.consul_id not in refused]).delete()
        Service.objects.filter(pk__in=services.values("pk"), instances=None).delete()
    return Handover(done=tuple(row.consul_id for row in rows if row.consul_id not in refused), refused=refused)


def _as_it_is(spec: ServiceSpec, have: ServiceInstance) -> ServiceSpec:
    """Whatever somebody has edited by hand, it is theirs from now on; of the check only the declaration is known."""
    return replace(
        spec,
        name=have.service,
        address=have.address,
        port=have.port,
        tags=have.tags,
        meta=have.own_meta,
        weight=have.weight,
    )
