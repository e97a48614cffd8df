"""IP addresses and host names: how they stand in URLs, and which of them mean this machine."""

from __future__ import annotations

import ipaddress
import socket

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

OWN_MACHINE = "localhost"
_LOOPBACK_NAMES = frozenset({OWN_MACHINE, "localhost.localdomain", "ip6-localhost", "ip6-loopback"})
# IPv6 ranges that carry an IPv4 address in their last 32 bits: IPv4-compatible, mapped, translated and NAT64.
_ENDS_IN_IPV4 = tuple(
    map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48"))
)
_ISATAP = 0x00005EFE  # before the IPv4 address, with or without the bit for a global one: RFC 5214 section 6.1


def url_host(host: str) -> str:
    """Returns `host` as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def is_ip_address(host: str) -> bool:
    """Returns whether `host` is an IP address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def embedded_ipv4(ip: IPAddress) -> list[ipaddress.IPv4Address]:
    """Returns the IPv4 addresses that a network may take an IPv6 address for."""
    if isinstance(ip, ipaddress.IPv4Address) or ip.is_loopback:
        return []
    embedded = [ip.sixtofour, *(ip.teredo or ())]
    if int(ip) >> 32 & 0xFDFFFFFF == _ISATAP:
        embedded.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    if any(ip in network for network in _ENDS_IN_IPV4):
        embedded.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return [address for address in embedded if address is not None]


def is_loopback(host: str) -> bool:
    """Returns whether `host`, an IP address or a name, always means the machine that uses it (RFC 6761 section 6.3)."""
    name = host.lower().rstrip(".")
    try:
        ip = ipaddress.ip_address(name)
    except ValueError:
        return name in _LOOPBACK_NAMES or name.endswith(".localhost")
    return any(address.is_loopback for address in (ip, *embedded_ipv4(ip)))


def is_this_machine(host: str) -> bool:
    """Returns whether `host` is an address of this machine: nothing can be bound to another machine's. May use DNS."""
    if is_loopback(host):
        return True
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as trial:
            trial.bind(address)
    except OSError:
        return False
    return True
