"""Warns of declarations that are valid and yet can't work as meant. Warnings only: the operator may know better."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from registry_admin.consul import ConsulConfig, validation
from registry_admin.errors import RegistryError
from registry_admin.inventory.models import Instance, Service

_DNS_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")
# What answers there by convention doesn't speak HTTP.
_NOT_HTTP = {22: "SSH", 25: "SMTP", 3306: "MySQL", 5432: "PostgreSQL", 6379: "Redis", 27017: "MongoDB", 9092: "Kafka"}


class Advice(NamedTuple):
    """A field, and what is odd about it and how to mend it."""

    field: str
    text: str

    def __str__(self) -> str:
        return f"{self.field}: {self.text}"


def examine(service: Service, instances: Sequence[Instance], *, consul_host: str | None = None) -> list[Advice]:
    """What is odd about a service and its instances, as they are declared. One query, where there are instances.

    `consul_host`: where Consul is, whose checks must reach the instances; the environment's unless given.
    """
    if consul_host is None:
        try:
            consul_host = ConsulConfig.from_env().host
        except RegistryError:
            consul_host = ""
    found = [*_of_service(service)]
    for instance in instances:
        found += _of_instance(service, instance, consul_host=consul_host)
    return found + list(_shared_places(service, instances))


def _of_service(service: Service) -> Iterator[Advice]:
    if not _DNS_LABEL.match(service.name):
        yield Advice("name", "Consul's DNS can't find it: use letters, digits and hyphens, at most 63 in all.")
    if service.check_kind == Service.Check.NONE:
        return
    interval, timeout = (validation.seconds(text) for text in (service.check_interval, service.check_timeout))
    if service.check_kind in (Service.Check.HTTP, Service.Check.TCP) and timeout > interval:
        told = f"{service.check_timeout} is longer than the interval, {service.check_interval}: checks would overlap"
        yield Advice("timeout", f"{told}. Make it shorter.")
    if service.deregister_after and validation.seconds(service.deregister_after) < interval:
        told = f"{service.deregister_after} is shorter than the interval, {service.check_interval}"
        yield Advice("deregister after", f"{told}: one failed check takes an instance out.")


def _of_instance(service: Service, instance: Instance, *, consul_host: str) -> Iterator[Advice]:
    is_http = service.check_kind == Service.Check.HTTP
    name = str(instance)
    if is_http and instance.port in _NOT_HTTP:
        told = f"{name}: {instance.port} is {_NOT_HTTP[instance.port]}'s, which speaks no HTTP"
        yield Advice("port", f"{told}. Choose a TCP check.")
    if is_http and service.check_scheme == "https" and instance.port == 80:
        yield Advice("scheme", f"{name}: https on port 80, where plain HTTP is spoken. Choose http, or port 443.")
    if is_http and service.check_scheme == "http" and instance.port == 443:
        yield Advice("scheme", f"{name}: http on port 443, where TLS is spoken. Choose https.")
    if service.check_kind != Service.Check.TTL and _is_loopback(instance.address) and not _is_loopback(consul_host):
        told = f"{name}: {instance.address} is Consul's own machine to Consul, which is at {consul_host}"
        yield Advice("address", f"{told}. Give the address that others reach it by.")
    if instance.address in ("0.0.0.0", "::"):  # noqa: S104 - it is what we warn of
        yield Advice("address", f"{name}: {instance.address} means every address, and none that can be called.")


def _shared_places(service: Service, instances: Iterable[Instance]) -> Iterator[Advice]:
    mine = {(instance.address, instance.port) for instance in instances}
    if not mine:
        return
    others = Instance.objects.exclude(service=service.pk).filter(port__in={port for _, port in mine})
    for address, port, other in others.order_by("service__name").values_list("address", "port", "service__name"):
        if (address, port) in mine:
            yield Advice("address", f"{address}:{port} is {other}'s too: one of the two gets the other's calls.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in ("localhost", "")
