"""Taking over what someone else registered, and letting go of what is ours: on a real agent, by the admin's actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from registry_admin.consul import CheckKind, CheckSpec, Health, ServiceSpec
from registry_admin.consul.types import META_OWNER, META_SELF, RESERVED_META
from registry_admin.inventory.models import Instance, ObservedInstance, Service, SyncRun, SyncStatus
from registry_admin.inventory.passes import Pass
from tests.inventory.conftest import OWNER
from tests.parts import ConsulAgent, RecordingProxy, free_port, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

SERVICES = "/admin/inventory/service/"
OBSERVED = "/admin/inventory/observedinstance/"
NO_CHECK = CheckSpec(kind=CheckKind.NONE)


@pytest.fixture
def by_hand(consul, consul_agent: ConsulAgent) -> Callable[..., str]:
    """`by_hand(ID=…, Name=…, Check={…})`: registered as somebody does who doesn't know us; returns the ID."""

    def register(**body: Any) -> str:
        body = {"ID": "legacy-1", "Name": "legacy", "Address": "127.0.0.1", "Port": 9001} | body
        consul_agent.request("PUT", "/v1/agent/service/register", body=body)
        return str(body["ID"])

    return register


@pytest.fixture
def adopt(operator, sync) -> Callable[..., str]:
    """`adopt("legacy-1")`: looks, and adopts as an operator does; returns what the page then says.

    `before` is called in between.
    """

    def act(*ids: str, before: Callable[[], object] = lambda: None) -> str:
        sync()
        before()
        chosen = list(ObservedInstance.objects.filter(consul_id__in=ids).values_list("pk", flat=True))
        assert len(chosen) == len(ids)
        return said(operator, OBSERVED, {"action": "adopt", "_selected_action": chosen, "confirmed": "yes"})

    return act


@pytest.fixture
def at_rest(consul, sync) -> Callable[[str], None]:
    """`at_rest("legacy-1")`: it is ours and in sync, and one more pass has nothing to do."""

    def look(instance_id: str) -> None:
        assert consul.agent_instances()[instance_id].owner == OWNER
        outcome = sync()
        assert (outcome.ok, outcome.results) == (True, ())
        assert Instance.objects.get(consul_id=instance_id).sync_status == SyncStatus.SYNCED

    return look


@pytest.fixture
def adopt_to_rest(adopt, at_rest) -> Callable[[str], None]:
    """Both."""

    def act(instance_id: str) -> None:
        adopt(instance_id)
        at_rest(instance_id)

    return act


@pytest.fixture
def release(operator) -> Callable[..., str]:
    """`release(service)`: with the confirmation; returns what the page then says."""

    def act(*services: Service) -> str:
        chosen = {"action": "release", "_selected_action": [one.pk for one in services]}
        return said(operator, SERVICES, chosen | {"confirmed": "yes"})

    return act


@pytest.fixture
def recorder(own_agent: ConsulAgent, recording_proxy, use_consul) -> RecordingProxy:
    """The product reaches its agent through this, which can spoil answers."""
    proxy: RecordingProxy = recording_proxy(own_agent)
    use_consul(proxy)
    return proxy


def said(client: Client, where: str, data: dict[str, Any]) -> str:
    page = client.post(where, data, follow=True)
    assert page.status_code == 200
    return "\n".join(str(message) for message in page.context["messages"])


def passing(consul, instance_id: str) -> None:
    wait_until(lambda: consul.agent_instances()[instance_id].health is Health.PASSING, what="it to pass")


def marks(consul, instance_id: str) -> set[str]:
    return set(consul.agent_instances()[instance_id].meta) & set(RESERVED_META)


# -- adopting ---------------------------------------------------------------------------------------------------------


def test_what_is_adopted_is_declared_as_it_is_and_ours(consul, by_hand, adopt, at_rest):
    one = by_hand(Tags=["blue", "old"], Meta={"team": "red"}, Weights={"Passing": 7, "Warning": 1})
    assert adopt(one) == f"Declared as in Consul: {one}.\nSynced with Consul: updated {one}."
    row = Instance.objects.select_related("service").get()
    assert (row.service.name, row.address, row.port, row.weight) == ("legacy", "127.0.0.1", 9001, 7)
    assert (row.extra_tags, row.extra_meta) == (["blue", "old"], {"team": "red"})
    have = consul.agent_instances()[one]
    assert (have.tags, dict(have.own_meta), have.weight) == (("blue", "old"), {"team": "red"}, 7)
    at_rest(one)


