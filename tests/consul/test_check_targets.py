"""Where a check may be pointed: every spelling of an address, names by each of their addresses, networks and ports."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import closing

import pytest

from registry_admin.consul import CheckKind, CheckSpec, ConsulApi, ConsulConfig, ServiceSpec, name_resolution
from registry_admin.consul.check_probe import ProbeStage, probe_instance
from registry_admin.consul.check_targets import ANY_TARGET, TargetRules
from registry_admin.errors import InvalidValueError
from tests.parts.raw_service import FINE, RawService

METADATA = "169.254.169.254"


def rules(**options: str) -> TargetRules:
    return TargetRules(
        networks=tuple(map(ipaddress.ip_network, options.get("networks", "").split())),
        refused_networks=tuple(map(ipaddress.ip_network, options.get("refused", "").split())),
        refused_ports=frozenset(map(int, options.get("ports", "").split())),
    )


@pytest.fixture
def names(monkeypatch) -> dict[str, list[str]]:
    """Addresses by name; the resolver knows no others."""
    known: dict[str, list[str]] = {}

    def getaddrinfo(host, port, *_args, **_options):
        try:
            addresses = [str(ipaddress.ip_address(host))]
        except ValueError:
            addresses = known.get(host, [])
        if not addresses:
            raise socket.gaierror(-2, "Name or service not known")
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(name_resolution, "_known", {})
    monkeypatch.setattr(name_resolution, "_silent_until", 0.0)
    return known


EMBEDDED = ["::ffff:{}", "::{}", "::ffff:0:{}", "64:ff9b::{}", "2001:db8::5efe:{}", "2001:db8::200:5efe:{}"]


@pytest.mark.parametrize("spelling", ["{}", *EMBEDDED])
@pytest.mark.parametrize(
    ("options", "address"),
    [({}, METADATA), ({"refused": "10.0.0.0/8"}, "10.1.2.3"), ({"networks": "192.168.0.0/16 ::/0"}, "10.1.2.3")],
)
def test_check_address_refuses_each_spelling_of_a_refused_address(spelling, options, address):
    with pytest.raises(InvalidValueError):
        rules(**options).check_address(spelling.format(address))


def test_check_address_refuses_six_to_four_of_a_refused_address():
    with pytest.raises(InvalidValueError):
        rules(refused="10.0.0.0/8").check_address("2002:a01:203::1")


@pytest.mark.parametrize(
    "text", ["127.1", "2130706433", "0177.0.0.1", "0x7f.1", "１２７.0.0.1", "fe80::1%eth0", "[::1]"]
)
def test_declaration_refuses_other_spellings_of_an_address(text):
    with pytest.raises(InvalidValueError):
        ServiceSpec(name="a", address=text, port=80)


def test_check_address_accepts_allowed_networks():
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1"):
        rules(networks="10.0.0.0/8 fd00::/8", refused="10.9.0.0/16").check_address(address)
    ANY_TARGET.check_address("203.0.113.9")


@pytest.mark.parametrize("addresses", [[METADATA], ["10.0.0.1", METADATA], ["10.0.0.1", "fe80::1%eth0"]])
def test_register_refuses_a_name_with_an_address_that_is_refused(names, addresses):
    names["innocent.example"] = addresses
    with pytest.raises(InvalidValueError, match="address"):
        ConsulApi(ConsulConfig()).register(ServiceSpec(name="a", address="innocent.example", port=80), marks={})


@pytest.mark.parametrize(("own", "address"), [("127.0.0.1", "127.0.0.1"), ("10.0.0.5", "::ffff:127.0.0.1")])
def test_register_refuses_a_name_of_consul_itself(names, own, address):
    names["innocent.example"] = [address]
    with pytest.raises(InvalidValueError, match="Consul's own"):
        ConsulApi(ConsulConfig(host=own)).register(
            ServiceSpec(name="a", address="innocent.example", port=8500), marks={}
        )


def test_register_refuses_the_address_of_consul_s_own_name(names):
    names["consul.example"] = ["10.0.0.5"]
    with pytest.raises(InvalidValueError, match="Consul's own"):
        ConsulApi(ConsulConfig(host="consul.example")).refuse_own_port("10.0.0.5", 8500)


def test_check_host_of_an_unknown_name_depends_on_whether_networks_are_limited(names):
    assert ANY_TARGET.check_host("unknown.example", 80) == ()
    with pytest.raises(InvalidValueError, match="no address here"):
        rules(networks="10.0.0.0/8").check_host("unknown.example", 80)


def test_check_target_of_a_check_that_asks_nobody_is_free():
    api = ConsulApi(ConsulConfig(port=1, target_rules=rules(ports="8500")))
    api.check_target(ServiceSpec(name="a", address="10.0.0.1", port=8500, check=CheckSpec(kind=CheckKind.TTL)))
    with pytest.raises(InvalidValueError, match="8500"):
        api.check_target(ServiceSpec(name="a", address="10.0.0.1", port=8500))


def test_silent_name_server_is_waited_for_once(names, monkeypatch):
    waits: list[float] = []

    def silent(_host, _port, *, timeout_s):
        waits.append(timeout_s)
        raise TimeoutError

    monkeypatch.setattr(name_resolution, "resolve", silent)
    for host in ("a.example", "b.example", "a.example"):
        assert ANY_TARGET.check_host(host, 80) == ()
    assert waits == [1.0, 0.0]


@pytest.mark.network
def test_probe_connects_to_the_address_that_was_judged_though_the_name_changes(names, monkeypatch):
    with closing(RawService(FINE)) as service:
        names["moving.example"] = ["127.0.0.1"]
        judged: list[str] = []
        check_address = TargetRules.check_address

        def check_and_move(self, address):
            check_address(self, address)
            judged.append(address)
            names["moving.example"] = [METADATA]

        monkeypatch.setattr(TargetRules, "check_address", check_and_move)
        result = probe_instance(ServiceSpec(name="a", address="moving.example", port=service.port))
        assert (result.is_passing, judged) == (True, ["127.0.0.1"])
        assert service.heads[0].splitlines()[1] == f"Host: moving.example:{service.port}".encode()
        again = probe_instance(ServiceSpec(name="a", address="moving.example", port=service.port))
    assert (again.stage, again.is_alive, service.requests) == (ProbeStage.NOT_CONNECTED, False, 1)
    assert "link-local" in again.text


@pytest.mark.network
@pytest.mark.parametrize("options", [{"refused": "127.0.0.0/8"}, {"networks": "10.0.0.0/8"}])
def test_probe_does_not_connect_to_a_refused_network(options):
    with closing(RawService(FINE)) as service:
        spec = ServiceSpec(name="a", address="127.0.0.1", port=service.port)
        assert not probe_instance(spec, rules=rules(**options)).is_alive
        assert not probe_instance(spec, rules=rules(ports=str(service.port))).is_alive
        assert service.requests == 0
        assert probe_instance(spec).is_passing


@pytest.mark.network
def test_probe_does_not_follow_a_redirect_to_a_refused_port(http_service):
    inner = http_service()
    location = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{inner.port}/v1/kv/\r\nContent-Length: 0\r\n\r\n"
    with closing(RawService(location.encode())) as service:
        spec = ServiceSpec(name="a", address="127.0.0.1", port=service.port)
        result = probe_instance(spec, rules=rules(ports=str(inner.port)))
        assert (result.status, inner.requests) == (302, [])
        assert probe_instance(spec).is_passing
