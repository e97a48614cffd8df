"""Rules for where a check may be pointed: a check makes Consul's agent, and our own probes, fetch from there.

Link-local and cloud metadata addresses are refused by `validation.address` already, whatever the rules are.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from registry_admin.consul import validation
from registry_admin.consul.addresses import embedded_ipv4
from registry_admin.consul.name_resolution import known_addresses
from registry_admin.errors import InvalidValueError

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
RESOLVE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class TargetRules:
    """Networks and ports of checks. `networks`: those allowed, or none where all are but the refused ones."""

    networks: tuple[IPNetwork, ...] = ()
    refused_networks: tuple[IPNetwork, ...] = ()
    refused_ports: frozenset[int] = frozenset()

    def check_host(self, host: str, port: int) -> tuple[str, ...]:
        """Judges a host name by each of its addresses, and returns these. Asks the name server for a second at most.

        Raises InvalidValueError. A name that isn't known here may be known to Consul's agent, so it is accepted, unless
        only some networks are allowed.
        """
        self.check_port(port)
        addresses = known_addresses(host, timeout_s=RESOLVE_S)
        if not addresses and self.networks:
            reason = "only some networks are allowed, and this name has no address here; give an IP address"
            raise InvalidValueError("address", host, reason)
        for address in addresses:
            self.check_address(address)
        return addresses

    def check_port(self, port: int) -> None:
        """Raises InvalidValueError for a port that a check must not be pointed at."""
        if port in self.refused_ports:
            reason = "checks of this port are refused (REGISTRY_CHECK_REFUSED_PORTS); choose a check that asks nobody"
            raise InvalidValueError("port", port, reason)

    def check_address(self, address: str) -> None:
        """Raises InvalidValueError for an IP address that a check must not be pointed at, in whichever spelling."""
        ip = ipaddress.ip_address(validation.address(address))
        for candidate in (ip, *embedded_ipv4(ip)):
            if any(candidate in network for network in self.refused_networks):
                reason = "checks of this network are refused (REGISTRY_CHECK_REFUSED_NETWORKS)"
                raise InvalidValueError("address", address, reason)
            if self.networks and not any(candidate in network for network in self.networks):
                reason = "checks of this network are not allowed (REGISTRY_CHECK_NETWORKS)"
                raise InvalidValueError("address", address, reason)


ANY_TARGET = TargetRules()
