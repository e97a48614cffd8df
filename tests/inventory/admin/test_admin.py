"""The admin's pages: permissions, escaping, freshness and query counts."""

from __future__ import annotations

import html
import re
from datetime import timedelta

import pytest
from django.apps import apps
from django.test import Client
from django.utils import timezone

from registry_admin.consul import CheckKind, CheckSpec, ServiceSpec
from registry_admin.inventory.models import ConsulContact, Instance, ObservedInstance, Service, SyncRun
from registry_admin.inventory.sync.mirror import record_contact

pytestmark = pytest.mark.django_db

SERVICES = "/admin/inventory/service/"
OBSERVED = "/admin/inventory/observedinstance/"
RUNS = "/admin/inventory/syncrun/"


def change_page(service: Service) -> str:
    return f"{SERVICES}{service.pk}/change/"


@pytest.fixture
def service(declare) -> Service:
    return declare("api", 8001, 8002)


@pytest.fixture
def observed(service) -> ObservedInstance:
    """A mirrored instance of the service, with current contact to Consul."""
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
    """The URLs of all pages."""
    return [
        "/admin/", SERVICES, change_page(service), f"{SERVICES}{service.pk}/history/", OBSERVED,
        f"{OBSERVED}{observed.pk}/change/", RUNS, f"{RUNS}{run.pk}/change/",
    ]  # fmt: skip


@pytest.fixture
def viewer(make_user, client_of) -> Client:
    return client_of(make_user("view_service", "view_instance", "view_observedinstance", "view_syncrun"))


# -- who may see and do what ------------------------------------------------------------------------------------------


def test_anonymous_visitor_is_redirected_to_login_from_every_page(pages, service):
    for page in [*pages, f"{SERVICES}add/", f"{SERVICES}{service.pk}/delete/"]:
        response = Client().get(page)
        assert (response.status_code, response.headers["Location"].partition("?")[0]) == (302, "/admin/login/"), page
        assert b"api" not in response.content
    assert Client().post(SERVICES, {"action": "disable", "_selected_action": [service.pk]}).status_code == 302
    assert Service.objects.get().enabled


def test_user_who_is_not_staff_is_redirected_from_every_page(pages, make_user, client_of):
    client = client_of(make_user("view_service", "change_service", staff=False))
    assert {client.get(page).status_code for page in pages} == {302}


def test_staff_without_permissions_get_403_for_every_page(pages, make_user, client_of):
    client = client_of(make_user())
    codes = {page: client.get(page).status_code for page in pages}
    assert codes.pop("/admin/") == 200
    assert set(codes.values()) == {403}


def test_viewer_may_open_every_page(pages, viewer):
    assert {page: viewer.get(page, follow=True).status_code for page in pages} == dict.fromkeys(pages, 200)


def test_viewer_posts_are_refused_and_change_nothing(service, viewer):
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


def test_actions_are_offered_to_operators_only(service, viewer, operator):
    assert b'value="sync_now"' not in viewer.get(SERVICES).content
    assert b'value="sync_now"' in operator.get(SERVICES).content


