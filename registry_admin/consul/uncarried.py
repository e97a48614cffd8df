"""Fields of a service that no declaration carries, so that registering it anew would drop them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FIELDS = ("Kind", "Proxy", "Connect", "SocketPath", "Ports", "Locality", "Namespace", "Partition", "PeerName")
_MEANS_UNSET = {"Kind": ("typical",), "Namespace": ("default",), "Partition": ("default",)}


def uncarried_fields(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of those that a service of Consul's API has."""
    return tuple(name for name in _FIELDS if is_set(raw.get(name)) and raw[name] not in _MEANS_UNSET.get(name, ()))


def is_set(value: object) -> bool:
    """Returns whether a field holds anything. Unused ones are shown as nothing, or as objects of nothing."""
    if isinstance(value, Mapping):
        return any(map(is_set, value.values()))
    return bool(value)
