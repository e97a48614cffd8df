"""Ports of a service that has several, as it may from Consul 1.22 on. It then needs no `Port`."""

from __future__ import annotations


def default_port(ports: object) -> object:
    """Returns the port to call, unchecked: the default one, else the first; None where there is none."""
    known = [item for item in ports if isinstance(item, dict)] if isinstance(ports, list) else []
    return next((item for item in known if item.get("Default") is True), known[0] if known else {}).get("Port")