def test_an_http_check_that_asks_the_instance_itself_becomes_the_declaration_s(
    consul, by_hand, adopt, at_rest, http_service
):
    service = http_service()
    url = f"http://127.0.0.1:{service.port}/ping?deep=1"
    one = by_hand(Port=service.port, Check={"HTTP": url, "Interval": "1s"})
    passing(consul, one)
    adopt(one)
    declared = Service.objects.get()
    assert (declared.check_kind, declared.check_scheme, declared.check_path) == ("http", "http", "/ping?deep=1")
    at_rest(one)
    (check,) = consul.agent_instances()[one].checks
    assert check.id == f"{one}:http"
    service.status = 500
    Service.objects.get().save()
    asked = len(service.requests)
    wait_until(lambda: len(service.requests) > asked, 30, "the check to be made still")
    wait_until(lambda: consul.agent_instances()[one].health is Health.CRITICAL, 20, "it to be judged still")


def test_a_tcp_check_becomes_the_declaration_s(consul, by_hand, adopt, at_rest, http_service):
    service = http_service()
    one = by_hand(Port=service.port, Check={"TCP": f"127.0.0.1:{service.port}", "Interval": "1s"})
    passing(consul, one)
    adopt(one)
    assert Service.objects.get().check_kind == "tcp"
    at_rest(one)
    assert [check.id for check in consul.agent_instances()[one].checks] == [f"{one}:tcp"]


@pytest.mark.parametrize(
    "checks",
    [
        [{"HTTP": "http://127.0.0.1:{other}/", "Interval": "1s"}],
        [{"TCP": "127.0.0.1:{other}", "Interval": "1s"}],
        [{"HTTP": "http://127.0.0.1:{port}/", "Interval": "1s"}, {"TCP": "127.0.0.1:{other}", "Interval": "1s"}],
        [{"CheckID": "mine", "HTTP": "http://127.0.0.1:{port}/", "Interval": "1s"}],
        [{"HTTP": "http://127.0.0.1:{port}/", "Method": "POST", "Interval": "1s"}],
        [{"TTL": "1h", "Status": "passing"}],
    ],
    ids=["http elsewhere", "tcp elsewhere", "two", "of its own name", "by POST", "ttl"],
)
def test_a_check_that_no_declaration_could_repeat_stays_as_it_is(consul, by_hand, adopt_to_rest, http_service, checks):
    service, elsewhere = http_service(), http_service()
    ports = {"port": str(service.port), "other": str(elsewhere.port)}
    filled = [{key: _with(value, ports) for key, value in check.items()} for check in checks]
    one = by_hand(Port=service.port, Checks=filled)
    passing(consul, one)
    before = sorted(check.id for check in consul.agent_instances()[one].checks)
    adopt_to_rest(one)
    assert Service.objects.get().check_kind == "none"
    assert sorted(check.id for check in consul.agent_instances()[one].checks) == before
    assert consul.agent_instances()[one].health is Health.PASSING


def _with(value: str, ports: dict[str, str]) -> str:
    for name, port in ports.items():
        value = value.replace(f"{{{name}}}", port)
    return value


def test_a_check_that_fails_is_kept_as_nobody_can_tell_what_it_asks(consul, by_hand, adopt, at_rest):
    one = by_hand(Check={"HTTP": f"http://127.0.0.1:{free_port()}/", "Interval": "1s"})
    wait_until(lambda: consul.agent_instances()[one].output, what="the check's output")
    adopt(one)
    at_rest(one)
    assert [check.id for check in consul.agent_instances()[one].checks] == [f"service:{one}"]
    assert consul.agent_instances()[one].health is Health.CRITICAL


