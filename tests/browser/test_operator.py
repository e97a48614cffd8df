"""An operator's day, in a real browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from registry_admin.inventory.models import Instance, Service
from tests.parts import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.django_db(transaction=True)


def wait_for_status(pane: Locator, *labels: str) -> None:
    """Until the pane shows a chip with each of these words."""
    for label in labels:
        pane.locator(".chip", has_text=re.compile(rf"^{label}$")).first.wait_for()


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


def test_a_service_declared_in_the_form_turns_up_in_consul_and_its_health_in_the_page(
    operator_page, start_watcher, consul, http_service
):
    page, service = operator_page, http_service()
    start_watcher()
    declare_by_form(page, "backend-api", service.port)

    page.get_by_text(f"Synced with Consul: registered backend-api-127.0.0.1-{service.port}.").wait_for()
    wait_until(
        lambda: consul.agent_instances().keys() == {f"backend-api-127.0.0.1-{service.port}"}, what="it in Consul"
    )
    page.evaluate("window.notReloaded = true")
    pane = page.locator("#live-pane")
    wait_for_status(pane, "Synced", "Passing")

    service.stop()
    wait_for_status(pane, "Critical")
    pane.get_by_text("connection refused").wait_for()
    assert page.evaluate("window.notReloaded") is True

    page.get_by_role("navigation", name="Sections").get_by_role("link", name="Services").click()
    page.locator("#services .chip", has_text="Critical").wait_for()


def test_when_consul_goes_away_the_open_page_stops_showing_green(operator_page, start_watcher, proxy, http_service):
    page, service = operator_page, http_service()
    start_watcher()
    declare_by_form(page, "backend-api", service.port)
    pane = page.locator("#live-pane")
    wait_for_status(pane, "Synced", "Passing")

    proxy.cut()
    pane.locator(".registry-banner", has_text="Consul at").wait_for()
    assert pane.locator(".chip-passing, .chip-synced").count() == 0
    assert pane.get_by_text("Unknown (was Passing)").count() == 2

    proxy.mend()
    wait_for_status(pane, "Synced", "Passing")


def test_a_page_that_has_lost_the_site_says_so_and_recovers(operator_page, live_server):
    page = operator_page
    service = Service.objects.create(name="backend-api")
    page.goto(f"{live_server.url}/admin/inventory/service/{service.pk}/change/")
    pane = page.locator("#live-pane")
    page.route("**/live/", lambda route: route.abort())
    page.locator("#live-pane[data-offline]").wait_for()
    notice = pane.evaluate("pane => getComputedStyle(pane, '::before').content")
    assert "lost touch" in notice
    page.unroute("**/live/")
    page.locator("#live-pane:not([data-offline])").wait_for()
    assert all("ERR_FAILED" in complaint for complaint in page.complaints)
    page.complaints.clear()


@pytest.mark.parametrize(
    "where",
    ["admin/inventory/service/", "admin/inventory/service/{pk}/change/", "admin/inventory/service/import/",
     "admin/inventory/observedinstance/", "admin/inventory/syncrun/", "admin/inventory/", "", "services/{name}/",
     "drift/", "drift/prune/", "history/", "history/syncs/", "history/changes/", "map/"],
)  # fmt: skip
def test_pages_fit_a_screen_of_400_pixels(operator_page, live_server, where):
    page = operator_page
    service = Service.objects.create(
        name="backend-api-with-quite-a-long-name", description="x" * 200, owner="team-blue"
    )
    Instance.objects.create(service=service, address="10.20.30.40", port=65000)
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto(f"{live_server.url}/{where.format(pk=service.pk, name=service.name)}")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 400
    assert page.locator("#content h1, #content h2").first.is_visible()
