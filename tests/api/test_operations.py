"""The API's lists and single services: what they hold, page by page, and while Consul can't be seen."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from registry_admin.api.tokens import make_token
from registry_admin.inventory.models import ConsulContact, Instance, Lease
from tests.parts import mirrored

pytestmark = pytest.mark.django_db

NAMES = ["alpha", "Beta", "gamma", "omega"]


@pytest.fixture
def client() -> Client:
    """A client with a token, of a site that has seen Consul just now."""
    mirrored.look()
    _, token = make_token("tests", days=1, now=timezone.now())
    return Client(headers={"Authorization": f"Bearer {token}"})


def read(client: Client, path: str, **query: object) -> dict[str, object]:
    response = client.get(f"/api/v1/{path}", query)
    assert response.status_code == 200, response.content
    return response.json()


def read_all(client: Client, path: str, key: str, **query: object) -> list[str]:
    """Returns the values of all pages."""
    values, cursor = [], ""
    while cursor is not None:
        page = read(client, path, cursor=cursor, **query)
        assert len(page["items"]) <= int(str(query.get("limit", 50)))
        values += [item[key] for item in page["items"]]
        cursor = page["next"]
    return values


def four_services() -> None:
    for number, name in enumerate(NAMES):
        mirrored.declare(name, first_port=8000 + 10 * number, owner="blue" if number % 2 else "red")
    mirrored.observe("theirs", "billing")


def test_service_has_what_its_page_shows(client):
    mirrored.declare("api", instances=2, owner="blue")
    service = read(client, "services/API")
    assert service.pop("changed")
    assert service == {
        "name": "api", "href": "/api/v1/services/api", "declared": True,
        "registers_itself": False, "owner": "blue", "health": "passing",
        "sync": "synced", "last_health": "passing", "last_sync": "synced", "instances": 2,
        "mirror": {"current": True, "problem": ""},
    }  # fmt: skip


def test_undeclared_service_is_unmanaged(client):
    mirrored.observe("theirs", "billing", health="critical")
    service = read(client, "services/billing")
    assert (service["declared"], service["sync"], service["health"]) == (False, "unmanaged", "critical")


@pytest.mark.parametrize("name", ["a/b", "..", "~x", "a\nb", "caf\u00e9 %", "x?y#z", "\u202e", "a" * 300])
def test_service_of_any_name_is_found_by_its_href(client, name):
    mirrored.observe("theirs", name)
    (item,) = read(client, "services")["items"]
    assert item["name"] == name
    assert client.get(item["href"]).json()["name"] == name


@pytest.mark.parametrize("name", ["nothing", "a b", "%C3%A4", "x" * 600])
def test_unknown_service_is_404(client, name):
    mirrored.declare("api")
    response = client.get(f"/api/v1/services/{name}")
    assert (response.status_code, response["Content-Type"]) == (404, "application/problem+json")
    assert client.get("/api/v1/services/api").status_code == 200


@pytest.mark.parametrize("limit", [1, 2, 3, 200])
def test_pages_of_services_have_each_of_them_once_by_name(client, limit):
    four_services()
    assert read_all(client, "services", "name", limit=limit) == ["alpha", "Beta", "billing", "gamma", "omega"]


def test_pages_of_services_go_on_after_one_that_went(client):
    four_services()
    first = read(client, "services", limit=2, kind="declared")
    Instance.objects.filter(service__name="Beta").delete()
    second = read(client, "services", limit=2, kind="declared", cursor=first["next"])
    assert [item["name"] for item in second["items"]] == ["gamma", "omega"]
    assert second["next"] is None


def test_services_whose_names_differ_in_case_are_each_listed(client):
    mirrored.observe("one", "Billing")
    mirrored.observe("two", "billing")
    assert sorted(read_all(client, "services", "name", limit=1)) == ["Billing", "billing"]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"owner": "blue"}, ["Beta", "omega"]),
        ({"q": "ET"}, ["Beta"]),
        ({"kind": "foreign"}, ["billing"]),
        ({"sync": "unmanaged"}, ["billing"]),
        ({"sync": "missing"}, []),
        ({"health": "passing", "kind": "declared"}, NAMES),
    ],
)
def test_filters_of_services_choose_as_the_page_does(client, query, names):
    four_services()
    assert read_all(client, "services", "name", **query) == names


def test_instances_are_those_in_consul_and_those_that_should_be(client):
    service = mirrored.declare("api", instances=2)
    first, second = service.instances.order_by("port")
    mirrored.fail(first.consul_id)
    mirrored.lose(second.consul_id)
    mirrored.observe("theirs", "billing")
    items = {item["id"]: item for item in read(client, "instances")["items"]}
    assert sorted(items) == sorted([first.consul_id, second.consul_id, "theirs"])
    assert (items[first.consul_id]["health"], items[first.consul_id]["sync"]) == ("critical", "synced")
    lost = items[second.consul_id]
    assert (lost["health"], lost["sync"], lost["in_consul"], lost["node"]) == (None, "missing", False, "")
    assert (lost["reason"], lost["health_since"]) == ("not in Consul any more", None)
    assert (items["theirs"]["declared"], items["theirs"]["owned"]) == (False, False)


def test_instance_has_the_status_of_its_declaration(client):
    service = mirrored.declare("api")
    Instance.objects.filter(service=service).update(sync_status="out_of_sync", sync_reason="its port differs")
    (item,) = read(client, "instances")["items"]
    assert (item["sync"], item["reason"]) == ("out_of_sync", "its port differs")


@pytest.mark.parametrize("limit", [1, 2, 50])
def test_pages_of_instances_have_each_of_them_once(client, limit):
    service = mirrored.declare("api", instances=3)
    mirrored.lose(service.instances.order_by("port")[1].consul_id)
    mirrored.observe("theirs", "billing", node="node-1")
    mirrored.observe("theirs", "billing", node="node-2")
    expected = sorted([*service.instances.values_list("consul_id", flat=True), "theirs", "theirs"])
    assert sorted(read_all(client, "instances", "id", limit=limit)) == expected


@pytest.mark.parametrize(
    ("query", "number"),
    [({"service": "API"}, 2), ({"service": "billing"}, 1), ({"health": "critical"}, 1), ({"sync": "unmanaged"}, 1)],
)
def test_filters_of_instances_choose(client, query, number):
    service = mirrored.declare("api", instances=2)
    mirrored.fail(service.instances.earliest("port").consul_id)
    mirrored.observe("theirs", "billing")
    assert len(read(client, "instances")["items"]) == 3
    assert len(read(client, "instances", **query)["items"]) == number


def test_statuses_are_unknown_while_consul_is_not_seen(client):
    mirrored.declare("api")
    ConsulContact.objects.update(seen_at=timezone.now() - timedelta(hours=1))
    service, (instance,) = read(client, "services/api"), read(client, "instances")["items"]
    for item in (service, instance):
        assert (item["health"], item["sync"]) == ("unknown", "unknown")
        assert (item["last_health"], item["last_sync"]) == ("passing", "synced")
    assert service["mirror"]["current"] is False
    assert "watcher" in service["mirror"]["problem"]


def test_fields_choose_what_is_returned(client):
    mirrored.declare("api")
    assert read(client, "services", fields="name,health")["items"] == [{"name": "api", "health": "passing"}]
    assert list(read(client, "instances", fields="port")["items"][0]) == ["port"]


def test_status_counts_services_and_names_the_leader(client):
    mirrored.declare("api")
    mirrored.observe("theirs", "billing", health="critical")
    Lease.objects.update_or_create(
        pk=1,
        defaults={"holder": "host-1", "since": timezone.now(), "expires_at": timezone.now() + timedelta(hours=1)},
    )
    status = read(client, "status")
    assert (status["services"], status["needing_attention"], status["leader"]["holder"]) == (2, 1, "host-1")
    assert (status["by_last_health"]["critical"], status["by_last_sync"]["synced"]) == (1, 1)
    assert status["mirror"] == {"current": True, "problem": ""}


def test_queries_of_a_list_do_not_grow_with_its_rows(client, django_assert_max_num_queries):
    for number in range(20):
        mirrored.declare(f"api-{number}", first_port=8000 + number)
    read(client, "services")  # the use of the token is recorded
    for path in ("services", "instances", "services/api-1", "status"):
        with django_assert_max_num_queries(8):
            read(client, path)
