"""ServiceRegistry on a real agent: the calls that a module or a script makes."""

from __future__ import annotations

import json
import threading

import pytest
import requests

from registry_admin.consul import CheckSpec, Health, ServiceRegistry, ServiceSpec
from registry_admin.consul.marks import META_SELF
from registry_admin.errors import NoHealthyInstanceError, NoSuchServiceError
from tests.parts import wait_until


@pytest.fixture
def registry(agent):
    """On both agents, unlike the one that other modules use."""
    registry = ServiceRegistry(config=agent.config)
    yield registry
    registry.api.close()


HOUR = CheckSpec(kind="ttl", interval="1h")


def test_module_registers_is_found_and_leaves(registry, http_service):
    service = http_service()
    service_id = registry.register_service(
        name="backend-api", address="127.0.0.1", port=service.port, tags=["api", "backend"], health_check_interval="1s"
    )
    assert service_id == f"backend-api-127.0.0.1-{service.port}"
    wait_until(lambda: registry.discover_service("backend-api"), what="passing")
    assert sorted(registry.discover_all_services()["backend-api"]) == ["api", "backend"]
    assert registry.get_service_url("backend-api") == service.url
    (result,) = registry.discover_service("backend-api", tag="api")
    assert (result.id, result.health, result.registered_itself, result.owner) == (service_id, Health.PASSING, True, "")
    assert {request.path for request in service.requests} == {"/health"}
    registry.deregister_service(service_id)
    wait_until(lambda: "backend-api" not in registry.discover_all_services(), what="being gone")
    assert registry.discover_service("backend-api", passing=False) == []
    registry.deregister_service(service_id)


def test_every_option_reaches_the_agent(registry, http_service):
    service = http_service()
    service_id = registry.register_service(
        "backend-api", "127.0.0.1", service.port, ["api"], service_id="mine", meta={"version": "2"}, weight=5,
        health_check_path="/ready", health_check_interval="1s", health_check_timeout="2s", deregister_after="1h",
    )  # fmt: skip
    assert service_id == "mine"
    wait_until(lambda: service.requests, what="the first check")
    assert service.requests[0].path == "/ready"
    expected = ServiceSpec(
        name="backend-api", address="127.0.0.1", port=service.port, id="mine", tags=("api",), meta={"version": "2"},
        weight=5,
        check=CheckSpec(path="/ready", interval="1s", timeout="2s", deregister_after="1h"),
    )  # fmt: skip
    actual = registry.api.agent_instances()["mine"]
    assert (actual.tags, actual.user_meta, actual.weight) == (("api",), {"version": "2"}, 5)
    assert actual.digest == actual.meta[META_SELF] == expected.digest


def test_check_of_another_kind_replaces_the_first(registry):
    for check in (CheckSpec(interval="1h"), CheckSpec(kind="tcp", interval="1h"), HOUR):
        registry.register_service("backend-api", "127.0.0.1", 8000, check=check)
        (actual,) = registry.api.agent_instances()["backend-api-127.0.0.1-8000"].checks
        assert actual.id == f"backend-api-127.0.0.1-8000:{check.kind}"
    registry.register_service("backend-api", "127.0.0.1", 8000, check=CheckSpec(kind="none"))
    assert registry.api.agent_instances()["backend-api-127.0.0.1-8000"].checks == ()


def test_urls_take_turns_among_the_healthy(registry):
    for port in (8001, 8002, 8003):
        registry.register_service("backend-api", "127.0.0.1", port, check=CheckSpec(kind="none"))
    registry.register_service("backend-api", "127.0.0.1", 8004, check=HOUR)  # critical: never told
    wait_until(lambda: len(registry.discover_service("backend-api", passing=False)) == 4, what="the catalog")
    urls = [registry.get_service_url("backend-api") for _ in range(6)]
    assert sorted(urls) == sorted(2 * [f"http://127.0.0.1:{port}" for port in (8001, 8002, 8003)])
    assert urls[:3] == urls[3:]