def test_into_a_declared_service_it_comes_with_that_one_s_check_and_what_it_has_beyond_its_tags(
    consul, by_hand, adopt_to_rest, declare, http_service
):
    service = http_service()
    declare("Legacy", 8001, tags=["blue"], meta={"team": "red"}, check_kind="http", check_path="/", check_interval="1s")
    one = by_hand(
        Port=service.port, Tags=["blue", "old"], Meta={"team": "red", "zone": "a"},
        Check={"HTTP": f"http://127.0.0.1:{service.port}/elsewhere", "Interval": "1s"},
    )  # fmt: skip
    passing(consul, one)
    adopt_to_rest(one)
    row = Instance.objects.get(consul_id=one)
    assert (row.service.name, row.extra_tags, row.extra_meta) == ("Legacy", ["old"], {"zone": "a"})
    assert [check.id for check in consul.agent_instances()[one].checks] == [f"{one}:http"]


def test_several_instances_of_a_service_are_one_declaration(consul, by_hand, adopt, at_rest):
    ids = [by_hand(ID=f"legacy-{number}", Port=9000 + number) for number in range(1, 8)]
    told = adopt(*ids)
    assert "Declared as in Consul: legacy-1, legacy-2, legacy-3, legacy-4, legacy-5 and 2 more." in told
    assert SyncRun.objects.get(trigger="save").updated == 7, "a single pass"
    assert Service.objects.get().instances.count() == 7
    for one in ids:
        at_rest(one)


def test_one_that_registered_itself_keeps_its_own_mark(consul, adopt, sync):
    spec = ServiceSpec(name="module", address="127.0.0.1", port=9002, check=NO_CHECK)
    consul.register(spec, marks={META_SELF: spec.digest})
    adopt(spec.id)
    assert Instance.objects.get().claimed is False
    assert sync().ok
    assert Instance.objects.get().sync_status == SyncStatus.SYNCED
    assert consul.agent_instances()[spec.id].registered_itself
    consul.deregister(spec.id)
    sync()
    assert consul.agent_instances() == {}, "a module that stops is not brought back without it"


def test_maintenance_is_not_ended_by_adopting(consul, by_hand, adopt):
    one = by_hand()
    consul.set_maintenance(one, enable=True, reason="disk")
    adopt(one)
    assert consul.agent_instances()[one].owner == OWNER
    assert consul.agent_instances()[one].health is Health.MAINTENANCE


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"Meta": {META_OWNER: "them"}}, "another inventory owns it: them"),
        ({"Name": "odd name"}, "name: "),
        ({"ID": "odd id"}, "consul_id: "),
        ({"ID": "x" * 300}, "consul_id: "),
        ({"Address": ""}, "address: "),
        ({"Address": "evil@host"}, "address: "),
        ({"Port": 0}, "port: "),
        ({"Port": 70000}, "port: "),
        ({"Port": -1}, "port: "),
        ({"Tags": ["a\nb"]}, "extra_tags: "),
        ({"Name": "consul"}, "name: "),
    ],
)
def test_what_can_not_be_declared_is_refused_with_its_reason_and_left_alone(
    own_agent: ConsulAgent, adopt, body, why, operator
):
    body = {"ID": "legacy-1", "Name": "legacy", "Address": "127.0.0.1", "Port": 9001} | body
    own_agent.request("PUT", "/v1/agent/service/register", body=body)
    before = own_agent.request("GET", "/v1/agent/services")
    told = adopt(body["ID"])
    assert told.startswith(f"{body['ID']}: ")
    assert why in told
    assert "{" not in told
    assert (Service.objects.count(), Instance.objects.count()) == (0, 0)
    assert own_agent.request("GET", "/v1/agent/services") == before


def test_what_is_declared_already_is_refused_whatever_its_case(consul, by_hand, adopt, declare):
    declare("api", 8001)
    one = by_hand(ID="API-127.0.0.1-8001", Port=9001)
    assert adopt(one) == f"{one}: it is declared already"
    assert Instance.objects.count() == 1


def test_at_the_place_of_another_instance_it_is_refused(consul, by_hand, adopt, declare):
    declare("legacy", 9001)
    one = by_hand(ID="twin")
    assert "has an instance at this address and port already" in adopt(one)


def test_what_is_on_another_node_is_refused(consul, consul_agent, adopt):
    body = {"Node": "far", "Address": "10.0.0.9", "Service": {"ID": "far-1", "Service": "far", "Port": 80}}
    consul_agent.request("PUT", "/v1/catalog/register", body=body)
    try:
        told = adopt("far-1")
        assert told == "far-1: it is on node far, and can only be changed through that node's own agent"
    finally:
        consul_agent.request("PUT", "/v1/catalog/deregister", body={"Node": "far"})


