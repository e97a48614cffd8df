"""Which addresses mean this machine, in every spelling, and how an address stands in a URL."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from registry_admin.consul.addresses import embedded_ipv4, is_loopback, is_this_machine, url_host


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST.", "localhost.localdomain", "ip6-loopback",
        "api.localhost", "::ffff:127.0.0.1", "64:ff9b::7f00:1",
    ],
)  # fmt: skip
def test_is_loopback_knows_every_spelling(host):
    assert is_loopback(host)
    assert is_this_machine(host)


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "192.0.2.1", "::", "2001:db8::1", "localhost.example.com", "notlocalhost", "consul", ""]
)
def test_is_loopback_refuses_other_hosts(host):
    assert not is_loopback(host)


@pytest.mark.network
def test_is_this_machine_is_false_for_an_address_of_another_machine():
    assert not is_this_machine("192.0.2.1")


def test_is_this_machine_is_false_for_a_name_that_resolves_to_nothing(monkeypatch):
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert not is_this_machine("consul.example")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.0.1", []),
        ("::1", []),
        ("2001:db8::1", []),
        ("::ffff:10.0.0.1", ["10.0.0.1"]),
        ("64:ff9b::a00:1", ["10.0.0.1"]),
        ("2002:a00:1::", ["10.0.0.1"]),
    ],
)
def test_embedded_ipv4_finds_mapped_translated_and_tunnelled_addresses(address, expected):
    assert [str(ip) for ip in embedded_ipv4(ipaddress.ip_address(address))] == expected


@pytest.mark.parametrize(("host", "expected"), [("10.0.0.1", "10.0.0.1"), ("::1", "[::1]"), ("api.local", "api.local")])
def test_url_host_puts_ipv6_into_brackets(host, expected):
    assert url_host(host) == expected
