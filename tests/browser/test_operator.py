"""Tasks of an operator in a browser: declare, observe an outage, read on a narrow screen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from registry_admin.inventory.models import Instance, Service
from tests.parts import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.django_db(transaction=True)


def wait_for_status(region: Locator, *labels: str) -> None:
    """Waits until `region` shows a chip with each of these labels."""
    for label in labels:
        region.locator(".chip", has_text=re.compile(rf"^{label}$")).first.wait_for()


def declare_by_form(page: Page, name: str, port: int) -> None:
    page.get_by_role("link", name="Add service").click()
    page.get_by_label("Name:", exact=True).fill(name)
    page.get_by_label("Interval:", exact=True).fill("1s")
    page.get_by_role("link", name="Add another Instance").or_(
        page.get_by_role("button", name="Add another Instance")
    ).click()
    page.locator("#id_instances-0-address").fill("127.0.0.1")
    page.locator("#id_instances-0-port").fill(str(port))
    page.get_by_role("button", name="Save and continue editing").first.click()


def test_service_declared_by_form_is_registered_and_live_page_shows_its_health(
    operator_page, start_watcher, consul, http_service
):
    page, service = operator_page, http_service()
    start_watcher()
    declare_by_form(page, "backend-api", service.port)

    page.get_by_text(f"Synced with Consul: registered backend-api-127.0.0.1-{service.port}.").wait_for()
    wait_until(
        lambda: consul.agent_instances().keys() == {f"backend-api-127.0.0.1-{service.port}"},
        what="the instance in Consul",
    )
    page.get_by_role("link", name="Live page").click()
    page.evaluate("window.notReloaded = true")
    live = page.locator("#live")
    wait_for_status(live, "Synced", "Passing")

    service.stop()
    wait_for_status(live, "Critical")
    live.locator(".service-timeline").get_by_text("connection refused").first.wait_for()
    assert page.evaluate("window.notReloaded") is True

    page.get_by_role("navigation", name="Sections").get_by_role("link", name="Services").click()
    page.locator("#services .chip", has_text="Critical").wait_for()


def test_service_page_during_consul_outage_shows_unknown_until_it_ends(
    operator_page, start_watcher, proxy, http_service
):
    page, service = operator_page, http_service()
    start_watcher()
    declare_by_form(page, "backend-api", service.port)
    page.get_by_role("link", name="Live page").click()
    live = page.locator("#live")
    wait_for_status(live, "Synced", "Passing")

    proxy.cut()
    live.locator(".registry-banner", has_text="Consul at").wait_for()
    current = live.locator("#service-statuses, .registry-table")
    assert current.locator(".chip-passing, .chip-synced").count() == 0
    assert live.get_by_text("Unknown (was Passing)").count() >= 2

    proxy.restore()
    wait_for_status(live, "Synced", "Passing")


def test_page_without_connection_to_the_site_is_offline_until_it_returns(operator_page, live_server):
    page = operator_page
    Service.objects.create(name="backend-api")
    page.goto(f"{live_server.url}/services/backend-api/")
    page.route("**/services/backend-api/", lambda route: route.abort())
    page.locator("#live[data-offline]").wait_for()
    assert "lost touch" in page.locator("#live-state").get_attribute("title")
    page.unroute("**/services/backend-api/")
    page.locator("#live:not([data-offline])").wait_for()
    assert all("ERR_FAILED" in complaint for complaint in page.complaints)
    page.complaints.clear()


@pytest.mark.parametrize(
    "path",
    ["admin/inventory/service/", "admin/inventory/service/{pk}/change/", "admin/inventory/service/import/",
     "admin/inventory/observedinstance/", "admin/inventory/syncrun/", "admin/inventory/", "", "services/{name}/",
     "drift/", "drift/prune/", "history/", "history/syncs/", "history/changes/", "map/"],
)  # fmt: skip
def test_page_fits_a_screen_of_400_pixels(operator_page, live_server, path):
    page = operator_page
    service = Service.objects.create(
        name="backend-api-with-quite-a-long-name", description="x" * 200, owner="team-blue"
    )
    Instance.objects.create(service=service, address="10.20.30.40", port=65000)
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto(f"{live_server.url}/{path.format(pk=service.pk, name=service.name)}")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 400
    assert page.locator("#content h1, #content h2").first.is_visible()
