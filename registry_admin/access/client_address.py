"""The address of a request's client, behind proxies too."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from django.conf import settings
from django.http import HttpRequest

ANY = "*"
_IPV6_NETWORK = 64  # bits that a provider gives to one client


def client_address(request: HttpRequest) -> str:
    """Returns the client's address, or nothing where the server doesn't know it (a UNIX socket without a proxy)."""
    forwarded = request.headers.get("X-Forwarded-For", "") if settings.BEHIND_PROXY else ""
    return forwarded_address(request.META.get("REMOTE_ADDR", ""), forwarded, trusted=settings.TRUSTED_PROXIES)


def is_from_proxy(request: HttpRequest) -> bool:
    """Returns whether a trusted proxy has sent the request, so that its headers are the proxy's word."""
    peer = request.META.get("REMOTE_ADDR", "")
    return settings.BEHIND_PROXY and _is_trusted(peer, settings.TRUSTED_PROXIES, is_peer=True)


def forwarded_address(peer: str, forwarded: str, *, trusted: Collection[str]) -> str:
    """Returns the last address that a trusted proxy has seen: everything to the left of it is the client's own word.

    `forwarded`: the value of X-Forwarded-For. `trusted`: addresses and networks of proxies; `*` trusts the peer alone.
    """
    address = peer
    for hop in reversed(forwarded.split(",") if forwarded else []):
        if not _is_trusted(address, trusted, is_peer=address is peer):
            break
        candidate = _normalized(hop.strip())
        if not candidate:
            break
        address = candidate
    return _normalized(address) or address


def counted_address(address: str) -> str:
    """Returns what failed logins are counted by: an IPv6 client can choose any address of its /64."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, IPv6Address):
        return str(ip_network(f"{parsed}/{_IPV6_NETWORK}", strict=False))
    return str(parsed)


def _normalized(text: str) -> str:
    """Returns the address as text, IPv4 within IPv6 unwrapped; nothing for what is no address."""
    try:
        parsed = ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def _is_trusted(address: str, trusted: Collection[str], *, is_peer: bool) -> bool:
    if ANY in trusted or not address:  # a UNIX socket has no address, and only this machine reaches it
        return is_peer
    normalized = _normalized(address)
    return bool(normalized) and any(ip_address(normalized) in network for network in _networks(trusted))


def _networks(trusted: Collection[str]) -> list[IPv4Network | IPv6Network]:
    return [ip_network(entry, strict=False) for entry in trusted]
