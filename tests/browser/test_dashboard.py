"""Dashboard in a browser, with a real site, watcher, Consul and processes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from registry_admin.inventory.models import Instance, ObservedInstance, Service
from tests.browser.test_operator import declare_by_form
from tests.parts import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.django_db(transaction=True)

LONG_MS = 60_000


def service_table_row(page: Page, name: str) -> Locator:
    """Returns the row of the service in the table of services."""
    return page.locator("#services tbody tr", has=page.get_by_role("link", name=name, exact=True))


def wait_for_chip(region: Locator, label: str, timeout: float = LONG_MS) -> None:
    region.locator(".chip", has_text=re.compile(rf"^{label}$")).first.wait_for(timeout=timeout)


def test_overview_follows_service_from_declaration_to_eviction_and_back(
    operator_page, start_watcher, consul, http_service, live_server
):
    page, service = operator_page, http_service()
    port = service.port
    page.get_by_text("No service is declared").wait_for()
    start_watcher()
    declare_by_form(page, "backend-api", port)
    Service.objects.update(deregister_after="5s")
    page.get_by_role("navigation", name="Sections").get_by_role("link", name="Services").click()
    page.evaluate("window.notReloaded = true")
    service_row = service_table_row(page, "backend-api")
    wait_for_chip(service_row, "Synced")
    wait_for_chip(service_row, "Passing")
    page.locator("#attention-title", has_text="Nothing needs attention").wait_for()

    service.stop()
    wait_for_chip(service_row, "Critical")
    page.locator("#attention-title", has_text="1 service needs attention").wait_for()
    page.locator("#attention").get_by_text("connection refused").first.wait_for()
    wait_for_chip(service_row, "Evicted")
    assert not consul.agent_instances()

    http_service(port=port)
    wait_for_chip(service_row, "Synced")
    wait_for_chip(service_row, "Passing")
    assert page.evaluate("window.notReloaded") is True

    page.get_by_role("link", name="backend-api").first.click()
    timeline = page.locator(".service-timeline")
    timeline.get_by_text("Evicted").first.wait_for()
    page.locator(".service-bars .bar-degraded, .service-bars .bar-critical").first.wait_for(state="attached")


def test_manual_edit_is_repaired_and_recorded_in_the_history(
    operator_page, start_watcher, consul_agent, consul, live_server
):
    page = operator_page
    start_watcher()
    service = Service.objects.create(name="backend-api", check_kind="none")
    Instance.objects.create(service=service, address="127.0.0.1", port=8001, consul_id="api-1")
    page.goto(f"{live_server.url}/services/backend-api/")
    wait_for_chip(page.locator("#service-statuses"), "Synced")
    registered = consul_agent.request("GET", "/v1/agent/service/api-1")
    edited = {"ID": "api-1", "Name": "backend-api", "Address": "127.0.0.1", "Port": 81, "Meta": registered["Meta"]}
    consul_agent.request("PUT", "/v1/agent/service/register", body=edited)
    wait_until(lambda: consul.agent_instances()["api-1"].port == 8001, what="the repair by the watcher")
    page.get_by_role("link", name="Sync", exact=True).first.wait_for()
    page.get_by_role("link", name="History").click()
    page.get_by_role("link", name="Syncs").click()
    page.locator("tbody tr", has_text="1 updated").get_by_role("link").first.click()
    page.get_by_text("edited by hand").wait_for()
    assert page.locator("del", has_text="81").count() == 1


def test_overview_during_consul_outage_has_a_banner_and_no_passing_status(
    operator_page, start_watcher, proxy, http_service
):
    page, service = operator_page, http_service()
    start_watcher()
    declare_by_form(page, "backend-api", service.port)
    page.get_by_role("navigation", name="Sections").get_by_role("link", name="Services").click()
    wait_for_chip(service_table_row(page, "backend-api"), "Passing")

    proxy.cut()
    page.locator(".registry-banner", has_text="Consul at").wait_for(timeout=15_000)
    assert page.locator(".chip-passing, .chip-synced, .cell-passing").count() == 0
    fills = page.locator(".registry-bars .bar-passing").evaluate_all(
        "bars => bars.map(bar => getComputedStyle(bar).fill)"
    )
    no_data_fill = page.locator(".registry-bars").first.evaluate(
        "bar => { const rect = document.createElementNS('http://www.w3.org/2000/svg', 'rect');"
        " rect.setAttribute('class', 'bar-no_data'); bar.append(rect); const fill = getComputedStyle(rect).fill;"
        " rect.remove(); return fill }"
    )
    assert set(fills) <= {no_data_fill}

    proxy.restore()
    wait_for_chip(service_table_row(page, "backend-api"), "Passing")
    page.locator(".registry-banner").first.wait_for(state="detached")


def test_foreign_service_is_adopted_by_button(operator_page, start_watcher, consul_agent, consul, live_server):
    page = operator_page
    body = {"Name": "billing", "ID": "theirs", "Address": "127.0.0.1", "Port": 9}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    start_watcher()
    wait_for_chip(service_table_row(page, "billing"), "Unmanaged")
    page.get_by_role("link", name="billing", exact=True).click()
    page.get_by_role("button", name="Adopt: declare it as it is in Consul").click()
    page.get_by_text("Declared as in Consul: theirs.").wait_for()
    wait_for_chip(page.locator("#service-statuses"), "Synced")
    assert consul.agent_instances()["theirs"].owner == "registry-admin"


def test_edited_export_is_imported(operator_page, start_watcher, consul, live_server, tmp_path):
    page = operator_page
    start_watcher()
    service = Service.objects.create(name="backend-api", check_kind="none")
    Instance.objects.create(service=service, address="127.0.0.1", port=8001, consul_id="api-1")
    page.goto(f"{live_server.url}/admin/inventory/service/")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export as YAML").click()
    target = tmp_path / "registry.yaml"
    target.write_text(download.value.path().read_text().replace("port: 8001", "port: 8002"))
    page.get_by_role("link", name="Import").click()
    page.get_by_label("File:").set_input_files(target)
    page.get_by_role("button", name="Look at what would change").click()
    page.get_by_text("0 to create, 1 to change, 0 to delete, 1 unchanged.").wait_for()
    for region in ("Changes", "Plan for Consul"):
        assert page.get_by_role("region", name=region).locator("del", has_text="8001").count() == 1
    page.get_by_role("button", name="Import 1 change").click()
    page.get_by_text("Imported: 0 to create, 1 to change").wait_for()
    wait_until(lambda: consul.agent_instances()["api-1"].port == 8002, what="the imported port in Consul")


def test_definition_of_consul_is_imported_with_a_list_of_what_is_left_out(operator_page, consul, live_server, tmp_path):
    page = operator_page
    source = tmp_path / "web.hcl"
    source.write_text(
        'service {\n  name = "web"\n  address = "127.0.0.1"\n  port = 8001\n  token = "x"\n'
        '  check {\n    args = ["/bin/check"]\n    interval = "10s"\n  }\n}\n'
    )
    page.goto(f"{live_server.url}/admin/inventory/service/import/")
    page.get_by_label("File:").set_input_files(source)
    page.get_by_role("button", name="Look at what would change").click()
    page.get_by_text("check.args: a script can't be declared").wait_for()
    assert page.get_by_text("token: a secret; our own token registers the service").count() == 1
    assert "1 to register" in page.get_by_role("region", name="In Consul").inner_text()
    page.get_by_role("button", name="Import 2 changes").click()
    page.get_by_text("Imported: 2 to create").wait_for()
    assert consul.agent_instances()["web"].port == 8001


def test_prune_with_wrong_phrase_is_refused(operator_page, consul, live_server, settings):
    from registry_admin.inventory.sync.reconciler import Reconciler

    page = operator_page
    service = Service.objects.create(name="old", check_kind="none")
    for port in range(8001, 8006):
        Instance.objects.create(service=service, address="127.0.0.1", port=port)
    Reconciler(trigger="command").run()
    Instance.objects.all()._raw_delete("default")
    Reconciler(trigger="command", prune=True).run()  # refused, because it would remove every instance
    page.goto(f"{live_server.url}/drift/")
    page.get_by_role("link", name="Remove 5 no longer declared…").click()
    page.get_by_label("type remove 5").fill("remove 4")
    page.get_by_role("button", name="Remove 5 from Consul").click()
    page.get_by_text("Nothing was removed: type “remove 5” to confirm.").wait_for()
    assert len(consul.agent_instances()) == 5
    page.get_by_label("type remove 5").fill("remove 5")
    page.get_by_role("button", name="Remove 5 from Consul").click()
    page.get_by_role("heading", name="Sync", exact=True).wait_for()
    assert not consul.agent_instances()
    assert page.locator("tbody tr", has_text="done").count() == 5


def test_live_update_keeps_selection_input_focus_and_open_details(operator_page, live_server):
    page = operator_page
    from tests.parts import mirrored

    mirrored.look()
    mirrored.declare("api", 3, first_port=8001)
    mirrored.lose("api-127.0.0.1-8001")
    mirrored.lose("api-127.0.0.1-8002")
    page.goto(f"{live_server.url}/drift/")
    box = page.get_by_label("Choose api-127.0.0.1-8001")
    box.check()
    page.get_by_label("Service").fill("half a wo")
    mirrored.lose("api-127.0.0.1-8003")
    increment_revision()
    page.locator(".drift-summary", has_text="3 instances differ").wait_for()
    assert box.is_checked()
    assert page.get_by_label("Service").input_value() == "half a wo"
    assert page.evaluate("document.activeElement.name") == "service"

    page.goto(f"{live_server.url}/services/api/")
    fold = page.locator("details.registry-more").first
    fold.locator("summary").click()
    ObservedInstance.objects.create(
        node="node-1", consul_id="extra", service_name="api", port=1, sync_status="unmanaged", health="passing"
    )
    increment_revision()
    page.get_by_text("extra", exact=False).first.wait_for()
    assert fold.evaluate("fold => fold.open") is True


def increment_revision() -> None:
    """Increments the revision, as the mirror does after a change, so that open pages are updated."""
    from django.db.models import F

    from registry_admin.inventory.models import ConsulContact

    ConsulContact.objects.update(revision=F("revision") + 1)


def test_live_updates_pause_and_go_offline_and_slash_focuses_search(operator_page, live_server):
    page = operator_page
    from tests.parts import mirrored

    mirrored.look()
    mirrored.declare("api")
    page.goto(f"{live_server.url}/")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "q"
    page.get_by_role("button", name="Pause").click()
    page.locator("#live-state", has_text="Paused").wait_for()
    mirrored.declare("web", first_port=8100)
    increment_revision()
    page.wait_for_timeout(3500)  # there is no condition to wait for: the page must not change
    assert service_table_row(page, "web").count() == 0
    page.get_by_role("button", name="Resume").click()
    service_table_row(page, "web").wait_for()

    page.route("**/*", lambda route: route.abort())
    page.locator("#live-state", has_text="Offline").wait_for()
    assert "lost touch" in page.locator("#live-announcement").inner_text()
    page.unroute("**/*")
    page.locator("#live-state", has_text="Live").wait_for()
    assert all("ERR_FAILED" in complaint for complaint in page.complaints)
    page.complaints.clear()
