"""ServiceRegistry: registering and finding services in a few plain calls, for modules and scripts."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from registry_admin.consul import validation
from registry_admin.consul.api import ConsulApi
from registry_admin.consul.checks import CheckSpec
from registry_admin.consul.config import ConsulConfig
from registry_admin.consul.health import Health
from registry_admin.consul.marks import META_SELF
from registry_admin.consul.service_spec import ServiceSpec
from registry_admin.consul.types import ServiceInstance
from registry_admin.errors import NoHealthyInstanceError, NoSuchServiceError
from registry_admin.printable import to_single_line

MAX_OUTPUT = 200  # characters of a check's output in a message


class ServiceRegistry:
    """A Consul agent, seen as a registry of services. Safe to share between threads.

    Methods raise InvalidValueError before anything is sent, ConsulUnavailableError (later is fine) and
    ConsulRefusedError (it isn't).
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = 8500,
        token: str | None = None,
        scheme: str = "http",
        *,
        config: ConsulConfig | None = None,
    ) -> None:
        self.api = ConsulApi(config or ConsulConfig(host=host, port=port, token=token, scheme=scheme))
        self._turn = itertools.count()
        self._turn_lock = threading.Lock()

    @classmethod
    def from_env(cls) -> Self:
        """For the Consul that CONSUL_HTTP_ADDR, CONSUL_HOST and their kin name; raises ConfigurationError."""
        return cls(config=ConsulConfig.from_env())

    def __repr__(self) -> str:
        return f"ServiceRegistry({self.api.config.url!r})"

    def register_service(
        self,
        name: str,
        address: str,
        port: int,
        tags: Iterable[str] = (),
        *,
        service_id: str | None = None,
        meta: Mapping[str, str] | None = None,
        weight: int = 1,
        health_check_path: str = "/health",
        health_check_interval: str = "10s",
        health_check_timeout: str = "5s",
        deregister_after: str | None = "30s",
        check: CheckSpec | None = None,
    ) -> str:
        """Registers an instance, or updates it, and returns its ID: `name-address-port` unless given.

        The check is `GET health_check_path` on the instance itself; `check` replaces it altogether. Durations are text
        with a unit. Registering again keeps the health that Consul has seen.
        """
        spec = ServiceSpec(
            name=name,
            address=validation.address(address),
            port=validation.port(port),
            id=service_id or "",
            tags=validation.tags(tags),
            meta=meta or {},
            weight=weight,
            check=check
            or CheckSpec(
                path=health_check_path,
                interval=health_check_interval,
                timeout=health_check_timeout,
                deregister_after=deregister_after,
            ),
        )
        self.register(spec)
        return spec.id

    def register(self, spec: ServiceSpec, *, passing: bool = False) -> None:
        """Registers a ready-made spec, marked as registered by the module itself. A check of another kind ends."""
        self.api.register(spec, marks={META_SELF: spec.digest}, status="passing" if passing else "")
        for check_id in spec.former_check_ids:
            self.api.deregister_check(check_id)

    def deregister_service(self, service_id: str) -> None:
        """Takes an instance out; one that isn't there counts as taken out."""
        self.api.deregister(service_id)

    def discover_service(self, name: str, tag: str | None = None, passing: bool = True) -> list[ServiceInstance]:  # noqa: FBT001, FBT002 - as documented
        """The instances of a service on all nodes, only passing ones unless told otherwise; an empty list for none."""
        return self.api.instances(name, tag=tag, passing=passing).data

    def discover_all_services(self) -> dict[str, list[str]]:
        """Every service name in the catalog, with its tags."""
        return self.api.services().data

    def get_service_url(self, name: str, tag: str | None = None) -> str:
        """The root URL of one healthy instance, taking turns among them: `http://localhost:8000`.

        Raises NoSuchServiceError or NoHealthyInstanceError.
        """
        reply = self.api.instances(name, tag=tag)
        healthy = healthy_instances(name, reply.data, may_be_hidden=reply.may_be_hidden)
        with self._turn_lock:
            turn = next(self._turn)
        return healthy[turn % len(healthy)].url


def healthy_instances(
    name: str, known: Sequence[ServiceInstance], *, may_be_hidden: bool = False
) -> list[ServiceInstance]:
    """Returns the instances that may be called: passing, with an address that can only mean one host.

    Raises NoSuchServiceError where nothing is known (`may_be_hidden`: to us, who sent no token), and
    NoHealthyInstanceError with each instance's last output.
    """
    healthy = [instance for instance in known if instance.health is Health.PASSING and instance.is_callable]
    if not healthy:
        raise no_healthy_instance(name, known, may_be_hidden=may_be_hidden)
    return healthy


def no_healthy_instance(
    name: str, known: Sequence[ServiceInstance], *, may_be_hidden: bool = False
) -> NoSuchServiceError | NoHealthyInstanceError:
    """The error to raise where none of these may be called: why not, for each of them."""
    if not known:
        return NoSuchServiceError(name, may_be_hidden=may_be_hidden)
    return NoHealthyInstanceError(name, instances=[_unhealthy_reason(instance) for instance in known])


def _unhealthy_reason(instance: ServiceInstance) -> str:
    place = f"{to_single_line(instance.id)} at {to_single_line(instance.address)}:{instance.port}"
    if not instance.is_callable:
        return f"{place} has an address that can't be called"
    output = to_single_line(instance.output, max_length=MAX_OUTPUT)
    return f"{place} is {instance.health}" + (f" ({output})" if output else "")