def test_turns_are_kept_by_threads_together(registry):
    for port in (8001, 8002):
        registry.register_service("backend-api", "127.0.0.1", port, check=CheckSpec(kind="none"))
    wait_until(lambda: len(registry.discover_service("backend-api")) == 2, what="the catalog")
    urls = []
    threads = [
        threading.Thread(target=lambda: urls.extend(registry.get_service_url("backend-api") for _ in range(10)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(urls) == sorted(20 * [f"http://127.0.0.1:{port}" for port in (8001, 8002)])


def test_url_by_tag_and_by_the_scheme_in_meta(registry):
    registry.register_service(
        "backend-api", "::1", 8001, ["v6"], meta={"scheme": "https"}, check=CheckSpec(kind="none")
    )
    registry.register_service("backend-api", "127.0.0.1", 8002, ["v4"], check=CheckSpec(kind="none"))
    wait_until(lambda: len(registry.discover_service("backend-api")) == 2, what="the catalog")
    assert registry.get_service_url("backend-api", tag="v6") == "https://[::1]:8001"
    assert registry.get_service_url("backend-api", tag="v4") == "http://127.0.0.1:8002"


def test_service_that_nobody_registered_is_an_error_that_names_it(registry):
    assert registry.discover_service("no-such") == []
    with pytest.raises(NoSuchServiceError, match="no-such") as caught:
        registry.get_service_url("no-such")
    assert caught.value.service == "no-such"


def test_service_without_a_healthy_instance_is_an_error_that_says_why(registry):
    registry.register_service("backend-api", "127.0.0.1", 8001, check=HOUR)
    registry.api.update_ttl("backend-api-127.0.0.1-8001:ttl", "warning", output="disk\x1b[31m full")
    registry.register_service("backend-api", "127.0.0.1", 8002, check=CheckSpec(kind="none"))
    registry.api.set_maintenance("backend-api-127.0.0.1-8002", enable=True, reason="upgrade")
    both = ("warning (disk\\x1b[31m full)", "maintenance (upgrade)")

    def error():
        with pytest.raises((NoHealthyInstanceError, NoSuchServiceError)) as caught:
            registry.get_service_url("backend-api")
        return str(caught.value)

    wait_until(lambda: all(text in error() for text in both), what="both reasons")


@pytest.mark.parametrize(
    ("address", "port"), [("evil@host", 80), ("169.254.169.254", 80), ("127.0.0.1", 0), ("a/b", 80)]
)
def test_instance_that_could_mean_another_host_is_never_told(registry, agent, address, port):
    body = {"ID": "odd", "Name": "backend-api", "Address": address, "Port": port}
    agent.request("PUT", "/v1/agent/service/register", body=body)
    wait_until(lambda: registry.discover_service("backend-api"), what="the catalog")
    with pytest.raises(NoHealthyInstanceError, match="can't be called"):
        registry.get_service_url("backend-api")


def test_registry_finds_its_agent_in_the_environment(agent, monkeypatch):
    for name, value in agent.env.items():
        monkeypatch.setenv(name, value)
    registry = ServiceRegistry.from_env()
    assert registry.api.config == agent.config
    assert registry.api.leader()
    registry.api.close()


def test_unknown_service_without_a_token_may_be_hidden_and_the_error_says_so(versioned_guarded):
    """Consul tells its default policy from 1.9 on."""
    hidden = ServiceRegistry(host=versioned_guarded.host, port=versioned_guarded.port)
    with pytest.raises(NoSuchServiceError, match=r"without a token, and may hide it: .* CONSUL_HTTP_TOKEN"):
        hidden.get_service_url("backend-api")
    seeing = ServiceRegistry(config=versioned_guarded.config)
    with pytest.raises(NoSuchServiceError, match="check the name, or register an instance of it"):
        seeing.get_service_url("backend-api")


def test_discover_service_leaves_out_what_does_not_pass_though_consul_lists_it(registry, agent, recording_proxy):
    """Servers older than the agent ignore `passing`."""
    registry.register_service("backend-api", "127.0.0.1", 8000, check=HOUR)
    unfiltered = wait_until(lambda: agent.request("GET", "/v1/health/service/backend-api"), what="the catalog")
    proxy = recording_proxy(agent)
    proxy.inject_fault("passing", body=json.dumps(unfiltered).encode())
    between = ServiceRegistry(config=proxy.config)
    assert between.discover_service("backend-api") == []
    assert len(between.discover_service("backend-api", passing=False)) == 1


def test_service_with_fields_of_newer_versions_is_called_at_its_default_port(versioned):
    ports = [{"Name": "admin", "Port": 8001}, {"Name": "http", "Port": 8002, "Default": True}]
    is_newest = versioned.profile.has_several_ports
    body = {"Name": "backend-api", "Address": "10.0.0.1", "Locality": {"Region": "eu-1"}}
    body |= {"Ports": ports} if is_newest else {"Port": 8002}
    assert requests.put(f"{versioned.url}/v1/agent/service/register", json=body, timeout=10).ok
    registry = ServiceRegistry(config=versioned.config)
    wait_until(lambda: registry.discover_service("backend-api"), what="the catalog")
    assert registry.get_service_url("backend-api") == "http://10.0.0.1:8002"
    expected = ("Ports", "Locality") if is_newest else ("Locality",)
    for instance in (*registry.api.agent_instances().values(), *registry.discover_service("backend-api")):
        assert (instance.port, instance.uncarried) == (8002, expected)
