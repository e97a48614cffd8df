"""What the watcher does, as it is seen in an open page; and what operators do about strangers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from registry_admin.inventory.models import Service
from tests.browser.test_operator import wait_for_status
from tests.parts import free_port, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.django_db(transaction=True)


def open_service(page: Page, site: str, service: Service) -> None:
    page.goto(f"{site}/admin/inventory/service/{service.pk}/change/")
    page.evaluate("window.notReloaded = true")


def test_a_service_that_dies_is_seen_critical_then_evicted_and_passing_when_it_is_back(
    operator_page, live_server, start_watcher, http_service
):
    page, port = operator_page, free_port()
    process = http_service(port=port)
    service = Service.objects.create(
        name="backend-api", check_path="/", check_interval="1s", check_timeout="1s", deregister_after="4s"
    )
    service.instances.create(address="127.0.0.1", port=port)
    start_watcher()
    open_service(page, live_server.url, service)
    pane = page.locator("#live-pane")
    wait_for_status(pane, "Synced", "Passing")

    process.stop()
    wait_for_status(pane, "Critical")
    wait_for_status(pane, "Evicted")
    pane.get_by_text(re.compile(r"Critical for \d+ s, 4 s allowed: .*refused")).wait_for()
    pane.get_by_text(re.compile(r"not in Consul\s*evicted \d{4}-")).wait_for()

    http_service(port=port)
    wait_for_status(pane, "Synced", "Passing")
    assert page.evaluate("window.notReloaded") is True

    page.goto(f"{live_server.url}/admin/inventory/healthtransition/")
    changes = page.locator("#result_list .field-change").all_inner_texts()
    assert "Critical → Evicted" in changes
    assert "Passing → Critical" in changes


def test_a_stranger_is_adopted_and_released_again(operator_page, live_server, start_watcher, consul_agent, consul):
    page = operator_page
    start_watcher()
    body = {"ID": "legacy-1", "Name": "legacy", "Address": "127.0.0.1", "Port": free_port()}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)

    def listed() -> int:
        page.goto(f"{live_server.url}/admin/inventory/observedinstance/")
        return page.locator("#result_list .chip", has_text="Unmanaged").count()

    wait_until(listed, 20, "the stranger to be listed")
    page.get_by_role("row", name=re.compile("legacy-1")).get_by_role("checkbox").check()
    page.get_by_label("Action:").select_option(label="Adopt: declare as it is there")
    page.get_by_role("button", name="Go").click()
    page.get_by_role("button", name="Yes, adopt them").click()
    page.get_by_text("Declared as in Consul: legacy-1.").wait_for()
    wait_until(lambda: consul.agent_instances()["legacy-1"].owner, what="our mark")

    page.goto(f"{live_server.url}/admin/inventory/service/")
    page.get_by_role("row", name=re.compile("legacy")).get_by_role("checkbox").check()
    page.get_by_label("Action:").select_option(label="Release: keep in Consul, drop the declaration")
    page.get_by_role("button", name="Go").click()
    page.get_by_role("heading", name="Release them").wait_for()
    page.get_by_role("button", name="Yes, release them").click()
    page.get_by_text("Released, and left in Consul as they are: legacy-1.").wait_for()
    assert dict(consul.agent_instances()["legacy-1"].meta) == {}
    wait_until(listed, 20, "it to be a stranger again")
