"""Identity of a process, from its options and the environment."""

from __future__ import annotations

import socket

import pytest

from registry_admin.consul import CheckKind, CheckSpec, ConsulApi, ConsulConfig, ServiceRegistry
from registry_admin.discovery import registered
from registry_admin.discovery.registration.identity import advertised_address, resolve_spec
from registry_admin.errors import ConfigurationError, InvalidValueError

CONSUL = ConsulConfig()
ELSEWHERE = "203.0.113.1"  # an address for documentation, which no machine has
ENVIRON = {
    "SERVICE_NAME": "api", "SERVICE_ADDRESS": "10.1.2.3", "SERVICE_PORT": "8000", "SERVICE_TAGS": "a, b,,a",
    "SERVICE_ID": "api-1",
}  # fmt: skip


def test_resolve_spec_without_options_uses_the_environment():
    spec = resolve_spec(None, {}, environ=ENVIRON, consul=CONSUL)
    assert (spec.name, spec.address, spec.port, spec.tags, spec.id) == ("api", "10.1.2.3", 8000, ("a", "b"), "api-1")
    assert spec.check == CheckSpec(path="/health")


def test_resolve_spec_options_override_the_environment():
    options = {"address": "10.9.9.9", "port": 9000, "tags": ["c"], "service_id": "x", "meta": {"version": "2"}}
    spec = resolve_spec("web", {**options, "health_check_path": "/up"}, environ=ENVIRON, consul=CONSUL)
    assert (spec.name, spec.address, spec.port, spec.tags, spec.id) == ("web", "10.9.9.9", 9000, ("c",), "x")
    assert (spec.meta, spec.check.path) == ({"version": "2"}, "/up")


def test_resolve_spec_consul_on_loopback_gives_a_loopback_address():
    spec = resolve_spec("api", {"port": 8000}, environ={}, consul=ConsulConfig(host="localhost"))
    assert (spec.address, spec.id) == ("127.0.0.1", "api-127.0.0.1-8000")


@pytest.fixture
def own_address() -> str:
    """The address of this machine in its network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        try:
            route.connect((ELSEWHERE, 9))  # sends nothing
        except OSError:
            pytest.skip("this machine is in no network")
        return str(route.getsockname()[0])


@pytest.mark.network
def test_resolve_spec_agent_of_this_machine_gives_the_local_address_of_the_route_to_what_it_advertises(own_address):
    for advertised in (own_address, ELSEWHERE):  # such as that of an agent in a container
        spec = resolve_spec("api", {"port": 8000}, environ={}, consul=CONSUL, agent_address=lambda: advertised)  # noqa: B023
        assert (spec.address, spec.id) == (own_address, f"api-{own_address}-8000")


def test_resolve_spec_address_that_is_set_wins_over_the_agents():
    def unused() -> str:
        raise AssertionError

    spec = resolve_spec("api", {"port": 8000}, environ=ENVIRON, consul=CONSUL, agent_address=unused)
    assert spec.address == "10.1.2.3"


def test_advertised_address_is_that_of_the_agent(make_agent, own_address):
    agent = make_agent(settings={"bind_addr": "0.0.0.0", "advertise_addr": own_address})
    assert advertised_address(ConsulApi(agent.config)) == own_address


def test_registered_module_of_a_reachable_agent_is_registered_where_other_nodes_can_call_it(make_agent, own_address):
    agent = make_agent(settings={"bind_addr": "0.0.0.0", "advertise_addr": own_address})
    registry = ServiceRegistry(config=agent.config)
    check = CheckSpec(kind=CheckKind.NONE)
    with registered("job", registry=registry, port=1234, check=check) as registration:
        assert registration.wait(10)
        (instance,) = registry.discover_service("job")
    assert (instance.address, instance.id) == (own_address, f"job-{own_address}-1234")


def test_advertised_address_of_an_agent_on_loopback_is_loopback(consul_agent):
    assert advertised_address(ConsulApi(consul_agent.config)) == "127.0.0.1"


def test_advertised_address_that_the_token_may_not_ask_for_is_loopback_with_a_warning(guarded_agent, caplog):
    token = guarded_agent.make_token('service_prefix "" { policy = "write" }')
    config = ConsulConfig(host=guarded_agent.host, port=guarded_agent.port, token=token)
    assert advertised_address(ConsulApi(config)) == "127.0.0.1"
    assert "Set SERVICE_ADDRESS" in caplog.text
    assert "agent:read" in caplog.text
    assert token not in caplog.text


def test_resolve_spec_path_of_the_check_comes_from_the_option_or_the_environment():
    environ = {**ENVIRON, "SERVICE_HEALTH_CHECK_PATH": "/up"}
    assert resolve_spec(None, {}, environ=environ, consul=CONSUL).check.path == "/up"
    assert resolve_spec(None, {"health_check_path": None}, environ=environ, consul=CONSUL).check.path == "/up"
    assert resolve_spec(None, {"health_check_path": "/own"}, environ=environ, consul=CONSUL).check.path == "/own"


def test_resolve_spec_of_what_nobody_asks_needs_no_port():
    spec = resolve_spec("job", {"check": CheckSpec(kind=CheckKind.TTL)}, environ={}, consul=CONSUL)
    assert (spec.port, spec.id) == (0, "job-127.0.0.1")


@pytest.mark.parametrize("missing", ["SERVICE_NAME", "SERVICE_PORT"])
def test_resolve_spec_missing_value_is_named_in_the_error(missing):
    with pytest.raises(ConfigurationError, match=missing):
        resolve_spec(None, {}, environ={**ENVIRON, missing: ""}, consul=CONSUL)


@pytest.mark.parametrize("port", ["http", "80.5", "-1", "\u0668\u0660"])
def test_resolve_spec_port_that_is_no_number_is_refused(port):
    with pytest.raises(ConfigurationError, match="SERVICE_PORT"):
        resolve_spec(None, {}, environ={**ENVIRON, "SERVICE_PORT": port}, consul=CONSUL)


@pytest.mark.parametrize(
    ("name", "value"),
    [("SERVICE_PORT", "0"), ("SERVICE_PORT", "65536"), ("SERVICE_NAME", "a/b"), ("SERVICE_ID", "../x"),
     ("SERVICE_ADDRESS", "0.0.0.0"), ("SERVICE_ADDRESS", "169.254.169.254"), ("SERVICE_TAGS", "a\nb")],
)  # fmt: skip
def test_resolve_spec_invalid_value_is_refused(name, value):
    with pytest.raises(InvalidValueError):
        resolve_spec(None, {}, environ={**ENVIRON, name: value}, consul=CONSUL)
