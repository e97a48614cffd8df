"""Watcher in an open page: eviction and return, adoption and release of foreign instances."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from registry_admin.consul.marks import META_RELEASED
from registry_admin.inventory.models import Service
from tests.browser.test_operator import wait_for_status
from tests.parts import free_port, refusing_port, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.django_db(transaction=True)


def open_service(page: Page, site: str, service: Service) -> None:
    page.goto(f"{site}/services/{service.name}/")
    page.evaluate("window.notReloaded = true")


def test_service_page_shows_critical_evicted_and_passing_again(operator_page, live_server, start_watcher, http_service):
    page, port = operator_page, free_port()
    process = http_service(port=port)
    service = Service.objects.create(
        name="backend-api", check_path="/", check_interval="1s", check_timeout="1s", deregister_after="4s"
    )
    service.instances.create(address="127.0.0.1", port=port)
    start_watcher()
    open_service(page, live_server.url, service)
    live = page.locator("#live")
    wait_for_status(live, "Synced", "Passing")

    process.stop()
    wait_for_status(live, "Critical")
    wait_for_status(live, "Evicted")
    live.get_by_text(re.compile(r"Critical for \d+ s, 4 s allowed: .*refused")).wait_for()
    live.get_by_text(re.compile(r"not in Consul\s*evicted (just now|\d)")).wait_for()

    http_service(port=port)
    wait_for_status(live, "Synced", "Passing")
    assert page.evaluate("window.notReloaded") is True

    page.goto(f"{live_server.url}/admin/inventory/healthtransition/")
    changes = page.locator("#result_list .field-change").all_inner_texts()
    assert "Critical → Evicted" in changes
    assert "Passing → Critical" in changes


def test_foreign_instance_is_adopted_and_released_in_the_admin(
    operator_page, live_server, start_watcher, consul_agent, consul
):
    page = operator_page
    start_watcher()
    body = {"ID": "legacy-1", "Name": "legacy", "Address": "127.0.0.1", "Port": refusing_port()}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)

    def unmanaged_count() -> int:
        page.goto(f"{live_server.url}/admin/inventory/observedinstance/")
        return page.locator("#result_list .chip", has_text="Unmanaged").count()

    wait_until(unmanaged_count, 20, "the foreign instance in the list")
    page.get_by_role("row", name=re.compile("legacy-1")).get_by_role("checkbox").check()
    page.get_by_label("Action:").select_option(label="Adopt: declare as it is there")
    page.get_by_role("button", name="Go").click()
    page.get_by_role("button", name="Yes, adopt them").click()
    page.get_by_text("Declared as in Consul: legacy-1.").wait_for()
    wait_until(lambda: consul.agent_instances()["legacy-1"].owner, what="the owner in Consul")

    page.goto(f"{live_server.url}/admin/inventory/service/")
    page.get_by_role("row", name=re.compile("legacy")).get_by_role("checkbox").check()
    page.get_by_label("Action:").select_option(label="Release: keep in Consul, drop the declaration")
    page.get_by_role("button", name="Go").click()
    page.get_by_role("heading", name="Release them").wait_for()
    page.get_by_role("button", name="Yes, release them").click()
    page.get_by_text("Released, and left in Consul as they are: legacy-1.").wait_for()
    assert set(consul.agent_instances()["legacy-1"].meta) == {META_RELEASED}
    wait_until(unmanaged_count, 20, "the released instance in the list")
