"""Lint of declarations: warnings about valid ones that probably don't work as intended."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from registry_admin.consul import CheckSpec, ConsulConfig
from registry_admin.consul.addresses import is_loopback
from registry_admin.errors import InvalidValueError, RegistryError
from registry_admin.inventory.models import Instance, Service

_DNS_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")


class LintWarning(NamedTuple):
    """A warning about a field, with the remedy."""

    field: str
    text: str

    def __str__(self) -> str:
        return f"{self.field}: {self.text}"


def lint_declaration(
    service: Service, instances: Sequence[Instance], *, consul_host: str | None = None
) -> list[LintWarning]:
    """Returns warnings about a service and its instances. One query, where there are instances.

    `consul_host`: where Consul is, whose checks must reach the instances; the environment's unless given.
    """
    if consul_host is None:
        try:
            consul_host = ConsulConfig.from_env().host
        except RegistryError:
            consul_host = ""
    warnings = [*_lint_service(service)]
    for instance in instances:
        warnings += _lint_instance(service, instance, consul_host=consul_host)
    return warnings + list(_lint_shared_addresses(service, instances))


def _lint_service(service: Service) -> Iterator[LintWarning]:
    if not _DNS_LABEL.match(service.name):
        yield LintWarning("name", "Consul's DNS can't find it: use letters, digits and hyphens, at most 63 in all.")
    check = _check_spec(service)
    if check is not None:
        for hint in check.type.hints(check):
            yield LintWarning(*hint)


def _check_spec(service: Service) -> CheckSpec | None:
    """Returns the check, or None where a field is invalid; the form says that by itself."""
    try:
        return service.check_spec()
    except InvalidValueError:
        return None


def _lint_instance(service: Service, instance: Instance, *, consul_host: str) -> Iterator[LintWarning]:
    check, name = _check_spec(service), str(instance)
    if check is not None:
        for hint in check.type.port_hints(check, instance.port):
            yield LintWarning(hint.field, f"{name}: {hint.text}")
    is_remote = consul_host != "" and not is_loopback(consul_host)
    if check is not None and not check.type.is_reported and is_remote and is_loopback(instance.address):
        text = f"{name}: {instance.address} is Consul's own machine to Consul, which is at {consul_host}"
        yield LintWarning("address", f"{text}. Give the address that others reach it by.")
    if instance.address in ("0.0.0.0", "::"):  # noqa: S104 - it is what we warn of
        yield LintWarning("address", f"{name}: {instance.address} means every address, and none that can be called.")


def _lint_shared_addresses(service: Service, instances: Iterable[Instance]) -> Iterator[LintWarning]:
    addresses = {(instance.address, instance.port) for instance in instances}
    if not addresses:
        return
    shared = Instance.objects.exclude(service=service.pk).filter(port__in={port for _, port in addresses})
    for address, port, other in shared.order_by("service__name").values_list("address", "port", "service__name"):
        if (address, port) in addresses:
            yield LintWarning("address", f"{address}:{port} is {other}'s too: one of the two gets the other's calls.")