def test_observed_instances_and_runs_are_read_only_for_superusers(observed, run, operator):
    for page, row in ((OBSERVED, observed), (RUNS, run)):
        assert operator.get(f"{page}add/").status_code == 403
        assert operator.post(f"{page}{row.pk}/change/", {"health": "critical", "outcome": "done"}).status_code == 403
        assert operator.post(f"{page}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    assert ObservedInstance.objects.get().health == "passing"
    assert SyncRun.objects.get().outcome == "partial"


def test_get_requests_write_nothing(pages, service, operator, count_queries):
    for page in [*pages, f"{SERVICES}{service.pk}/delete/", f"{SERVICES}?action=disable&_selected_action={service.pk}"]:
        writes = [
            sql
            for sql in count_queries(lambda url=page: operator.get(url))
            if sql.startswith(("INSERT", "UPDATE", "DELETE")) and "access_session" not in sql
        ]
        assert writes == [], page
    assert Service.objects.get().enabled


def test_post_without_csrf_token_is_refused(service, make_user):
    client = Client(enforce_csrf_checks=True)
    client.force_login(make_user(superuser=True))
    attempts = {
        SERVICES: {"action": "disable", "_selected_action": [service.pk], "confirmed": "yes"},
        change_page(service): {"name": "changed"},
        f"{SERVICES}{service.pk}/delete/": {"post": "yes"},
    }
    assert {client.post(page, data).status_code for page, data in attempts.items()} == {403}
    assert list(Service.objects.values_list("name", "enabled")) == [("api", True)]


def test_login_does_not_redirect_to_another_site(make_user):
    make_user(superuser=True)
    # pragma: allowlist nextline secret - only for tests
    data = {"username": "ada", "password": "secret", "next": "//evil.example/"}
    assert Client().post("/admin/login/", data).headers["Location"] == "/admin/"


@pytest.mark.parametrize("where", ["/admin/", "/admin/login/", "/health", "/ready", "/"])
def test_forged_host_is_refused(where):
    assert Client().get(where, headers={"host": "evil.example"}).status_code == 400


@pytest.mark.parametrize(
    "query",
    ["password__startswith=x", "instances__service__owner__regex=.*", "meta__has_key=x", "sync_status__foo=1",
     "enabled__exact=maybe", "e=1", "p=999999", "o=99.-7", "q=%00", "owner__regex=(", "owner=a&owner=b"],
)  # fmt: skip
@pytest.mark.parametrize("where", [SERVICES, OBSERVED, RUNS])
def test_unoffered_filter_is_refused(observed, operator, where, query):
    response = operator.get(f"{where}?{query}")
    if "__" in query and "exact" not in query:
        assert response.status_code == 400
    else:
        assert response.status_code in (200, 302)


@pytest.mark.parametrize("where", [SERVICES, OBSERVED])
def test_filter_by_nul_is_refused(observed, operator, where):
    assert operator.get(f"{where}?owner=%00").status_code == 400
    assert operator.get(f"{where}?owner=a").status_code == 200


@pytest.mark.parametrize("pk", ["0", "99999", "9" * 30, "-1", "x", "1.5", "²", "%00", "../1"])
def test_unknown_service_is_redirected_or_404(operator, pk):
    assert operator.get(f"{SERVICES}{pk}/change/").status_code in (302, 404)


# -- what comes from outside ------------------------------------------------------------------------------------------


def test_check_output_is_escaped_with_control_characters_written_out(consul, consul_agent, operator, sync, declare):
    evil = "</pre></textarea><script>alert(1)</script>\x1b[31m\u202egnp.exe"
    service = declare("evil", 8001, check_kind=Service.Check.TTL)
    sync()
    consul.update_ttl("evil-127.0.0.1-8001:ttl", "critical", output=evil)
    sync()
    mirrored = ObservedInstance.objects.get()
    for page in (f"/services/{service.name}/", f"{OBSERVED}{mirrored.pk}/change/"):
        text = operator.get(page).content.decode()
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text, page
        assert r"\x1b[31m\u202egnp.exe" in text, page
        assert "<script>alert" not in text
        assert "\x1b" not in text
        assert "\u202e" not in text


def test_foreign_registration_is_escaped_on_every_page(consul, consul_agent, operator, sync):
    evil = '"><script>alert(1)</script>'
    body = {"ID": evil, "Name": evil, "Address": evil, "Tags": [evil], "Meta": {"k": evil, "registry-owner": evil}}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    sync()
    row = ObservedInstance.objects.get()
    for page in (OBSERVED, f"{OBSERVED}{row.pk}/change/", f"{OBSERVED}?q={evil}", f"{OBSERVED}?owner__exact={evil}"):
        text = operator.get(page).content.decode()
        assert "&lt;script&gt;" in text, page
        assert "<script>alert" not in text, page


def test_run_items_are_escaped(run, operator):
    text = operator.get(f"{RUNS}{run.pk}/change/").content.decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "&lt;b&gt;api-1&lt;/b&gt;" in text
    assert "<script>alert" not in text
    assert r"\x1b[31m" in text


def test_declared_texts_are_escaped(operator, declare):
    evil = "</textarea><script>alert(1)</script>"
    service = declare("api", description=evil, owner=evil, meta={"k": evil}, tags=[evil])
    for page in (SERVICES, change_page(service)):
        text = operator.get(page).content.decode()
        assert "&lt;script&gt;alert(1)" in text
        assert "<script>alert" not in text


# -- what is known, and how old it is ---------------------------------------------------------------------------------


def test_current_status_is_shown_without_banner(observed, operator, service):
    for page in (SERVICES, OBSERVED, f"/services/{service.name}/", f"{OBSERVED}{observed.pk}/change/"):
        text = operator.get(page).content.decode()
        assert "chip-passing" in text, page
        assert "registry-banner" not in text, page


@pytest.mark.parametrize("reason", ["unreachable", "nobody looks"])
def test_stale_status_is_unknown_with_a_banner(observed, operator, service, reason):
    if reason == "unreachable":
        record_contact(problem="Consul at http://consul:8500 refused the connection.")
    else:
        ConsulContact.objects.update(seen_at=timezone.now() - timedelta(minutes=4))
    for page in (SERVICES, OBSERVED, f"/services/{service.name}/", f"{OBSERVED}{observed.pk}/change/"):
        text = operator.get(page).content.decode()
        assert "chip-passing" not in text, page
        assert "chip-synced" not in text, page
        assert "Unknown <small>(was Passing)</small>" in text, page
        assert 'class="registry-banner registry-unsure"' in text, page
        assert ("refused the connection" if reason == "unreachable" else "4\xa0minutes old") in text, page


def test_services_page_before_the_first_snapshot_says_so(operator, service):
    assert "not been looked at yet" in operator.get(SERVICES).content.decode()


# -- lists ------------------------------------------------------------------------------------------------------------


def fill(rows: int) -> None:
    """Creates so many rows of each kind."""
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
def test_list_query_count_does_not_grow_with_rows(operator, count_queries, where):
    operator.get(where)
    fill(1)
    expected = count_queries(lambda: operator.get(where))
    ObservedInstance.objects.all().delete()
    Service.objects.all().delete()
    fill(50)
    assert len(count_queries(lambda: operator.get(where))) == len(expected)


def test_list_of_runs_does_not_read_items(operator, run, count_queries):
    queries = count_queries(lambda: operator.get(RUNS))
    assert not [sql for sql in queries if '"inventory_syncrun"."items"' in sql]


def test_service_form_query_count_does_not_grow_with_instances(operator, declare, count_queries):
    few, many = declare("few", 8001), declare("many", *range(8100, 8130))
    operator.get(change_page(few))
    expected = count_queries(lambda: operator.get(change_page(few)))
    assert len(count_queries(lambda: operator.get(change_page(many)))) == len(expected)


def test_service_form_links_to_the_live_page(operator, service):
    text = operator.get(change_page(service)).content.decode()
    assert '<a href="/services/api/">Live page</a>' in text
    assert operator.get("/services/api/").status_code == 200


def listed(response) -> list[str]:
    return sorted(str(row) for row in response.context["cl"].result_list)


@pytest.mark.parametrize(
    ("query", "names"),
    [("q=blue", ["api"]), ("q=8001", ["api"]), ("q=api-127", ["api"]), ("q=127.0.0.1", ["api", "web"]), ("q=nope", []),
     ("owner__exact=red", ["web"]), ("enabled__exact=0", ["web"]), ("check_kind__exact=none", ["api", "web"]),
     ("sync_status__exact=unknown", ["api", "web"]), ("health__exact=passing", [])],
)  # fmt: skip
def test_service_list_search_and_filters(operator, declare, query, names):
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
def test_observed_instance_list_search_and_filters(operator, observed, query, ids):
    assert listed(operator.get(f"{OBSERVED}?{query}")) == ids


def test_instance_count_leaves_out_disabled_instances(operator, declare):
    declare("api", 8001, 8002, 8003)
    Instance.objects.filter(port__gte=8002).update(sync_status="synced")
    Instance.objects.filter(port=8003).update(enabled=False)
    assert "1 of 2" in operator.get(SERVICES).content.decode()


def test_pages_make_no_request_to_consul(pages, operator, monkeypatch):
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a page asked Consul")

    monkeypatch.setattr("requests.Session.request", refuse)
    assert {operator.get(page, follow=True).status_code for page in pages} == {200}


def test_foreign_instance_is_listed_as_unmanaged(consul, operator, sync):
    spec = ServiceSpec(name="theirs", address="127.0.0.1", port=9, check=CheckSpec(kind=CheckKind.NONE))
    consul.register(spec, marks={})
    sync()
    text = operator.get(OBSERVED).content.decode()
    assert "theirs-127.0.0.1-9" in text
    assert "chip-unmanaged" in text
    assert "registered by someone else and not declared" in text


@pytest.mark.parametrize("path", [SERVICES, OBSERVED, RUNS])
def test_list_opens_for_every_filter_and_order_that_it_offers(path, operator, observed, run, declare):
    declare("web", 8003, owner="team-blue")
    declare("billing", 8004, owner="o'hara & <b>")
    ObservedInstance.objects.create(
        node="n-1", consul_id="theirs", service_name="theirs", address="127.0.0.1", port=1, sync_status="unmanaged",
        health="passing", owner="somebody-else",
    )  # fmt: skip
    links = re.findall(r'href="\?([^"#]*)"', operator.get(path).content.decode())
    offered = {html.unescape(link) for link in links if link}
    combined = "&".join(sorted(link for link in offered if "&" not in link))
    for query in {*offered, combined}:
        assert operator.get(f"{path}?{query}").status_code == 200, query
    assert len(offered) > 8


@pytest.mark.parametrize("model", ["inventory/service", "auth/user", "auth/group"])
def test_page_with_an_empty_key_field_opens(operator, declare, model):
    declare("api", 8001)
    table = apps.get_model(model.replace("/", "."))
    for query in ("", "?_to_field=", "?_to_field=%00"):
        response = operator.get(f"/admin/{model}/{table.objects.first().pk}/change/{query}")
        assert response.status_code == (400 if "00" in query else 200)
