"""Addresses of clients: only what a trusted proxy has seen is believed."""

from __future__ import annotations

import pytest
from django.test import RequestFactory

from registry_admin.access.client_address import client_address, counted_address, forwarded_address

LOCAL = ["127.0.0.1", "::1"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "address"),
    [
        ("203.0.113.7", "", LOCAL, "203.0.113.7"),
        ("203.0.113.7", "198.51.100.1", LOCAL, "203.0.113.7"),  # whoever comes directly says nothing about itself
        ("127.0.0.1", "198.51.100.1", LOCAL, "198.51.100.1"),
        ("127.0.0.1", "192.0.2.66, 198.51.100.1", LOCAL, "198.51.100.1"),  # the left one is the client's own word
        ("127.0.0.1", "192.0.2.66, 198.51.100.1, 10.0.0.2", [*LOCAL, "10.0.0.0/8"], "198.51.100.1"),
        ("10.0.0.3", "198.51.100.1, 10.0.0.2", ["*"], "10.0.0.2"),
        ("127.0.0.1", "nonsense", LOCAL, "127.0.0.1"),
        ("127.0.0.1", "198.51.100.1, ", LOCAL, "127.0.0.1"),
        ("127.0.0.1", "::ffff:198.51.100.1", LOCAL, "198.51.100.1"),
        ("::ffff:127.0.0.1", "2001:db8::1", LOCAL, "2001:db8::1"),
        ("fe80::1%eth0", "", LOCAL, "fe80::1"),
        ("", "198.51.100.1", LOCAL, "198.51.100.1"),
        ("", "", LOCAL, ""),
    ],
)
def test_forwarded_address_is_the_last_that_a_trusted_proxy_has_seen(peer, forwarded, trusted, address):
    assert forwarded_address(peer, forwarded, trusted=trusted) == address


def test_client_address_without_proxy_ignores_forwarded_header(settings):
    request = RequestFactory().get("/", headers={"X-Forwarded-For": "198.51.100.1"})
    settings.TRUSTED_PROXIES = LOCAL
    settings.BEHIND_PROXY = False
    assert client_address(request) == "127.0.0.1"
    settings.BEHIND_PROXY = True
    assert client_address(request) == "198.51.100.1"


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("198.51.100.1", "198.51.100.1"), ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::9", "2001:db8:1:2::/64"), ("", ""), ("nonsense", "nonsense"),
    ],
)  # fmt: skip
def test_counted_address_of_ipv6_is_its_network(address, counted):
    assert counted_address(address) == counted
