"""Identity of this process as a service: from the options in its code, else from the environment."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import TypedDict

from registry_admin.consul import validation
from registry_admin.consul.addresses import is_loopback
from registry_admin.consul.api import ConsulApi
from registry_admin.consul.checks import CheckSpec
from registry_admin.consul.config import ConsulConfig
from registry_admin.consul.service_spec import ServiceSpec
from registry_admin.errors import ConfigurationError, ConsulRefusedError, ConsulUnavailableError

logger = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"


class IdentityOptions(TypedDict, total=False):
    """Options of a registration, beside the service's name.

    Options that are missing or None come from SERVICE_ADDRESS, SERVICE_PORT, SERVICE_TAGS (comma-separated), SERVICE_ID
    and SERVICE_HEALTH_CHECK_PATH. The check is `GET health_check_path`, `/health` by default; `check` replaces it. What
    has a check that nobody answers (TTL, none) needs no port.
    """

    address: str | None
    port: int | None
    tags: Iterable[str] | None
    service_id: str | None
    meta: Mapping[str, str] | None
    weight: int
    health_check_path: str | None
    check: CheckSpec | None


def resolve_spec(
    name: str | None,
    options: IdentityOptions,
    *,
    environ: Mapping[str, str],
    consul: ConsulConfig,
    agent_address: Callable[[], str] = lambda: _LOOPBACK,
) -> ServiceSpec:
    """Returns the spec to register. Without `name`, SERVICE_NAME is used; for `agent_address` see `local_address`.

    Raises ConfigurationError or InvalidValueError for a missing or wrong value, and ConsulUnavailableError if no
    address is set and there is no route to Consul.
    """
    name = name or environ.get("SERVICE_NAME")
    if not name:
        raise ConfigurationError("SERVICE_NAME is not set, so there is no name to register this process under.")
    address = options.get("address") or environ.get("SERVICE_ADDRESS")
    service_id = options.get("service_id") or environ.get("SERVICE_ID") or ""
    tags = options.get("tags")
    check = options.get("check") or CheckSpec(path=options.get("health_check_path") or health_check_path(environ))
    spec = ServiceSpec(
        name=name,
        address=validation.address(address or _LOOPBACK),
        port=options.get("port") or _read_port(environ, check),
        id=service_id,
        tags=tuple(tags) if tags is not None else _split_tags(environ.get("SERVICE_TAGS", "")),
        meta=options.get("meta") or {},
        weight=options.get("weight", 1),
        check=check,
    )
    if address:
        return spec
    return dataclasses.replace(spec, address=local_address(consul, agent_address), id=service_id)


def health_check_path(environ: Mapping[str, str]) -> str:
    """Returns the path of the check, where no option gives another one."""
    return environ.get("SERVICE_HEALTH_CHECK_PATH") or "/health"


def local_address(consul: ConsulConfig, agent_address: Callable[[], str] = lambda: _LOOPBACK) -> str:
    """Returns the address under which others reach this machine: the local one of the route to the agent.

    Where the agent's own address is loopback, the route is that to `agent_address()`, which other nodes know it by. So
    it is loopback only if the agent is reached by nobody else.
    """
    host = agent_address() if is_loopback(consul.host) else consul.host
    if is_loopback(host):
        return _LOOPBACK
    try:
        family, kind, _, _, target = socket.getaddrinfo(host, consul.port, type=socket.SOCK_DGRAM)[0]
        with contextlib.closing(socket.socket(family, kind)) as route:
            route.connect(target)  # sends nothing: it is a datagram socket
            return str(route.getsockname()[0])
    except OSError as error:
        raise ConsulUnavailableError(
            f"There is no route to Consul at {consul.url} ({error.strerror or 'unknown'}), so this process's own "
            f"address isn't known. Set SERVICE_ADDRESS."
        ) from error


def advertised_address(api: ConsulApi) -> str:
    """Returns the address that the agent tells other nodes; loopback, with a warning, where the token may not ask."""
    try:
        return api.agent_address()
    except ConsulRefusedError as error:
        logger.warning(
            "This process registers %s, where other nodes can't call it. Set SERVICE_ADDRESS, or allow it to ask the "
            "agent for its address: %s",
            _LOOPBACK,
            error,
        )
        return _LOOPBACK


def _read_port(environ: Mapping[str, str], check: CheckSpec) -> int:
    text = environ.get("SERVICE_PORT", "")
    if not text and not check.type.needs_port:
        return 0
    if not text:
        raise ConfigurationError("SERVICE_PORT is not set, so others could not call this process.")
    if not (text.isascii() and text.isdigit()):
        raise ConfigurationError(f"SERVICE_PORT: give a number from 1 to 65535, not {text[:40]!r}.")
    return validation.port(int(text), "SERVICE_PORT")


def _split_tags(text: str) -> tuple[str, ...]:
    return tuple(tag.strip() for tag in text.split(",") if tag.strip())
