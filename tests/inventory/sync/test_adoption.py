"""Adoption of foreign instances and release of owned ones: the admin's actions against a real agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from registry_admin.consul import CheckKind, CheckSpec, Health, ServiceSpec
from registry_admin.consul.marks import META_OWNER, META_RELEASED, META_SELF, OWN_META, RESERVED_META
from registry_admin.inventory.models import Instance, ObservedInstance, Service, SyncRun, SyncStatus
from tests.fixtures.django import OWNER
from tests.parts import ConsulAgent, RecordingProxy, refusing_port, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

SERVICES = "/admin/inventory/service/"
OBSERVED = "/admin/inventory/observedinstance/"
NO_CHECK = CheckSpec(kind=CheckKind.NONE)


@pytest.fixture
def register_foreign(consul, consul_agent: ConsulAgent) -> Callable[..., str]:
    """`register_foreign(ID=…, Name=…, Check={…})`: registers an instance without our marks; returns the ID."""

    def register(**body: Any) -> str:
        body = {"ID": "legacy-1", "Name": "legacy", "Address": "127.0.0.1", "Port": 9001} | body
        consul_agent.request("PUT", "/v1/agent/service/register", body=body)
        return str(body["ID"])

    return register


@pytest.fixture
def adopt(operator, sync) -> Callable[..., str]:
    """`adopt("legacy-1")`: syncs, adopts as an operator and returns the messages of the page.

    `before` is called between the sync and the adoption.
    """

    def act(*ids: str, before: Callable[[], object] = lambda: None) -> str:
        sync()
        before()
        chosen = list(ObservedInstance.objects.filter(consul_id__in=ids).values_list("pk", flat=True))
        assert len(chosen) == len(ids)
        return submit(operator, OBSERVED, {"action": "adopt", "_selected_action": chosen, "confirmed": "yes"})

    return act


@pytest.fixture
def assert_in_sync(consul, sync) -> Callable[[str], None]:
    """`assert_in_sync("legacy-1")`: checks that it is owned and synced, and that a further sync is empty."""

    def look(instance_id: str) -> None:
        assert consul.agent_instances()[instance_id].owner == OWNER
        outcome = sync()
        assert (outcome.ok, outcome.results) == (True, ())
        assert Instance.objects.get(consul_id=instance_id).sync_status == SyncStatus.SYNCED

    return look


@pytest.fixture
def adopt_and_verify(adopt, assert_in_sync) -> Callable[[str], None]:
    """`adopt_and_verify("legacy-1")`: adopts, then checks as `assert_in_sync` does."""

    def act(instance_id: str) -> None:
        adopt(instance_id)
        assert_in_sync(instance_id)

    return act


@pytest.fixture
def release(operator) -> Callable[..., str]:
    """`release(service)`: releases with confirmation and returns the messages of the page."""

    def act(*services: Service) -> str:
        chosen = {"action": "release", "_selected_action": [service.pk for service in services]}
        return submit(operator, SERVICES, chosen | {"confirmed": "yes"})

    return act


@pytest.fixture
def recorder(own_agent: ConsulAgent, recording_proxy, use_consul) -> RecordingProxy:
    """Proxy between the product and its agent that can inject faults."""
    proxy: RecordingProxy = recording_proxy(own_agent)
    use_consul(proxy)
    return proxy


def submit(client: Client, where: str, data: dict[str, Any]) -> str:
    page = client.post(where, data, follow=True)
    assert page.status_code == 200
    return "\n".join(str(message) for message in page.context["messages"])


def passing(consul, instance_id: str) -> None:
    wait_until(lambda: consul.agent_instances()[instance_id].health is Health.PASSING, what="the instance to pass")


def marks(consul, instance_id: str) -> set[str]:
    return set(consul.agent_instances()[instance_id].meta) & OWN_META


# -- adoption ---------------------------------------------------------------------------------------------------------


def test_adopted_instance_is_declared_unchanged_and_owned(consul, register_foreign, adopt, assert_in_sync):
    instance_id = register_foreign(Tags=["blue", "old"], Meta={"team": "red"}, Weights={"Passing": 7, "Warning": 1})
    assert adopt(instance_id) == f"Declared as in Consul: {instance_id}.\nSynced with Consul: updated {instance_id}."
    row = Instance.objects.select_related("service").get()
    assert (row.service.name, row.address, row.port, row.weight) == ("legacy", "127.0.0.1", 9001, 7)
    assert (row.extra_tags, row.extra_meta) == (["blue", "old"], {"team": "red"})
    actual = consul.agent_instances()[instance_id]
    assert (actual.tags, dict(actual.user_meta), actual.weight) == (("blue", "old"), {"team": "red"}, 7)
    assert_in_sync(instance_id)


@pytest.mark.parametrize(
    "checks",
    [
        [{"HTTP": "http://127.0.0.1:{port}/", "Interval": "1s"}],
        [{"TCP": "127.0.0.1:{port}", "Interval": "1s"}],
        [{"HTTP": "http://127.0.0.1:{other}/", "Interval": "1s"}],
        [{"TCP": "127.0.0.1:{other}", "Interval": "1s"}],
        [{"HTTP": "http://127.0.0.1:{port}/", "Interval": "1s"}, {"TCP": "127.0.0.1:{other}", "Interval": "1s"}],
        [{"CheckID": "mine", "HTTP": "http://127.0.0.1:{port}/", "Interval": "1s"}],
        [{"HTTP": "http://127.0.0.1:{port}/", "Method": "POST", "Interval": "1s"}],
        [{"TTL": "1h", "Status": "passing"}],
    ],
    ids=["http", "tcp", "http elsewhere", "tcp elsewhere", "two", "custom ID", "by POST", "ttl"],
)
def test_adopt_instance_keeps_its_checks(consul, register_foreign, adopt_and_verify, http_service, checks):
    service, elsewhere = http_service(), http_service()
    ports = {"port": str(service.port), "other": str(elsewhere.port)}
    filled = [{key: _with(value, ports) for key, value in check.items()} for check in checks]
    instance_id = register_foreign(Port=service.port, Checks=filled)
    passing(consul, instance_id)
    before = sorted(check.id for check in consul.agent_instances()[instance_id].checks)
    adopt_and_verify(instance_id)
    assert Service.objects.get().check_kind == "keep"
    assert sorted(check.id for check in consul.agent_instances()[instance_id].checks) == before
    assert consul.agent_instances()[instance_id].health is Health.PASSING


def _with(value: str, ports: dict[str, str]) -> str:
    for name, port in ports.items():
        value = value.replace(f"{{{name}}}", port)
    return value


def test_adopt_instance_with_failing_check_keeps_that_check(consul, register_foreign, adopt, assert_in_sync):
    instance_id = register_foreign(Check={"HTTP": f"http://127.0.0.1:{refusing_port()}/", "Interval": "1s"})
    wait_until(lambda: consul.agent_instances()[instance_id].output, what="the check's output")
    adopt(instance_id)
    assert_in_sync(instance_id)
    assert [check.id for check in consul.agent_instances()[instance_id].checks] == [f"service:{instance_id}"]
    assert consul.agent_instances()[instance_id].health is Health.CRITICAL


def test_adopt_into_declared_service_uses_its_check_and_keeps_extra_tags_and_meta(
    consul, register_foreign, adopt_and_verify, declare, http_service
):
    service = http_service()
    declare("Legacy", 8001, tags=["blue"], meta={"team": "red"}, check_kind="http", check_path="/", check_interval="1s")
    instance_id = register_foreign(
        Port=service.port, Tags=["blue", "old"], Meta={"team": "red", "zone": "a"},
        Check={"HTTP": f"http://127.0.0.1:{service.port}/elsewhere", "Interval": "1s"},
    )  # fmt: skip
    passing(consul, instance_id)
    adopt_and_verify(instance_id)
    row = Instance.objects.get(consul_id=instance_id)
    assert (row.service.name, row.extra_tags, row.extra_meta) == ("Legacy", ["old"], {"zone": "a"})
    assert [check.id for check in consul.agent_instances()[instance_id].checks] == [f"{instance_id}:http"]


def test_adopt_several_instances_of_a_service_creates_a_single_declaration(
    consul, register_foreign, adopt, assert_in_sync
):
    ids = [register_foreign(ID=f"legacy-{number}", Port=9000 + number) for number in range(1, 8)]
    message = adopt(*ids)
    assert "Declared as in Consul: legacy-1, legacy-2, legacy-3, legacy-4, legacy-5 and 2 more." in message
    assert SyncRun.objects.get(trigger="save").updated == 7, "a single sync"
    assert Service.objects.get().instances.count() == 7
    for instance_id in ids:
        assert_in_sync(instance_id)


def test_adopted_self_registered_instance_keeps_its_mark(consul, adopt, sync):
    spec = ServiceSpec(name="module", address="127.0.0.1", port=9002, check=NO_CHECK)
    consul.register(spec, marks={META_SELF: spec.digest})
    adopt(spec.id)
    assert Instance.objects.get().claimed_node == ""
    assert sync().ok
    assert Instance.objects.get().sync_status == SyncStatus.SYNCED
    assert consul.agent_instances()[spec.id].registered_itself
    consul.deregister(spec.id)
    sync()
    assert consul.agent_instances() == {}, "a module that stops is not brought back without it"


def test_adopt_keeps_maintenance_mode(consul, register_foreign, adopt):
    instance_id = register_foreign()
    consul.set_maintenance(instance_id, enable=True, reason="disk")
    adopt(instance_id)
    assert consul.agent_instances()[instance_id].owner == OWNER
    assert consul.agent_instances()[instance_id].health is Health.MAINTENANCE


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"Meta": {META_OWNER: "them"}}, "another inventory owns it: them"),
        ({"Name": "odd name"}, "name: "),
        ({"ID": "odd id"}, "consul_id: "),
        ({"ID": "x" * 300}, "consul_id: "),
        ({"Address": "evil@host"}, "address: "),
        ({"Port": 70000}, "port: "),
        ({"Port": -1}, "port: "),
        ({"Tags": ["a\nb"]}, "extra_tags: "),
        ({"Name": "consul"}, "name: "),
        ({"Kind": "connect-proxy", "Proxy": {"DestinationServiceName": "web"}}, "it has Kind, Proxy"),
        ({"Connect": {"Native": True}}, "it has Connect"),
    ],
)
def test_adopt_undeclarable_instance_is_refused_with_its_reason(own_agent: ConsulAgent, adopt, body, reason, operator):
    body = {"ID": "legacy-1", "Name": "legacy", "Address": "127.0.0.1", "Port": 9001} | body
    own_agent.request("PUT", "/v1/agent/service/register", body=body)
    before = without_virtual(own_agent.request("GET", "/v1/agent/services"))
    message = adopt(body["ID"])
    assert message.startswith(f"{body['ID']}: ")
    assert reason in message
    assert "{" not in message
    assert (Service.objects.count(), Instance.objects.count()) == (0, 0)
    assert without_virtual(own_agent.request("GET", "/v1/agent/services")) == before


def without_virtual(services: dict[str, Any]) -> dict[str, Any]:
    """Returns the services without the address that newer servers give to those of the mesh, a moment later."""
    for service in services.values():
        service.get("TaggedAddresses", {}).pop("consul-virtual", None)
    return services


def test_adopt_declared_id_is_refused_regardless_of_case(consul, register_foreign, adopt, declare):
    declare("api", 8001)
    instance_id = register_foreign(ID="API-127.0.0.1-8001", Port=9001)
    assert adopt(instance_id) == f"{instance_id}: it is declared already"
    assert Instance.objects.count() == 1


def test_adopt_instance_at_a_declared_address_and_port_is_refused(consul, register_foreign, adopt, declare):
    declare("legacy", 9001)
    instance_id = register_foreign(ID="twin")
    assert "has an instance at this address and port already" in adopt(instance_id)


def test_adopt_instance_of_another_node_is_refused(consul, consul_agent, adopt):
    body = {"Node": "far", "Address": "10.0.0.9", "Service": {"ID": "far-1", "Service": "far", "Port": 80}}
    consul_agent.request("PUT", "/v1/catalog/register", body=body)
    try:
        message = adopt("far-1")
        assert message == "far-1: it is on node far, and can only be changed through that node's own agent"
    finally:
        consul_agent.request("PUT", "/v1/catalog/deregister", body={"Node": "far"})


def test_adopt_refused_instance_does_not_block_others(consul, register_foreign, adopt, assert_in_sync):
    good, bad = register_foreign(), register_foreign(ID="odd id", Port=9002)
    message = adopt(good, bad)
    assert "Declared as in Consul: legacy-1." in message
    assert "odd id: consul_id: " in message
    assert_in_sync(good)


def test_adopt_with_consul_away_declares_nothing_and_says_why(consul, register_foreign, adopt, proxied_consul):
    instance_id = register_foreign()
    message = adopt(instance_id, before=proxied_consul.cut)
    assert message.startswith(f"{instance_id}: ")
    assert "broke off the connection" in message
    proxied_consul.restore()
    assert (Service.objects.count(), consul.agent_instances()[instance_id].owner) == (0, "")


LOSSLESS = [
    {"Tags": ["a,b", "urlprefix-/foo strip=/foo"], "Meta": {"note": " x "}},
    {"Address": "", "Port": 0},
    {"ID": "_nomad-task-1b2c-web-http-8080"},
    {"ID": "/a/b"},
    {"ID": "a/b", "Address": ""},
    {"Weights": {"Passing": 7, "Warning": 0}},
    {"EnableTagOverride": True, "Tags": ["theirs"]},
    {"TaggedAddresses": {"wan": {"Address": "203.0.113.5", "Port": 80}, "virtual": {"Address": "10.9.9.9", "Port": 1}}},
]


@pytest.mark.parametrize("body", LOSSLESS, ids=" ".join)
def test_adopt_keeps_every_field_of_the_registration(own_agent: ConsulAgent, use_consul, adopt, sync, body):
    use_consul(own_agent)
    body = {"ID": "legacy-1", "Name": "legacy", "Address": "127.0.0.1", "Port": 9001} | body
    own_agent.request("PUT", "/v1/agent/service/register", body=body)
    before = own_agent.request("GET", "/v1/agent/services")[body["ID"]]
    adopt(body["ID"])
    after = own_agent.request("GET", "/v1/agent/services")[body["ID"]]
    assert after["Meta"].pop(META_OWNER) == OWNER
    assert {key: value for key, value in after["Meta"].items() if key not in RESERVED_META} == before["Meta"]
    assert {key: value for key, value in after.items() if key != "Meta"} == {
        key: value for key, value in before.items() if key != "Meta"
    }
    outcome = sync(force=True)
    assert (outcome.ok, outcome.results) == (True, ())


def test_adopted_checks_go_on_as_they_were_with_their_headers_and_interval(
    consul, register_foreign, adopt, assert_in_sync, http_service
):
    service = http_service()
    check = {
        "HTTP": f"http://127.0.0.1:{service.port}/ping", "Method": "POST", "Header": {"X-Key": ["secret"]},
        "Interval": "1s", "SuccessBeforePassing": 1,
    }  # fmt: skip
    tcp = {"CheckID": "theirs", "TCP": f"127.0.0.1:{service.port}", "Interval": "1s"}
    instance_id = register_foreign(Port=service.port, Checks=[check, tcp])
    passing(consul, instance_id)
    adopt(instance_id)
    assert_in_sync(instance_id)
    count = len(service.requests)
    wait_until(lambda: len(service.requests) > count + 1, 30, "two more runs of the check")
    request = service.requests[-1]
    assert (request.method, request.path, request.headers["X-Key"]) == ("POST", "/ping", "secret")
    declared = Service.objects.get()
    assert (declared.check_kind, declared.deregister_after) == ("keep", "")
    assert consul.agent_instances()[instance_id].evict_after == ""


def test_instance_released_and_adopted_again_still_has_its_check(
    consul, declare, release, *, adopt, assert_in_sync, http_service
):
    service = http_service()
    declared = declare("api", service.port, check_kind="http", check_path="/", check_interval="1s")
    instance_id = f"api-127.0.0.1-{service.port}"
    release(declared)
    adopt(instance_id)
    assert_in_sync(instance_id)
    assert [check.id for check in consul.agent_instances()[instance_id].checks] == [f"{instance_id}:http"]
    service.status = 500
    wait_until(lambda: consul.agent_instances()[instance_id].health is Health.CRITICAL, 30, "the check to fail")


def test_kept_checks_that_the_agent_has_lost_are_replaced_by_a_tcp_check(consul, register_foreign, adopt, sync):
    """Without any check a dead process would pass."""
    instance_id = register_foreign(Port=refusing_port(), Check={"TTL": "1h", "Status": "passing"})
    adopt(instance_id)
    consul.deregister(instance_id)
    assert sync().ok
    assert [check.id for check in consul.agent_instances()[instance_id].checks] == [f"{instance_id}:keep"]
    wait_until(lambda: consul.agent_instances()[instance_id].output, 30, "the check's output")
    assert consul.agent_instances()[instance_id].health is Health.CRITICAL
    assert sync(force=True).results == ()


def test_tags_that_others_change_stay_after_an_update(consul_agent: ConsulAgent, consul, register_foreign, adopt, sync):
    instance_id = register_foreign(EnableTagOverride=True, Tags=["v1"])
    adopt(instance_id)
    node = consul_agent.request("GET", "/v1/agent/self")["Config"]["NodeName"]
    body = {"Node": node, "Address": "127.0.0.1", "SkipNodeUpdate": True, "Service": {
        "ID": instance_id, "Service": "legacy", "Address": "127.0.0.1", "Port": 9001, "Tags": ["v2"],
        "EnableTagOverride": True, "Meta": dict(consul.agent_instances()[instance_id].meta),
    }}  # fmt: skip
    consul_agent.request("PUT", "/v1/catalog/register", body=body)
    wait_until(lambda: consul.agent_instances()[instance_id].tags == ("v2",), 180, "the agent to take the tags over")
    assert sync(force=True).results == ()
    Instance.objects.get().service.instances.update(weight=5)
    assert sync(force=True).ok
    actual = consul.agent_instances()[instance_id]
    assert (actual.weight, actual.tags, actual.tag_override) == (5, ("v2",), True)


def test_adopt_page_shows_field_by_field_what_would_change(
    operator, consul, register_foreign, *, sync, declare, http_service
):
    service = http_service()
    declare("legacy", 8001, tags=["blue"], meta={"team": "red"}, check_kind="http", check_path="/", check_interval="7s")
    instance_id = register_foreign(
        Port=service.port, Tags=["old"], Meta={"team": "green"},
        Check={"TCP": f"127.0.0.1:{service.port}", "Interval": "1s"},
    )  # fmt: skip
    passing(consul, instance_id)
    sync()
    chosen = ObservedInstance.objects.get(consul_id=instance_id).pk
    page = operator.post(OBSERVED, {"action": "adopt", "_selected_action": [chosen]})
    ((listed, effect),) = page.context["items"]
    assert listed == instance_id
    assert "tags: ['old'] -> ['blue', 'old']" in effect
    assert f"check service:{instance_id}: tcp" in effect
    assert "headers, TLS, thresholds, eviction" in effect
    assert "http, http:/, every 7s" in effect
    assert "meta" not in effect
    assert Instance.objects.filter(consul_id=instance_id).count() == 0
    assert consul.agent_instances()[instance_id].owner == ""


def test_adopt_into_a_service_whose_check_fails_on_it_is_refused(
    consul, register_foreign, adopt, declare, http_service
):
    service = http_service(status=404)
    declare("legacy", 8001, check_kind="http", check_path="/health", check_interval="1s")
    instance_id = register_foreign(Port=service.port, Check={"TCP": f"127.0.0.1:{service.port}", "Interval": "1s"})
    passing(consul, instance_id)
    message = adopt(instance_id)
    assert "the check of service legacy fails on it (answered with status 404)" in message
    assert consul.agent_instances()[instance_id].owner == ""
    assert consul.agent_instances()[instance_id].health is Health.PASSING


def test_adopt_connects_to_no_target_that_is_refused(register_foreign, adopt, *, declare, http_service, settings):
    service = http_service()
    declare("legacy", 8001, check_kind="http", check_path="/health", check_interval="1s")
    instance_id = register_foreign(Port=service.port, Check={"TTL": "60s", "Status": "passing"})
    settings.REGISTRY = settings.REGISTRY | {"CHECK_REFUSED_PORTS": str(service.port)}
    assert "checks of this port are refused" in adopt(instance_id)
    assert service.requests == []


def test_adopt_on_the_service_page_leaves_what_would_be_changed(operator, consul, register_foreign, sync, declare):
    declare("legacy", 8001, tags=["blue"], check_kind="none")
    instance_id = register_foreign(Tags=["old"])
    sync()
    text = submit(operator, "/services/legacy/", {"action": "adopt"})
    assert "tags: ['old'] -> ['blue', 'old']" in text
    assert "confirm that" in text
    assert consul.agent_instances()[instance_id].owner == ""


def test_adopt_without_permission_to_declare_is_refused(consul, register_foreign, sync, make_user, client_of):
    instance_id = register_foreign()
    sync()
    chosen = ObservedInstance.objects.get().pk
    client = client_of(make_user("view_observedinstance", "add_service"))
    assert b'value="adopt"' not in client.get(OBSERVED).content
    client.post(OBSERVED, {"action": "adopt", "_selected_action": [chosen], "confirmed": "yes"})
    assert Service.objects.count() == 0
    assert consul.agent_instances()[instance_id].owner == ""


# -- release ----------------------------------------------------------------------------------------------------------


def test_released_instance_stays_without_marks_and_later_syncs_leave_it_alone(
    consul, declare, release, sync, http_service
):
    service = http_service()
    declared = declare("api", service.port, tags=["blue"], meta={"k": "v"}, check_kind="http", check_path="/")
    instance_id = f"api-127.0.0.1-{service.port}"
    assert marks(consul, instance_id)
    message = release(declared)
    assert f"Released, and left in Consul as they are: {instance_id}." in message
    actual = consul.agent_instances()[instance_id]
    assert (actual.tags, dict(actual.user_meta), [check.id for check in actual.checks]) == (
        ("blue",), {"k": "v"}, [f"{instance_id}:http"]
    )  # fmt: skip
    assert (Service.objects.count(), Instance.objects.count()) == (0, 0)
    for _ in range(2):
        assert sync(force=True).results == ()
    assert ObservedInstance.objects.get().sync_status == SyncStatus.UNMANAGED
    assert marks(consul, instance_id) == set()


def test_released_instance_keeps_manual_edits(consul, consul_agent, declare, release):
    declared = declare("api", 8001, tags=["blue"])
    instance_id = "api-127.0.0.1-8001"
    meta = dict(consul.agent_instances()[instance_id].meta)
    body = {"ID": instance_id, "Name": "api", "Address": "127.0.0.1", "Port": 9999, "Tags": ["red"], "Meta": meta}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    release(declared)
    actual = consul.agent_instances()[instance_id]
    assert (actual.port, actual.tags, dict(actual.user_meta)) == (9999, ("red",), {})


def test_release_keeps_maintenance_mode(consul, declare, release):
    declared = declare("api", 8001)
    consul.set_maintenance("api-127.0.0.1-8001", enable=True, reason="disk")
    release(declared)
    assert consul.agent_instances()["api-127.0.0.1-8001"].health is Health.MAINTENANCE


def test_release_during_a_replacement_takes_the_mark_off_the_former_id_too(consul, declare, release, sync):
    declared = declare("api", 8001, check_kind="tcp", check_interval="1h")
    sync()
    Instance.objects.update(port=8002, consul_id="api-new", replaces=["api-127.0.0.1-8001"])
    sync()
    assert consul.agent_instances().keys() == {"api-127.0.0.1-8001", "api-new"}
    release(declared)
    assert {key: marks(consul, key) for key in consul.agent_instances()} == {
        "api-127.0.0.1-8001": set(), "api-new": set(),
    }  # fmt: skip
    assert sync(force=True).results == ()
    assert consul.agent_instances()["api-127.0.0.1-8001"].port == 8001


def test_released_self_registered_instance_is_unchanged(consul, declare, release):
    spec = ServiceSpec(name="api", address="127.0.0.1", port=8001, check=NO_CHECK)
    consul.register(spec, marks={META_SELF: spec.digest})
    declared = declare("api", 8001)
    before = consul.agent_instances()
    release(declared)
    assert consul.agent_instances() == before
    assert Service.objects.count() == 0


def test_release_of_disabled_service_deletes_it_and_registers_no_instance(consul, declare, release, sync):
    declared = declare("api", 8001, enabled=False)
    release(declared)
    assert Service.objects.count() == 0
    sync()
    assert consul.agent_instances() == {}


def test_release_of_service_without_instances_deletes_it(consul, declare, release):
    release(declare("lonely"))
    assert Service.objects.count() == 0


def test_release_leaves_foreign_instance_with_declared_id_unchanged(consul, register_foreign, declare, release):
    instance_id = register_foreign(ID="api-127.0.0.1-8001", Tags=["theirs"])
    declared = declare("api", 8001)
    before = consul.agent_instances()[instance_id]
    release(declared)
    assert consul.agent_instances()[instance_id] == before


def test_release_with_consul_away_changes_and_deletes_no_instance(consul, declare, release, proxied_consul, sync):
    declared = declare("api", 8001)
    proxied_consul.cut()
    message = release(declared)
    assert "Nothing was released: " in message
    assert Instance.objects.get().released is False
    assert marks(consul, "api-127.0.0.1-8001")
    proxied_consul.restore()
    assert sync().results == ()


def test_release_refused_by_consul_keeps_that_instance_declared_and_synced(own_agent, recorder, declare, release, sync):
    declared = declare("api", 8001, 8002)
    recorder.inject_fault("^PUT /v1/agent/service/register", containing='"api-127.0.0.1-8002"', status=500)
    message = release(declared)
    recorder.restore()
    assert "left in Consul as they are: api-127.0.0.1-8001." in message
    assert "api-127.0.0.1-8002: " in message
    assert [(row.consul_id, row.released) for row in Instance.objects.all()] == [("api-127.0.0.1-8002", False)]
    sync()
    owners = {
        key: registered["Meta"].get(META_OWNER, "")
        for key, registered in own_agent.request("GET", "/v1/agent/services").items()
    }
    assert owners == {"api-127.0.0.1-8001": "", "api-127.0.0.1-8002": OWNER}


def test_release_without_confirmation_asks_and_changes_no_instance(consul, declare, operator):
    declared = declare("api", 8001)
    before = consul.agent_instances()
    chosen = {"action": "release", "_selected_action": [declared.pk]}
    page = operator.post(SERVICES, chosen).content.decode()
    assert "Yes, release them" in page
    assert "1 service(s) with 1 instance(s) will be deleted here" in page
    operator.get(SERVICES, chosen | {"confirmed": "yes"})
    assert (Service.objects.count(), consul.agent_instances()) == (1, before)


@pytest.mark.parametrize("permissions", [("view_service",), ("view_service", "change_service", "add_service")])
def test_release_without_permission_to_delete_is_refused(consul, declare, make_user, client_of, permissions):
    declared = declare("api", 8001)
    before = consul.agent_instances()
    client = client_of(make_user(*permissions))
    assert b'value="release"' not in client.get(SERVICES).content
    client.post(SERVICES, {"action": "release", "_selected_action": [declared.pk], "confirmed": "yes"})
    assert (Service.objects.count(), consul.agent_instances()) == (1, before)


def test_released_instances_stay_unmanaged_while_a_watcher_runs(
    own_agent: ConsulAgent, watch, release, settings, environment
):
    """The watcher is a process with the lease; each release is a further chance of a race."""
    if "sqlite" in environment["DATABASE_URL"]:
        pytest.skip("processes have their own database file there")
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}
    check = {"check_kind": "tcp", "check_interval": "1s", "check_timeout": "1s", "deregister_after": "2s"}
    watcher = watch()
    ids = set()
    for number in range(8):
        service = Service.objects.create(name=f"api-{number}", **check)
        for _ in range(3):
            port = refusing_port()
            Instance.objects.create(service=service, address="127.0.0.1", port=port)
            ids.add(f"api-{number}-127.0.0.1-{port}")
        wait_until(lambda: ids <= set(own_agent.request("GET", "/v1/agent/services")), 20, "the instances in Consul")
        release(service)
    services = own_agent.request("GET", "/v1/agent/services")
    unmanaged = ObservedInstance.objects.filter(sync_status="unmanaged", consul_id__in=ids)
    wait_until(lambda: unmanaged.count() == len(ids), 20, "the watcher to mirror them")
    assert services.keys() == set(ids)
    assert {tuple(registered["Meta"]) for registered in services.values()} == {(META_RELEASED,)}
    own_agent.request("PUT", "/v1/agent/service/register", body={"Name": "latecomer"})
    wait_until(lambda: ObservedInstance.objects.filter(consul_id="latecomer").exists(), 20, "another sync")
    assert ids <= set(own_agent.request("GET", "/v1/agent/services"))
    assert "event=deregister" not in watcher.log
    assert watcher.stop() == 0
