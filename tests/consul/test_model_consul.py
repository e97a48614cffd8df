"""The model of Consul behaves as a real agent in all that the product asks: one suite runs against both."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from registry_admin.consul import CheckKind, CheckSpec, ConsulApi, ConsulConfig, Health, ServiceSpec
from registry_admin.consul.own_node import failing_on_one_side
from registry_admin.consul.snapshot import SnapshotReader
from registry_admin.errors import RegistryError
from tests.parts import ConsulAgent, wait_until
from tests.parts.model_consul import HOST, ModelConsul

pytestmark = pytest.mark.consul

MARKS = {"registry-owner": "us"}
Run = Callable[[], None]


@pytest.fixture(params=["real", "model"])
def consul(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ConsulApi, Run]]:
    """The API of an agent, and a function that runs its checks; nothing listens anywhere."""
    if request.param == "real":
        agent: ConsulAgent = request.getfixturevalue("consul_agent")
        agent.forget_services()
        api = ConsulApi(agent.config)
        yield api, lambda: None
        api.close()
        agent.forget_services()
        return
    model = ModelConsul("n1")
    with model.installed(monkeypatch):
        yield ConsulApi(ConsulConfig(host=HOST)), model.run_checks


def spec(instance_id: str = "a", **fields: Any) -> ServiceSpec:
    check = CheckSpec(kind=CheckKind.TCP, interval="1s", timeout="1s")
    return ServiceSpec(**{"name": "api", "address": "127.0.0.1", "port": 1, "id": instance_id, "check": check} | fields)


def shown(api: ConsulApi, instance_id: str = "a") -> tuple[Any, ...]:
    """Returns what a snapshot shows of an instance."""
    instance = SnapshotReader(api).read().local.get(instance_id)
    if instance is None:
        return ()
    statuses = sorted((check.id, check.status) for check in instance.checks if not check.id.startswith("serf"))
    return (
        instance.service, instance.address, instance.port, instance.tags, dict(instance.user_meta), instance.weight,
        instance.owner, statuses,
    )  # fmt: skip


def put(api: ConsulApi, *path: str, **body: Any) -> None:
    api.http.request("PUT", "/v1/agent/" + "/".join(path), data=json.dumps(body))


def test_registration_shows_what_was_sent_and_begins_as_critical(consul):
    api, _ = consul
    api.register(spec(tags=["x"], meta={"k": "v"}, weight=3, check=CheckSpec(interval="1h")), marks=MARKS)
    assert shown(api) == ("api", "127.0.0.1", 1, ("x",), {"k": "v"}, 3, "us", [("a:http", "critical")])


def test_registration_as_passing_is_passing(consul):
    api, _ = consul
    api.register(spec(check=CheckSpec(interval="1h")), marks=MARKS, status="passing")
    assert shown(api)[-1] == [("a:http", "passing")]


def test_registration_again_keeps_the_status_of_its_checks(consul):
    api, _ = consul
    hourly = CheckSpec(interval="1h")
    api.register(spec(check=hourly), marks=MARKS, status="passing")
    api.register(spec(port=2, tags=["y"], check=hourly), marks=MARKS)
    assert shown(api)[2:4] == (2, ("y",))
    assert shown(api)[-1] == [("a:http", "passing")]


def test_registration_with_another_check_keeps_the_former_one(consul):
    api, _ = consul
    api.register(spec(check=CheckSpec(interval="1h")), marks=MARKS, status="passing")
    api.register(spec(check=CheckSpec(kind=CheckKind.TTL, interval="1h")), marks=MARKS)
    assert shown(api)[-1] == [("a:http", "passing"), ("a:ttl", "critical")]
    api.deregister_check("a:http")
    assert shown(api)[-1] == [("a:ttl", "critical")]


def test_automatic_checks_are_named_after_the_service_and_its_position(consul):
    api, _ = consul
    put(api, "service", "register", Name="one", Check={"TTL": "1h", "Status": "passing"})
    put(api, "service", "register", Name="two", Checks=[{"TTL": "1h"}, {"TTL": "1h"}])
    assert shown(api, "one")[-1] == [("service:one", "passing")]
    assert shown(api, "two")[-1] == [("service:two:1", "critical"), ("service:two:2", "critical")]


def test_check_that_fails_turns_critical_with_an_output(consul):
    api, run_checks = consul
    api.register(spec(), marks=MARKS, status="passing")
    run_checks()
    wait_until(lambda: shown(api)[-1] == [("a:tcp", "critical")], 10, "the check to fail")
    instance = SnapshotReader(api).read().local["a"]
    assert (instance.health, instance.is_starting) == (Health.CRITICAL, False)


def test_maintenance_is_a_check_that_survives_a_registration(consul):
    api, _ = consul
    api.register(spec(check=CheckSpec(interval="1h")), marks=MARKS, status="passing")
    api.set_maintenance("a", enable=True, reason="why")
    api.register(spec(tags=["z"], check=CheckSpec(interval="1h")), marks=MARKS)
    instance = SnapshotReader(api).read().local["a"]
    assert (instance.health, instance.output) == (Health.MAINTENANCE, "why")
    api.set_maintenance("a", enable=False)
    assert shown(api)[-1] == [("a:http", "passing")]


def test_deregistration_takes_the_checks_along_and_an_unknown_id_is_no_error(consul):
    api, _ = consul
    api.register(spec(), marks=MARKS)
    api.deregister("a")
    api.deregister("a")
    assert shown(api) == ()
    assert api.agent_instance("a") is None
    assert [check for check in api.health_states().data if check["ServiceID"] == "a"] == []


def test_maintenance_of_an_unknown_id_is_refused(consul):
    api, _ = consul
    with pytest.raises(RegistryError):
        api.set_maintenance("nobody", enable=True, reason="why")


def test_entry_that_the_agent_has_not_is_an_orphan_until_it_is_taken_out_of_the_catalog(consul):
    api, _ = consul
    node = SnapshotReader(api).read().node

    def orphans() -> set[str]:  # anew each time: a real agent's sync may come in between and take them out
        for key in "ab":
            put_into_catalog(api, node, key)
        return set(SnapshotReader(api).read().catalog.orphans)

    wait_until(lambda: orphans() == {"a", "b"}, what="the orphans")
    assert {key: entry.id for key in "ab" if (entry := api.catalog_instance(node, key))} == {"a": "a", "b": "b"}
    api.deregister_from_catalog(node, "a")
    api.deregister_from_catalog(node, "a")
    assert (api.catalog_instance(node, "a"), api.agent_instance("b")) == (None, None)
    assert SnapshotReader(api).read().catalog.orphans.keys() == {"b"}
    api.deregister_from_catalog(node, "b")


def test_agent_that_has_told_the_catalog_does_not_differ_from_it(consul):
    api, run_checks = consul
    api.register(spec(), marks=MARKS)
    run_checks()
    wait_until(lambda: shown(api)[-1] == [("a:tcp", "critical")], 10, "the check to fail")
    wait_until(lambda: not SnapshotReader(api).read().catalog.ids, 10, "the catalog to be told")
    assert failing_on_one_side(api) == frozenset()
    assert {key: check.status for key, check in api.failing_checks().items()} == {"a:tcp": "critical"}


def put_into_catalog(api: ConsulApi, node: str, service_id: str) -> None:
    service = {"ID": service_id, "Service": "api", "Address": "127.0.0.1", "Port": 1, "Meta": MARKS}
    body = {"Node": node, "Address": "127.0.0.1", "SkipNodeUpdate": True, "Service": service}
    api.http.request("PUT", "/v1/catalog/register", data=json.dumps(body))


def test_catalog_shows_what_the_agent_has(consul):
    api, _ = consul
    api.register(spec(check=CheckSpec(kind=CheckKind.NONE)), marks=MARKS)
    wait_until(lambda: api.instances("api").data, 10, "the catalog")
    (instance,) = api.instances("api").data
    assert (instance.id, instance.port, instance.health) == ("a", 1, Health.PASSING)
    assert "api" in api.services().data
    assert instance.node == SnapshotReader(api).read().node
