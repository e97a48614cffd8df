"""Instances that this process serves as, and the header by which a call names the instance that it is meant for.

Another process may get the address of an instance that callers still know. Middleware refuses the calls that are meant
for the former one: docs/decisions/0026.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import quote

from registry_admin.consul.addresses import is_loopback, url_host

HEADER = "X-Service-Instance"  # `ID@address:port`; in a refusal the ID of the instance that answers
MISDIRECTED = 421  # RFC 9110 section 15.5.20: nothing was done, so the call may be made elsewhere
_MAX_LENGTH = 512  # characters; a longer ID isn't sent

_has_middleware = False
_ids_by_place: dict[str, set[str]] = {}


def instance_headers(instance_id: str, address: str, port: int) -> dict[str, str]:
    """Returns the header for calls to an instance; none for one with an ID that is too long for a header."""
    value = f"{_encode(instance_id)}@{_place(address, port)}"
    return {HEADER: value} if len(value) <= _MAX_LENGTH else {}


def serve_as(instance_id: str, address: str, port: int) -> None:
    """Records that this process serves as an instance, from now on and until it ends."""
    _ids_by_place.setdefault(_place(address, port), set()).add(_encode(instance_id))


def is_own(encoded_id: str, address: str, port: int) -> bool:
    """Returns whether this process serves as the instance with this ID, as it stands in the header."""
    return encoded_id in _ids_by_place.get(_place(address, port), ())


def add_middleware() -> None:
    """Records that middleware of this process refuses calls that are meant for another instance."""
    global _has_middleware  # noqa: PLW0603
    _has_middleware = True


def refuses_calls() -> bool:
    """Returns whether this process has such middleware."""
    return _has_middleware


def refusing_instance(header: str | None) -> str | None:
    """Returns the ID of this process where a call with this header is meant for another instance at its address.

    None where the call may be answered. So it is where the header names another address: the call came through a proxy
    that is an instance itself.
    """
    if not header:
        return None
    instance_id, _, place = header.rpartition("@")
    own_ids = _ids_by_place.get(place)
    return None if not own_ids or instance_id in own_ids else min(own_ids)


def refusal_text(instance_id: str) -> str:
    """Returns the body of a refusal by the instance with this ID."""
    return f"This is {instance_id}, not the instance that the call is meant for.\n"


def _encode(instance_id: str) -> str:
    return quote(instance_id, safe=":/+=,~", errors="replace")


def _place(address: str, port: int) -> str:
    """Returns `host:port`, the same for each way to write an address."""
    host = address.lower().rstrip(".")
    try:
        host = str(ipaddress.ip_address(host))
    except ValueError:
        host = quote(host, errors="replace")
    return f"localhost:{port}" if is_loopback(host) else f"{url_host(host)}:{port}"
