"""Who a process says it is."""

from __future__ import annotations

import pytest

from registry_admin.consul import CheckSpec, ConsulConfig
from registry_admin.discovery.identity import own_spec
from registry_admin.errors import ConfigurationError, InvalidValueError

CONSUL = ConsulConfig()
ENVIRON = {
    "SERVICE_NAME": "api", "SERVICE_ADDRESS": "10.1.2.3", "SERVICE_PORT": "8000", "SERVICE_TAGS": "a, b,,a",
    "SERVICE_ID": "api-1",
}  # fmt: skip


def test_everything_can_come_from_the_environment():
    spec = own_spec(None, {}, environ=ENVIRON, consul=CONSUL)
    assert (spec.name, spec.address, spec.port, spec.tags, spec.id) == ("api", "10.1.2.3", 8000, ("a", "b"), "api-1")
    assert spec.check == CheckSpec(path="/health")


def test_what_the_code_says_comes_first():
    options = {"address": "10.9.9.9", "port": 9000, "tags": ["c"], "service_id": "x", "meta": {"version": "2"}}
    spec = own_spec("web", {**options, "health_check_path": "/up"}, environ=ENVIRON, consul=CONSUL)
    assert (spec.name, spec.address, spec.port, spec.tags, spec.id) == ("web", "10.9.9.9", 9000, ("c",), "x")
    assert (spec.meta, spec.check.path) == ({"version": "2"}, "/up")


def test_beside_a_consul_on_loopback_the_address_is_loopback():
    spec = own_spec("api", {"port": 8000}, environ={}, consul=ConsulConfig(host="localhost"))
    assert (spec.address, spec.id) == ("127.0.0.1", "api-127.0.0.1-8000")


@pytest.mark.parametrize("missing", ["SERVICE_NAME", "SERVICE_PORT"])
def test_what_is_missing_is_named(missing):
    with pytest.raises(ConfigurationError, match=missing):
        own_spec(None, {}, environ={**ENVIRON, missing: ""}, consul=CONSUL)


@pytest.mark.parametrize("port", ["http", "80.5", "-1", "\u0668\u0660"])
def test_a_port_must_be_a_number(port):
    with pytest.raises(ConfigurationError, match="SERVICE_PORT"):
        own_spec(None, {}, environ={**ENVIRON, "SERVICE_PORT": port}, consul=CONSUL)


@pytest.mark.parametrize(
    ("name", "value"),
    [("SERVICE_PORT", "0"), ("SERVICE_PORT", "65536"), ("SERVICE_NAME", "a/b"), ("SERVICE_ID", "../x"),
     ("SERVICE_ADDRESS", "0.0.0.0"), ("SERVICE_ADDRESS", "169.254.169.254"), ("SERVICE_TAGS", "a\nb")],
)  # fmt: skip
def test_what_consul_would_take_and_should_not_is_refused(name, value):
    with pytest.raises(InvalidValueError):
        own_spec(None, {}, environ={**ENVIRON, name: value}, consul=CONSUL)
