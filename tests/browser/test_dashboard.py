"""The whole product as its people use it: a real browser, site, watcher, Consul and processes."""

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


def row(page: Page, name: str) -> Locator:
    """Its row in the table of services."""
    return page.locator("#services tbody tr", has=page.get_by_role("link", name=name, exact=True))


def chip(where: Locator, word: str, timeout: float = LONG_MS) -> None:
    where.locator(".chip", has_text=re.compile(rf"^{word}$")).first.wait_for(timeout=timeout)


def test_from_declaring_to_eviction_and_back_without_reloading(
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
    shown = row(page, "backend-api")
    chip(shown, "Synced")
    chip(shown, "Passing")
    page.locator("#attention-title", has_text="Nothing needs attention").wait_for()

    service.stop()
    chip(shown, "Critical")
    page.locator("#attention-title", has_text="1 service needs attention").wait_for()
    page.locator("#attention").get_by_text("connection refused").first.wait_for()
    chip(shown, "Evicted")
    assert not consul.agent_instances()

    http_service(port=port)
    chip(shown, "Synced")
    chip(shown, "Passing")
    assert page.evaluate("window.notReloaded") is True

    page.get_by_role("link", name="backend-api").first.click()
    timeline = page.locator(".service-timeline")
    timeline.get_by_text("Evicted").first.wait_for()
    page.locator(".service-bars .bar-degraded, .service-bars .bar-critical").first.wait_for(state="attached")


def test_an_edit_by_hand_is_put_right_and_can_be_read_about(
    operator_page, start_watcher, consul_agent, consul, live_server
):
    page = operator_page
    start_watcher()
    service = Service.objects.create(name="backend-api", check_kind="none")
    Instance.objects.create(service=service, address="127.0.0.1", port=8001, consul_id="api-1")
    page.goto(f"{live_server.url}/services/backend-api/")
    chip(page.locator("#service-statuses"), "Synced")
    have = consul_agent.request("GET", "/v1/agent/service/api-1")
    edited = {"ID": "api-1", "Name": "backend-api", "Address": "127.0.0.1", "Port": 81, "Meta": have["Meta"]}
    consul_agent.request("PUT", "/v1/agent/service/register", body=edited)
    wait_until(lambda: consul.agent_instances()["api-1"].port == 8001, what="the watcher to put it right")
    page.get_by_role("link", name="Sync", exact=True).first.wait_for()
    page.get_by_role("link", name="History").click()
    page.get_by_role("link", name="Syncs").click()
    page.locator("tbody tr", has_text="1 updated").get_by_role("link").first.click()
    page.get_by_text("edited by hand").wait_for()
    assert page.locator("del", has_text="81").count() == 1


def test_when_consul_goes_away_the_banner_is_there_within_seconds_and_nothing_is_green(
    operator_page, start_watcher, proxy, http_service
):
    page, service = operator_page, http_service()
    start_watcher()
    declare_by_form(page, "backend-api", service.port)
    page.get_by_role("navigation", name="Sections").get_by_role("link", name="Services").click()
    chip(row(page, "backend-api"), "Passing")

    proxy.cut()
    page.locator(".registry-banner", has_text="Consul at").wait_for(timeout=15_000)
    assert page.locator(".chip-passing, .chip-synced, .cell-passing").count() == 0
    fills = page.locator(".registry-bars .bar-passing").evaluate_all(
        "bars => bars.map(bar => getComputedStyle(bar).fill)"
    )
    quiet = page.locator(".registry-bars").first.evaluate(
        "bar => { const rect = document.createElementNS('http://www.w3.org/2000/svg', 'rect');"
        " rect.setAttribute('class', 'bar-no_data'); bar.append(rect); const fill = getComputedStyle(rect).fill;"
        " rect.remove(); return fill }"
    )
    assert set(fills) <= {quiet}

    proxy.mend()
    chip(row(page, "backend-api"), "Passing")
    page.locator(".registry-banner").first.wait_for(state="detached")


def test_a_foreign_service_is_adopted(operator_page, start_watcher, consul_agent, consul, live_server):
    page = operator_page
    body = {"Name": "billing", "ID": "theirs", "Address": "127.0.0.1", "Port": 9}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    start_watcher()
    chip(row(page, "billing"), "Unmanaged")
    page.get_by_role("link", name="billing", exact=True).click()
    page.get_by_role("button", name="Adopt: declare it as it is in Consul").click()
    page.get_by_text("Declared as in Consul: theirs.").wait_for()
    chip(page.locator("#service-statuses"), "Synced")
    assert consul.agent_instances()["theirs"].owner == "registry-admin"


def test_export_change_and_import(operator_page, start_watcher, consul, live_server, tmp_path):
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
    assert page.locator("del", has_text="8001").count() == 1
    page.get_by_role("button", name="Import 1 change").click()
    page.get_by_text("Imported: 0 to create, 1 to change").wait_for()
    wait_until(lambda: consul.agent_instances()["api-1"].port == 8002, what="Consul to follow")


def test_prune_asks_for_the_right_words(operator_page, consul, live_server, settings):
    from registry_admin.inventory.passes import Pass

    page = operator_page
    service = Service.objects.create(name="old", check_kind="none")
    for port in range(8001, 8006):
        Instance.objects.create(service=service, address="127.0.0.1", port=port)
    Pass(trigger="command").make()
    Instance.objects.all()._raw_delete("default")
    Pass(trigger="command", prune=True).make()  # refused: everything would go
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


def test_what_the_reader_is_doing_stays_while_the_page_changes(operator_page, live_server):
    page = operator_page
    from tests.inventory import mirrored

    mirrored.look()
    mirrored.declare("api", 3, first_port=8001)
    mirrored.lose("api-127.0.0.1-8001")
    mirrored.lose("api-127.0.0.1-8002")
    page.goto(f"{live_server.url}/drift/")
    box = page.get_by_label("Choose api-127.0.0.1-8001")
    box.check()
    page.get_by_label("Service").fill("half a wo")
    mirrored.lose("api-127.0.0.1-8003")
    bump()
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
    bump()
    page.get_by_text("extra", exact=False).first.wait_for()
    assert fold.evaluate("fold => fold.open") is True


def bump() -> None:
    """As the mirror does when something in it changes."""
    from django.db.models import F

    from registry_admin.inventory.models import ConsulContact

    ConsulContact.objects.update(revision=F("revision") + 1)


def test_pausing_offline_and_the_search_key(operator_page, live_server):
    page = operator_page
    from tests.inventory import mirrored

    mirrored.look()
    mirrored.declare("api")
    page.goto(f"{live_server.url}/")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "q"
    page.get_by_role("button", name="Pause").click()
    page.locator("#live-state", has_text="Paused").wait_for()
    mirrored.declare("web", first_port=8100)
    bump()
    page.wait_for_timeout(3500)  # nothing can be waited for: nothing is to happen
    assert row(page, "web").count() == 0
    page.get_by_role("button", name="Resume").click()
    row(page, "web").wait_for()

    page.route("**/*", lambda route: route.abort())
    page.locator("#live-state", has_text="Offline").wait_for()
    assert "lost touch" in page.locator("#live-said").inner_text()
    page.unroute("**/*")
    page.locator("#live-state", has_text="Live").wait_for()
    assert all("ERR_FAILED" in complaint for complaint in page.complaints)
    page.complaints.clear()
