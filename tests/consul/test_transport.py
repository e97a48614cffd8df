"""Requests that are refused before anything is sent. Without sockets, a request that is sent would fail."""

from __future__ import annotations

import os

import pytest
import responses

from registry_admin.consul import CheckSpec, ConsulApi, ConsulConfig, ServiceRegistry, ServiceSpec
from registry_admin.consul.transport import Transport
from registry_admin.errors import InvalidValueError

HOSTILE_IDS = [
    "../../leave",
    "..",
    ".",
    "a//b",
    "//a",
    "a/",
    "/..",
    "a/./b",
    "a%2Fb",
    "a?x#y",
    "",
    "a\nb",
    "a" * 300,
    None,
    5,
    "a/../../leave",
    "ａ",
]


@pytest.fixture
def api():
    return ConsulApi(ConsulConfig(token="hunter2"))


@pytest.mark.parametrize("bad", HOSTILE_IDS)
@pytest.mark.parametrize(
    "call",
    [
        lambda api, bad: api.deregister(bad),
        lambda api, bad: api.deregister_check(bad),
        lambda api, bad: api.set_maintenance(bad, enable=True),
        lambda api, bad: api.update_ttl(bad, "passing"),
        lambda api, bad: api.agent_instance(bad),
        lambda api, bad: api.instances(bad),
    ],
)
def test_hostile_id_is_refused_by_every_method(api, call, bad):
    with pytest.raises(InvalidValueError):
        call(api, bad)


@pytest.mark.parametrize(
    "call",
    [
        lambda api: api.instances("a", tag="x\ny"),
        lambda api: api.instances("a", tag=""),
        lambda api: api.update_ttl("a", "fine"),
        lambda api: api.set_maintenance("a", enable=True, reason="a\nb"),
        lambda api: api.set_maintenance("a", enable=True, reason="a" * 513),
        lambda api: api.set_maintenance("a", enable=True, reason="\ud800"),
        lambda api: api.register(ServiceSpec(name="a", address="h", port=1), marks={"a b": "x"}),
        lambda api: api.register(ServiceSpec(name="a", address="h", port=1), marks={"consul-x": "x"}),
    ],
)
def test_other_bad_values_are_refused(api, call):
    with pytest.raises(InvalidValueError):
        call(api)


@pytest.mark.parametrize(
    "changes",
    [{"name": "../x"}, {"address": "http://h"}, {"port": "80"}, {"tags": "api"}, {"meta": {"a": 1}},
    {"health_check_interval": "10"},
     {"deregister_after": "0s"}, {"weight": 0}, {"service_id": "a//b"}, {"health_check_path": "//evil"}],
)  # fmt: skip
def test_registry_refuses_bad_values_before_anything_is_sent(changes):
    registry = ServiceRegistry()
    with pytest.raises(InvalidValueError):
        registry.register_service(**{"name": "a", "address": "127.0.0.1", "port": 80} | changes)


@pytest.mark.parametrize(
    "path", ["/v1/kv/../agent/leave", "/v1/kv/a/./b", "/v1/kv//b", "/v2/x", "v1/kv", "/v1/..", "/v1/.", ""]
)
def test_path_can_not_reach_another_endpoint_through_the_library(api, path):
    with pytest.raises(InvalidValueError):
        api.http.get(lambda _response: None, path)
    with pytest.raises(InvalidValueError):
        api.kv.delete("../agent/leave")
    with pytest.raises(InvalidValueError):
        api.agent.service.deregister("../../leave")


@pytest.mark.parametrize("token", ["hunter2\r\nX: y", "hunter2 x"])
def test_bad_token_for_one_request_is_refused_and_never_shown(api, token):
    with pytest.raises(InvalidValueError) as caught:
        api.kv.get("a", token=token)
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "localhost"), ("127.0.0.1", "LOCALHOST"), ("127.0.0.1",
        "127.9.9.9"),
        ("127.0.0.1", "::1"), ("127.0.0.1", "::ffff:127.0.0.1"), ("127.0.0.1", "x.localhost"), ("localhost",
        "127.0.0.1"),
        ("consul", "consul"), ("consul", "CONSUL"), ("10.0.0.5", "10.0.0.5"),
        ("10.0.0.5", "127.0.0.1"),  # the agent's own machine, since it is the agent that calls
    ],
)  # fmt: skip
def test_check_must_not_be_pointed_at_consul_itself(host, address):
    api = ConsulApi(ConsulConfig(host=host, port=8500))
    with pytest.raises(InvalidValueError):
        api.register(ServiceSpec(name="a", address=address, port=8500, check=CheckSpec(path="/v1/kv/secret")), marks={})


def test_other_ports_and_hosts_may_be_checked():
    ConsulApi(ConsulConfig(port=8500)).refuse_own_port("127.0.0.1", 8501)
    ConsulApi(ConsulConfig(port=8500)).refuse_own_port("10.0.0.5", 8500)


def test_constructor_does_not_read_the_environment_over_what_it_is_given(monkeypatch):
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "http://elsewhere:1")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "another")
    monkeypatch.setenv("CONSUL_HTTP_SSL", "true")
    api = ConsulApi(ConsulConfig(host="10.0.0.5", token="hunter2"))
    assert api.http.base_uri == "http://10.0.0.5:8500"
    assert sent_by(api.http)["X-Consul-Token"] == "hunter2"
    assert ConsulApi().config.url == "https://elsewhere:1"


def test_token_is_not_part_of_what_is_printed(api):
    assert "hunter2" not in f"{api!r} {api.config!r} {ServiceRegistry(config=api.config)!r}"
    assert api.token is None


def test_forked_child_gets_connections_of_its_own(monkeypatch):
    transport = Transport(ConsulConfig(token="hunter2"))
    parents = transport.adapter
    assert transport.adapter is parents
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert transport.adapter is not parents
    assert transport.adapter is transport.adapter
    assert sent_by(transport)["X-Consul-Token"] == "hunter2"


@pytest.mark.parametrize(
    ("method", "data", "body", "length"),
    [
        ("PUT", "", b"", "0"), ("PUT", None, b"", "0"), ("PUT", "é", "é".encode(), "2"), ("PUT", b"\x00", b"\x00", "1"),
        ("DELETE", "", b"", "0"), ("GET", "", None, None),
    ],
)  # fmt: skip
def test_body_goes_out_as_bytes_of_a_known_length(method, data, body, length):
    prepared = sent(Transport(ConsulConfig()), method=method, data=data)
    assert (prepared.body, prepared.headers.get("Content-Length")) == (body, length)


def test_responses_library_replaces_the_wire():
    with responses.RequestsMock() as wire:
        wire.get("http://127.0.0.1:8500/v1/status/leader", json="10.0.0.1:8300", headers={"X-Consul-Index": "5"})
        assert ConsulApi(ConsulConfig()).leader() == "10.0.0.1:8300"
        assert wire.calls[0].request.headers["Accept-Encoding"] == "identity"


def sent(transport, *, method="GET", data=""):
    """The request that goes to the wire."""
    with responses.RequestsMock() as wire:
        wire.add(method, "http://127.0.0.1:8500/v1/kv/a", json={})
        wire.add(method, "http://10.0.0.5:8500/v1/kv/a", json={})
        wire.assert_all_requests_are_fired = False
        transport.request(method, "/v1/kv/a", data=data)
        return wire.calls[0].request


def sent_by(transport):
    """The headers of a request."""
    return sent(transport).headers