def test_one_refusal_does_not_hold_up_the_others(consul, by_hand, adopt, at_rest):
    good, bad = by_hand(), by_hand(ID="odd id", Port=9002)
    told = adopt(good, bad)
    assert "Declared as in Consul: legacy-1." in told
    assert "odd id: consul_id: " in told
    at_rest(good)


def test_adopting_with_consul_away_is_declared_and_says_that_it_is_not_synced_yet(
    consul, by_hand, adopt, at_rest, proxied_consul
):
    one = by_hand()
    told = adopt(one, before=proxied_consul.cut)
    assert "The watcher will sync it" in told
    assert consul.agent_instances()[one].owner == ""
    proxied_consul.mend()
    assert Pass(trigger="watch").make().ok
    at_rest(one)


def test_who_may_not_declare_may_not_adopt(consul, by_hand, sync, make_user, client_of):
    one = by_hand()
    sync()
    chosen = ObservedInstance.objects.get().pk
    client = client_of(make_user("view_observedinstance", "add_service"))
    assert b'value="adopt"' not in client.get(OBSERVED).content
    client.post(OBSERVED, {"action": "adopt", "_selected_action": [chosen], "confirmed": "yes"})
    assert Service.objects.count() == 0
    assert consul.agent_instances()[one].owner == ""


# -- releasing --------------------------------------------------------------------------------------------------------


def test_what_is_released_stays_without_our_marks_and_no_later_sync_touches_it(
    consul, declare, release, sync, http_service
):
    service = http_service()
    declared = declare("api", service.port, tags=["blue"], meta={"k": "v"}, check_kind="http", check_path="/")
    one = f"api-127.0.0.1-{service.port}"
    assert marks(consul, one)
    told = release(declared)
    assert f"Released, and left in Consul as they are: {one}." in told
    have = consul.agent_instances()[one]
    assert (have.tags, dict(have.meta), [check.id for check in have.checks]) == (
        ("blue",), {"k": "v"}, [f"{one}:http"]
    )  # fmt: skip
    assert (Service.objects.count(), Instance.objects.count()) == (0, 0)
    for _ in range(2):
        assert sync(force=True).results == ()
    assert ObservedInstance.objects.get().sync_status == SyncStatus.UNMANAGED
    assert marks(consul, one) == set()


def test_it_stays_as_it_is_also_where_it_had_been_edited_by_hand(consul, consul_agent, declare, release):
    declared = declare("api", 8001, tags=["blue"])
    one = "api-127.0.0.1-8001"
    meta = dict(consul.agent_instances()[one].meta)
    body = {"ID": one, "Name": "api", "Address": "127.0.0.1", "Port": 9999, "Tags": ["red"], "Meta": meta}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    release(declared)
    have = consul.agent_instances()[one]
    assert (have.port, have.tags, dict(have.meta)) == (9999, ("red",), {})


def test_maintenance_is_not_ended_by_releasing(consul, declare, release):
    declared = declare("api", 8001)
    consul.set_maintenance("api-127.0.0.1-8001", enable=True, reason="disk")
    release(declared)
    assert consul.agent_instances()["api-127.0.0.1-8001"].health is Health.MAINTENANCE


def test_what_registered_itself_is_released_untouched(consul, declare, release):
    spec = ServiceSpec(name="api", address="127.0.0.1", port=8001, check=NO_CHECK)
    consul.register(spec, marks={META_SELF: spec.digest})
    declared = declare("api", 8001)
    before = consul.agent_instances()
    release(declared)
    assert consul.agent_instances() == before
    assert Service.objects.count() == 0


def test_what_is_switched_off_is_forgotten_and_nothing_comes_back(consul, declare, release, sync):
    declared = declare("api", 8001, enabled=False)
    release(declared)
    assert Service.objects.count() == 0
    sync()
    assert consul.agent_instances() == {}


def test_a_service_without_instances_can_be_released(consul, declare, release):
    release(declare("lonely"))
    assert Service.objects.count() == 0


