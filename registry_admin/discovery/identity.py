"""Who this process is, as a service: from what the code says, else from the environment."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Mapping
from typing import TypedDict

from registry_admin.consul.config import ConsulConfig
from registry_admin.consul.types import CheckSpec, ServiceSpec
from registry_admin.errors import ConfigurationError, ConsulUnavailableError


class IdentityOptions(TypedDict, total=False):
    """How a process describes itself, beside its name.

    What is left out or None comes from SERVICE_ADDRESS, SERVICE_PORT, SERVICE_TAGS (comma-separated) and SERVICE_ID.

    The check is `GET health_check_path`, `/health` by default; `check` replaces it altogether.
    """

    address: str | None
    port: int | None
    tags: Iterable[str] | None
    service_id: str | None
    meta: Mapping[str, str] | None
    weight: int
    health_check_path: str
    check: CheckSpec | None


def own_spec(
    name: str | None, options: IdentityOptions, *, environ: Mapping[str, str], consul: ConsulConfig
) -> ServiceSpec:
    """The spec to register; the name too may come from the environment, as SERVICE_NAME.

    Raises ConfigurationError or InvalidValueError for what a person must mend, and ConsulUnavailableError where only
    the way to Consul could have told which address is ours.
    """
    name = name or environ.get("SERVICE_NAME")
    if not name:
        raise ConfigurationError("SERVICE_NAME is not set, so there is no name to register this process under.")
    tags = options.get("tags")
    return ServiceSpec(
        name=name,
        address=options.get("address") or environ.get("SERVICE_ADDRESS") or own_address(consul),
        port=options.get("port") or _port(environ),
        id=options.get("service_id") or environ.get("SERVICE_ID") or "",
        tags=tuple(tags) if tags is not None else _words(environ.get("SERVICE_TAGS", "")),
        meta=options.get("meta") or {},
        weight=options.get("weight", 1),
        check=options.get("check") or CheckSpec(path=options.get("health_check_path", "/health")),
    )


def own_address(consul: ConsulConfig) -> str:
    """Where others reach this machine: loopback if Consul is there too, else the local address on the way to Consul."""
    if consul.host in ("localhost", "::1") or consul.host.startswith("127."):
        return "127.0.0.1"
    try:
        family, kind, _, _, target = socket.getaddrinfo(consul.host, consul.port, type=socket.SOCK_DGRAM)[0]
        with contextlib.closing(socket.socket(family, kind)) as probe:
            probe.connect(target)  # of a datagram socket: sends nothing, only asks for the route
            return str(probe.getsockname()[0])
    except OSError as error:
        raise ConsulUnavailableError(
            f"There is no route to Consul at {consul.url} ({error.strerror or 'unknown'}), so this process's own "
            f"address isn't known; SERVICE_ADDRESS can say it."
        ) from error


def _port(environ: Mapping[str, str]) -> int:
    text = environ.get("SERVICE_PORT", "")
    if not text:
        raise ConfigurationError("SERVICE_PORT is not set, so others could not call this process.")
    if not (text.isascii() and text.isdigit()):
        raise ConfigurationError(f"SERVICE_PORT: give a number from 1 to 65535, not {text[:40]!r}.")
    return int(text)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
