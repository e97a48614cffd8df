"""The pages that operators work with: who may see and do what, what is escaped, and what a page costs."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from registry_admin.consul import CheckKind, CheckSpec, ServiceSpec
from registry_admin.inventory.mirror import record_contact
from registry_admin.inventory.models import ConsulContact, Instance, ObservedInstance, Service, SyncRun

pytestmark = pytest.mark.django_db

SERVICES = "/admin/inventory/service/"
OBSERVED = "/admin/inventory/observedinstance/"
RUNS = "/admin/inventory/syncrun/"


def change_page(service: Service) -> str:
    return f"{SERVICES}{service.pk}/change/"


def live_pane(service: Service) -> str:
    return f"{SERVICES}{service.pk}/live/"


@pytest.fixture
def service(declare) -> Service:
    return declare("api", 8001, 8002)


@pytest.fixture
def observed(service) -> ObservedInstance:
    """What the mirror knows of one of its instances; Consul was seen just now."""
    record_contact()
    Instance.objects.update(sync_status="synced")
    Service.objects.update(sync_status="synced", health="passing")
    return ObservedInstance.objects.create(
        consul_id="api-127.0.0.1-8001", service_name="api", address="127.0.0.1", port=8001, sync_status="synced",
        health="passing", checks=[{"id": "c", "name": "HTTP check", "status": "passing", "output": "200 OK"}],
    )  # fmt: skip


@pytest.fixture
def run(service) -> SyncRun:
    change = {"field": "tags", "before": ["<script>alert(1)</script>"], "after": []}
    item = {"id": "<b>api-1</b>", "action": "update", "ok": False, "error": "</textarea><script>x</script>\x1b[31m",
            "reason": "differs", "changes": [change]}  # fmt: skip
    return SyncRun.objects.create(trigger="command", actor="deployer", outcome="partial", failed=1, items=[item])


@pytest.fixture
def pages(service, observed, run) -> list[str]:
    """Every page that can be looked at."""
    return [
        "/admin/", SERVICES, change_page(service), live_pane(service), f"{SERVICES}{service.pk}/history/", OBSERVED,
        f"{OBSERVED}{observed.pk}/change/", RUNS, f"{RUNS}{run.pk}/change/",
    ]  # fmt: skip


@pytest.fixture
def viewer(make_user, client_of) -> Client:
    return client_of(make_user("view_service", "view_instance", "view_observedinstance", "view_syncrun"))


# -- who may see and do what ------------------------------------------------------------------------------------------


def test_an_anonymous_visitor_is_sent_to_the_login_from_everywhere(pages, service):
    for page in [*pages, f"{SERVICES}add/", f"{SERVICES}{service.pk}/delete/"]:
        response = Client().get(page)
        assert (response.status_code, response.headers["Location"].partition("?")[0]) == (302, "/admin/login/"), page
        assert b"api" not in response.content
    assert Client().post(SERVICES, {"action": "disable", "_selected_action": [service.pk]}).status_code == 302
    assert Service.objects.get().enabled


def test_someone_who_is_not_staff_sees_nothing(pages, make_user, client_of):
    client = client_of(make_user("view_service", "change_service", staff=False))
    assert {client.get(page).status_code for page in pages} == {302}


def test_staff_without_permissions_see_no_data(pages, make_user, client_of):
    client = client_of(make_user())
    codes = {page: client.get(page).status_code for page in pages}
    assert codes.pop("/admin/") == 200
    assert set(codes.values()) == {403}


def test_a_viewer_sees_every_page(pages, viewer):
    assert {page: viewer.get(page, follow=True).status_code for page in pages} == dict.fromkeys(pages, 200)


def test_a_viewer_can_change_nothing(service, viewer):
    attempts = [
        (change_page(service), {"name": "changed"}),
        (f"{SERVICES}add/", {"name": "new"}),
        (f"{SERVICES}{service.pk}/delete/", {"post": "yes"}),
    ]
    for page, data in attempts:
        assert viewer.post(page, data).status_code == 403, page
    for action in ("disable", "enable", "sync_now", "delete_selected"):
        viewer.post(SERVICES, {"action": action, "_selected_action": [service.pk], "post": "yes", "confirmed": "yes"})
    assert list(Service.objects.values_list("name", "enabled")) == [("api", True)]
    assert not SyncRun.objects.exists()


def test_a_viewer_is_offered_no_action(service, viewer, operator):
    assert b'value="sync_now"' not in viewer.get(SERVICES).content
    assert b'value="sync_now"' in operator.get(SERVICES).content


def test_what_only_syncing_writes_nobody_can_edit(observed, run, operator):
    for page, row in ((OBSERVED, observed), (RUNS, run)):
        assert operator.get(f"{page}add/").status_code == 403
        assert operator.post(f"{page}{row.pk}/change/", {"health": "critical", "outcome": "done"}).status_code == 403
        assert operator.post(f"{page}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    assert ObservedInstance.objects.get().health == "passing"
    assert SyncRun.objects.get().outcome == "partial"


def test_looking_at_a_page_changes_nothing(pages, service, operator, count_queries):
    for page in [*pages, f"{SERVICES}{service.pk}/delete/", f"{SERVICES}?action=disable&_selected_action={service.pk}"]:
        writes = [
            sql
            for sql in count_queries(lambda url=page: operator.get(url))
            if sql.startswith(("INSERT", "UPDATE", "DELETE")) and "django_session" not in sql
        ]
        assert writes == [], page
    assert Service.objects.get().enabled


def test_a_post_without_the_token_is_refused(service, make_user):
    client = Client(enforce_csrf_checks=True)
    client.force_login(make_user(superuser=True))
    attempts = {
        SERVICES: {"action": "disable", "_selected_action": [service.pk], "confirmed": "yes"},
        change_page(service): {"name": "changed"},
        f"{SERVICES}{service.pk}/delete/": {"post": "yes"},
        live_pane(service): {},
    }
    assert {client.post(page, data).status_code for page, data in attempts.items()} == {403}
    assert list(Service.objects.values_list("name", "enabled")) == [("api", True)]


def test_after_the_login_nobody_is_sent_to_another_site(make_user):
    make_user(superuser=True)
    data = {"username": "ada", "password": "secret", "next": "//evil.example/"}
    assert Client().post("/admin/login/", data).headers["Location"] == "/admin/"


@pytest.mark.parametrize("where", ["/admin/", "/admin/login/", "/health", "/ready", "/"])
def test_a_forged_host_is_refused(where):
    assert Client().get(where, headers={"host": "evil.example"}).status_code == 400


@pytest.mark.parametrize(
    "query",
    ["password__startswith=x", "instances__service__owner__regex=.*", "meta__has_key=x", "sync_status__foo=1",
     "enabled__exact=maybe", "e=1", "p=999999", "o=99.-7", "q=%00", "owner__regex=("],
)  # fmt: skip
@pytest.mark.parametrize("where", [SERVICES, OBSERVED, RUNS])
def test_a_filter_that_is_not_offered_is_refused_and_breaks_nothing(observed, operator, where, query):
    response = operator.get(f"{where}?{query}")
    if "__" in query and "exact" not in query:
        assert response.status_code == 400
    else:
        assert response.status_code in (200, 302)


@pytest.mark.parametrize("pk", ["0", "99999", "9" * 30, "-1", "x", "1.5", "²", "%00", "../1"])
def test_a_service_that_does_not_exist_is_no_broken_page(operator, pk):
    assert operator.get(f"{SERVICES}{pk}/change/").status_code in (302, 404)
    assert operator.get(f"{SERVICES}{pk}/live/").status_code in (302, 404)


# -- what comes from outside ------------------------------------------------------------------------------------------


def test_a_check_s_output_is_shown_escaped_and_without_invisible_characters(
    consul, consul_agent, operator, sync, declare
):
    evil = "</pre></textarea><script>alert(1)</script>\x1b[31m\u202egnp.exe"
    service = declare("evil", 8001, check_kind=Service.Check.TTL)
    sync()
    consul.update_ttl("evil-127.0.0.1-8001:ttl", "critical", output=evil)
    sync()
    mirrored = ObservedInstance.objects.get()
    for page in (change_page(service), live_pane(service), f"{OBSERVED}{mirrored.pk}/change/"):
        text = operator.get(page).content.decode()
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text, page
        assert r"\x1b[31m\u202egnp.exe" in text, page
        assert "<script>alert" not in text
        assert "\x1b" not in text
        assert "\u202e" not in text


def test_what_a_stranger_registered_is_escaped_wherever_it_is_shown(consul, consul_agent, operator, sync):
    evil = '"><script>alert(1)</script>'
    body = {"ID": evil, "Name": evil, "Address": evil, "Tags": [evil], "Meta": {"k": evil, "registry-owner": evil}}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    sync()
    row = ObservedInstance.objects.get()
    for page in (OBSERVED, f"{OBSERVED}{row.pk}/change/", f"{OBSERVED}?q={evil}", f"{OBSERVED}?owner__exact={evil}"):
        text = operator.get(page).content.decode()
        assert "&lt;script&gt;" in text, page
        assert "<script>alert" not in text, page


def test_a_run_s_items_are_escaped(run, operator):
    text = operator.get(f"{RUNS}{run.pk}/change/").content.decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "&lt;b&gt;api-1&lt;/b&gt;" in text
    assert "<script>alert" not in text
    assert r"\x1b[31m" in text


def test_what_an_operator_declares_is_escaped_for_the_others(operator, declare):
    evil = "</textarea><script>alert(1)</script>"
    service = declare("api", description=evil, owner=evil, meta={"k": evil}, tags=[evil])
    for page in (SERVICES, change_page(service)):
        text = operator.get(page).content.decode()
        assert "&lt;script&gt;alert(1)" in text
        assert "<script>alert" not in text


# -- what is known, and how old it is ---------------------------------------------------------------------------------


def test_what_is_current_is_shown_as_it_is(observed, operator, service):
    for page in (SERVICES, OBSERVED, change_page(service), f"{OBSERVED}{observed.pk}/change/"):
        text = operator.get(page).content.decode()
        assert "chip-passing" in text, page
        assert "registry-banner" not in text, page


@pytest.mark.parametrize("why", ["unreachable", "nobody looks"])
def test_what_is_not_current_is_never_shown_green_and_a_banner_says_why(observed, operator, service, why):
    if why == "unreachable":
        record_contact(problem="Consul at http://consul:8500 refused the connection.")
    else:
        ConsulContact.objects.update(seen_at=timezone.now() - timedelta(minutes=4))
    pages = (SERVICES, OBSERVED, change_page(service), live_pane(service), f"{OBSERVED}{observed.pk}/change/")
    for page in pages:
        text = operator.get(page).content.decode()
        assert "chip-passing" not in text, page
        assert "chip-synced" not in text, page
        assert "Unknown <small>(was Passing)</small>" in text, page
        assert 'class="registry-banner registry-unsure"' in text, page
        assert ("refused the connection" if why == "unreachable" else "4\xa0minutes old") in text, page


def test_before_anybody_has_looked_the_page_says_so(operator, service):
    assert "not been looked at yet" in operator.get(SERVICES).content.decode()


# -- the live pane ----------------------------------------------------------------------------------------------------


def test_the_pane_is_sent_again_only_when_it_has_changed(observed, operator, service):
    first = operator.get(live_pane(service))
    assert first.status_code == 200
    etag = first.headers["ETag"]
    assert b"200 OK" in first.content
    same = operator.get(live_pane(service), headers={"if-none-match": etag})
    assert (same.status_code, same.content) == (304, b"")
    assert same.headers["ETag"] == etag
    ObservedInstance.objects.update(health="critical")
    changed = operator.get(live_pane(service), headers={"if-none-match": etag})
    assert changed.status_code == 200
    assert b"chip-critical" in changed.content
    assert changed.headers["ETag"] != etag


def test_the_pane_is_a_fragment_that_no_cache_shares(observed, operator, service):
    response = operator.get(live_pane(service))
    assert b"<html" not in response.content
    assert "private" in response.headers["Cache-Control"]


def test_the_pane_shows_declared_beside_observed_and_the_differences(observed, operator, service):
    ObservedInstance.objects.create(
        consul_id="extra", service_name="API", address="", port=1, sync_status="unmanaged", health="passing",
        registered_itself=True, sync_reason="registered itself and is not declared",
    )  # fmt: skip
    Instance.objects.filter(port=8001).update(
        sync_status="out_of_sync", differences=[{"field": "tags", "before": ["<i>"], "after": None}]
    )
    text = operator.get(live_pane(service)).content.decode()
    assert "Registered itself and is not declared." in text
    assert "chip-unmanaged" in text
    assert "not in Consul" in text
    assert "<del>[&#x27;&lt;i&gt;&#x27;]</del>" in text
    assert "<ins>(none)</ins>" in text


def test_a_service_without_instances_says_what_to_do(operator, declare):
    assert "Add one below" in operator.get(live_pane(declare("lonely"))).content.decode()


# -- lists ------------------------------------------------------------------------------------------------------------


def fill(rows: int) -> None:
    """As many rows of everything."""
    services = Service.objects.bulk_create(Service(name=f"s{number}", owner="blue") for number in range(rows))
    Instance.objects.bulk_create(
        Instance(service=service, address=f"10.0.0.{port}", port=port, consul_id=f"{service.name}-{port}")
        for service in services
        for port in (1, 2)
    )
    ObservedInstance.objects.bulk_create(
        ObservedInstance(consul_id=f"o{number}", service_name="o", port=1, sync_status="unmanaged", health="passing")
        for number in range(rows)
    )
    SyncRun.objects.bulk_create(SyncRun(trigger="watch", outcome="done", items=[{}]) for _ in range(rows))


@pytest.mark.parametrize("where", [SERVICES, OBSERVED, RUNS, f"{SERVICES}?q=10.0.0.1", f"{SERVICES}?owner__exact=blue"])
def test_a_list_costs_as_many_queries_for_fifty_rows_as_for_one(operator, count_queries, where):
    operator.get(where)
    fill(1)
    one = count_queries(lambda: operator.get(where))
    ObservedInstance.objects.all().delete()
    Service.objects.all().delete()
    fill(50)
    assert len(count_queries(lambda: operator.get(where))) == len(one)


def test_a_list_of_runs_does_not_read_what_thousands_of_items_became(operator, run, count_queries):
    queries = count_queries(lambda: operator.get(RUNS))
    assert not [sql for sql in queries if '"inventory_syncrun"."items"' in sql]


@pytest.mark.parametrize("what", ["form", "pane"])
def test_a_service_s_page_costs_as_many_queries_for_thirty_instances_as_for_one(operator, declare, count_queries, what):
    few, many = declare("few", 8001), declare("many", *range(8100, 8130))
    page = change_page if what == "form" else live_pane
    operator.get(page(few))
    one = count_queries(lambda: operator.get(page(few)))
    assert len(count_queries(lambda: operator.get(page(many)))) == len(one)


def listed(response) -> list[str]:
    return sorted(str(row) for row in response.context["cl"].result_list)


@pytest.mark.parametrize(
    ("query", "names"),
    [("q=blue", ["api"]), ("q=8001", ["api"]), ("q=api-127", ["api"]), ("q=127.0.0.1", ["api", "web"]), ("q=nope", []),
     ("owner__exact=red", ["web"]), ("enabled__exact=0", ["web"]), ("check_kind__exact=none", ["api", "web"]),
     ("sync_status__exact=unknown", ["api", "web"]), ("health__exact=passing", [])],
)  # fmt: skip
def test_services_are_found_by_search_and_filters(operator, declare, query, names):
    declare("api", 8001, 8002, owner="blue")
    declare("web", 8003, owner="red", enabled=False)
    response = operator.get(f"{SERVICES}?{query}")
    assert listed(response) == names
    if names == ["api"]:
        assert "0 of 2" in response.content.decode()


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("q=api", ["api-127.0.0.1-8001"]),
        ("health__exact=passing", ["api-127.0.0.1-8001"]),
        ("registered_itself__exact=1", []),
    ],
)
def test_observed_instances_are_found_by_search_and_filters(operator, observed, query, ids):
    assert listed(operator.get(f"{OBSERVED}?{query}")) == ids


def test_instances_in_sync_are_counted_without_the_disabled_ones(operator, declare):
    declare("api", 8001, 8002, 8003)
    Instance.objects.filter(port__gte=8002).update(sync_status="synced")
    Instance.objects.filter(port=8003).update(enabled=False)
    assert "1 of 2" in operator.get(SERVICES).content.decode()


def test_pages_answer_from_the_mirror_while_consul_is_away(pages, operator, monkeypatch):
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a page asked Consul")

    monkeypatch.setattr("requests.Session.request", refuse)
    assert {operator.get(page, follow=True).status_code for page in pages} == {200}


def test_a_stranger_is_listed_as_unmanaged_with_its_health(consul, operator, sync):
    spec = ServiceSpec(name="theirs", address="127.0.0.1", port=9, check=CheckSpec(kind=CheckKind.NONE))
    consul.register(spec, marks={})
    sync()
    text = operator.get(OBSERVED).content.decode()
    assert "theirs-127.0.0.1-9" in text
    assert "chip-unmanaged" in text
    assert "registered by someone else and not declared" in text
