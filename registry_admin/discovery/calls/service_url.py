"""URLs that name a service: `http://NAME.service/…`, as the adapters for other HTTP clients take them."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

SUFFIX = ".service"
_CONNECTION_HEADERS = frozenset({"connection", "content-length", "host", "transfer-encoding"})  # set by the client


def service_of(host: str) -> str:
    """Returns the service that a URL's host names, or "" for another host."""
    return host.removesuffix(SUFFIX) if host.endswith(SUFFIX) else ""


def own_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Returns the headers of a request without those that belong to its connection."""
    return {name: value for name, value in headers.items() if name.lower() not in _CONNECTION_HEADERS}


def service_location(location: str, *, instance_url: str, service_url: str) -> str:
    """Returns a `Location` on the instance, or below its base path, as one on the service; others as they are."""
    for root in (instance_url, urlsplit(instance_url).path):
        if root and (location == root or location.startswith((f"{root}/", f"{root}?"))):
            return service_url + location[len(root) :]
    return location
