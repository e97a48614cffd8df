"""Addresses of an instance by purpose (`lan`, `wan`, …), written as `host:port`.

https://developer.hashicorp.com/consul/docs/reference/service#tagged_addresses
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from registry_admin.consul import validation
from registry_admin.consul.addresses import url_host
from registry_admin.consul.instance_fields import declared_port
from registry_admin.errors import InvalidValueError

MAX_TAGGED_ADDRESSES = 16
# Agents add these, with the instance's own address and port, where it is an IP address.
_ADDED_BY_AGENTS = frozenset({"lan_ipv4", "wan_ipv4", "lan_ipv6", "wan_ipv6"})
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ENDPOINT = re.compile(r"(?:\[(?P<ipv6>[^\]]+)\]|(?P<host>[^:\[\]]+)):(?P<port>[0-9]{1,5})")


def tagged_addresses(value: object, field: str = "tagged_addresses") -> dict[str, str]:
    """Pairs of a name and an endpoint, in canonical form."""
    if not isinstance(value, Mapping) or len(value) > MAX_TAGGED_ADDRESSES:
        raise InvalidValueError(
            field,
            type(value).__name__,
            f"give at most {MAX_TAGGED_ADDRESSES} pairs, such as {{'wan': '203.0.113.5:80'}}",
        )
    pairs: dict[str, str] = {}
    for name, content in value.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidValueError(field, name, "a name is 1 to 64 letters, digits, '-' and '_'")
        match = _ENDPOINT.fullmatch(content) if isinstance(content, str) else None
        if match is None:
            raise InvalidValueError(f"{field}.{name}", content, "give an address and a port, such as '203.0.113.5:80'")
        host = validation.address(match["ipv6"] or match["host"], f"{field}.{name}")
        pairs[name] = endpoint(host, declared_port(int(match["port"]), f"{field}.{name}"))
    return dict(sorted(pairs.items()))


def endpoint(host: str, port: int) -> str:
    """Returns `host:port`, IPv6 in brackets."""
    return f"{url_host(host)}:{port}"


def without_added(pairs: Mapping[str, str], address: str, port: int) -> dict[str, str]:
    """Returns the pairs without those that an agent adds by itself to an instance at this address and port."""
    own = endpoint(address, port)
    return {name: value for name, value in sorted(pairs.items()) if name not in _ADDED_BY_AGENTS or value != own}


def of_consul(raw: object, address: str, port: int) -> dict[str, str]:
    """Returns the pairs of Consul's `TaggedAddresses`, without those that the agent has added."""
    entries = raw.items() if isinstance(raw, Mapping) else ()
    pairs = {
        str(name): endpoint(str(entry.get("Address") or ""), entry.get("Port") or 0)
        for name, entry in entries
        if isinstance(entry, Mapping)
    }
    return without_added(pairs, address, port)


def for_consul(pairs: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Returns the pairs as a registration has them."""
    matches = {name: _ENDPOINT.fullmatch(value) for name, value in pairs.items()}
    return {
        name: {"Address": match["ipv6"] or match["host"], "Port": int(match["port"])}
        for name, match in matches.items()
        if match is not None
    }