def test_a_stranger_s_instance_with_a_declared_id_is_not_touched(consul, by_hand, declare, release):
    one = by_hand(ID="api-127.0.0.1-8001", Tags=["theirs"])
    declared = declare("api", 8001)
    before = consul.agent_instances()[one]
    release(declared)
    assert consul.agent_instances()[one] == before


def test_with_consul_away_nothing_is_released_and_nothing_deleted(consul, declare, release, proxied_consul, sync):
    declared = declare("api", 8001)
    proxied_consul.cut()
    told = release(declared)
    assert "Nothing was released: " in told
    assert Instance.objects.get().released is False
    assert marks(consul, "api-127.0.0.1-8001")
    proxied_consul.mend()
    assert sync().results == ()


def test_one_that_consul_does_not_take_stays_declared_and_synced(own_agent, recorder, declare, release, sync):
    declared = declare("api", 8001, 8002)
    recorder.spoil("^PUT /v1/agent/service/register", containing='"api-127.0.0.1-8002"', status=500)
    told = release(declared)
    recorder.mend()
    assert "left in Consul as they are: api-127.0.0.1-8001." in told
    assert "api-127.0.0.1-8002: " in told
    assert [(row.consul_id, row.released) for row in Instance.objects.all()] == [("api-127.0.0.1-8002", False)]
    sync()
    owners = {
        key: one["Meta"].get(META_OWNER, "") for key, one in own_agent.request("GET", "/v1/agent/services").items()
    }
    assert owners == {"api-127.0.0.1-8001": "", "api-127.0.0.1-8002": OWNER}


def test_a_release_asks_first_and_until_then_changes_nothing(consul, declare, operator):
    declared = declare("api", 8001)
    before = consul.agent_instances()
    chosen = {"action": "release", "_selected_action": [declared.pk]}
    page = operator.post(SERVICES, chosen).content.decode()
    assert "Yes, release them" in page
    assert "1 service(s) with 1 instance(s) will be deleted here" in page
    operator.get(SERVICES, chosen | {"confirmed": "yes"})
    assert (Service.objects.count(), consul.agent_instances()) == (1, before)


@pytest.mark.parametrize("permissions", [("view_service",), ("view_service", "change_service", "add_service")])
def test_who_may_not_delete_may_not_release(consul, declare, make_user, client_of, permissions):
    declared = declare("api", 8001)
    before = consul.agent_instances()
    client = client_of(make_user(*permissions))
    assert b'value="release"' not in client.get(SERVICES).content
    client.post(SERVICES, {"action": "release", "_selected_action": [declared.pk], "confirmed": "yes"})
    assert (Service.objects.count(), consul.agent_instances()) == (1, before)


def test_a_watcher_that_runs_all_the_time_never_takes_back_nor_removes_what_is_released(
    own_agent: ConsulAgent, watch, release, settings, environment
):
    """The watcher is a process and holds the lease; each release is one more chance for the two to meet."""
    if "sqlite" in environment["DATABASE_URL"]:
        pytest.skip("processes have a database file of their own there")
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}
    check = {"check_kind": "tcp", "check_interval": "1s", "check_timeout": "1s", "deregister_after": "2s"}
    watcher = watch()
    ids = set()
    for number in range(8):
        service = Service.objects.create(name=f"api-{number}", **check)
        for _ in range(3):
            port = free_port()
            Instance.objects.create(service=service, address="127.0.0.1", port=port)
            ids.add(f"api-{number}-127.0.0.1-{port}")
        wait_until(lambda: ids <= set(own_agent.request("GET", "/v1/agent/services")), 20, "it in Consul")
        release(service)
    services = own_agent.request("GET", "/v1/agent/services")
    unmanaged = ObservedInstance.objects.filter(sync_status="unmanaged", consul_id__in=ids)
    wait_until(lambda: unmanaged.count() == len(ids), 20, "the watcher to have seen them")
    assert {key: one["Meta"] for key, one in services.items()} == {key: {} for key in ids}
    own_agent.request("PUT", "/v1/agent/service/register", body={"Name": "news"})
    wait_until(lambda: ObservedInstance.objects.filter(consul_id="news").exists(), 20, "one more pass")
    assert ids <= set(own_agent.request("GET", "/v1/agent/services"))
    assert "event=deregister" not in watcher.log
    assert watcher.stop() == 0
