"""Accessibility of every page: WCAG 2.2 AA by axe, light and dark, and use without JavaScript."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from registry_admin.callgraph.models import CallCount
from registry_admin.inventory.models import ConsulContact, HealthTransition, Service, SyncRun
from tests.parts import mirrored

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.django_db(transaction=True)

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
PAGES = [
    "/", "/?q=nothing-like-it",
    "/services/api/", "/services/billing/", "/services/nothing/", "/drift/", "/drift/prune/",
    "/history/", "/history/syncs/", "/history/syncs/{run}/", "/history/changes/", "/map/", "/admin/",
    "/admin/inventory/", "/admin/inventory/service/", "/admin/inventory/service/add/",
    "/admin/inventory/service/{service}/change/", "/admin/inventory/service/{service}/delete/",
    "/admin/inventory/service/import/", "/admin/inventory/observedinstance/", "/admin/inventory/syncrun/",
    "/admin/inventory/syncrun/{run}/change/", "/admin/inventory/healthtransition/", "/admin/password_change/",
]  # fmt: skip
# Best practices, not rules of WCAG, that the stock admin doesn't follow.
STOCK = {"empty-table-header", "label-title-only"}


@pytest.fixture
def site_data(transactional_db: None) -> dict[str, int]:
    """Rows of every kind, in every state."""
    service = mirrored.declare("api", 4, first_port=8001, owner="team-blue", description="What it does", tags=["v1"])
    mirrored.fail("api-127.0.0.1-8001")
    mirrored.lose("api-127.0.0.1-8002")
    mirrored.lose("api-127.0.0.1-8003", "evicted", "critical for 31 s")
    mirrored.declare("web", first_port=8100)
    mirrored.observe("theirs", "billing", health="maintenance")
    owned = {"owner": "registry-admin", "sync_status": "out_of_sync", "sync_action": "deregister"}
    mirrored.observe("old-1", "old", sync_cause="not_declared", sync_reason="owned but no longer declared", **owned)
    now = timezone.now()
    for after in ("passing", "critical", "warning", "maintenance", "evicted", ""):
        HealthTransition.objects.create(
            service_name="api", consul_id="api-1", before="passing", after=after, output="x"
        )
    items = [{"action": "update", "service": "api", "id": "api-1", "reason": "differs", "cause": "edited by hand",
              "ok": False, "error": "refused", "changes": [{"field": "port", "before": 1, "after": 2}]}]  # fmt: skip
    run = SyncRun.objects.create(trigger="action", actor="ada", outcome="partial", failed=1, items=items, scope=["api"])
    for caller, called, failures in (("web", "api", 0), ("api", "billing", 5)):
        CallCount.objects.create(at=now, caller=caller, called=called, calls=50, failures=failures, milliseconds=99)
    mirrored.look()
    return {"service": service.pk, "run": run.pk}


@pytest.fixture(params=["light", "dark"])
def page(request: Any, chromium: Browser, live_server: Any, site_data: dict[str, int]) -> Iterator[Page]:
    """Page of a logged-in user, in the light or dark colour scheme."""
    # pragma: allowlist nextline secret - only for tests
    User.objects.create_superuser("operator", password="a password for tests")
    context = chromium.new_context(color_scheme=request.param, bypass_csp=True)  # axe is injected into the page
    page = context.new_page()
    _log_in(page, live_server.url)
    yield page
    context.close()


def _log_in(page: Page, url: str) -> None:
    page.goto(f"{url}/admin/login/?next=/map/")
    page.get_by_label("Username").fill("operator")
    page.get_by_label("Password").fill("a password for tests")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Map").wait_for()


def violations(page: Page) -> list[str]:
    """Returns a line for each violation that axe reports on the page."""
    page.evaluate(AXE)
    results = page.evaluate("tags => axe.run({runOnly: {type: 'tag', values: tags}})", TAGS)["violations"]
    return [
        f"{rule['id']} ({rule['impact']}): {node['target']} {node['html'][:150]} {node['failureSummary'][:300]}"
        for rule in results
        for node in rule["nodes"][:3]
    ]


def test_page_has_no_axe_violations(page, live_server, site_data):
    by_path: dict[str, list[str]] = {}
    for path in PAGES:
        address = path.format(**site_data)
        page.goto(live_server.url + address)
        assert page.locator("h1").first.is_visible(), address
        lines = violations(page)
        if address.startswith("/admin/"):
            lines = [line for line in lines if line.partition(" ")[0] not in STOCK]
        if lines:
            by_path[address] = lines
    assert by_path == {}, "\n".join(f"{address}: {line}" for address, lines in by_path.items() for line in lines)


def test_page_without_consul_or_rows_has_no_axe_violations(page, live_server):
    ConsulContact.objects.update(reachable=False, problem="Consul refused the connection", since=timezone.now())
    for path in ("/", "/services/api/", "/drift/", "/map/"):
        page.goto(live_server.url + path)
        assert violations(page) == [], path
    Service.objects.all().delete()
    ConsulContact.objects.all().delete()
    for path in ("/", "/drift/", "/history/changes/"):
        page.goto(live_server.url + path)
        assert violations(page) == [], path


def test_page_works_without_javascript(chromium, live_server, site_data):
    # pragma: allowlist nextline secret - only for tests
    User.objects.create_superuser("operator", password="a password for tests")
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    _log_in(page, live_server.url)
    external: list[str] = []
    page.on(
        "request", lambda request: None if request.url.startswith(live_server.url) else external.append(request.url)
    )
    for path in PAGES:
        response = page.goto(live_server.url + path.format(**site_data))
        assert response.status in (200, 404), path
        assert page.locator("h1").first.is_visible(), path
    assert external == []
    page.goto(f"{live_server.url}/")
    page.get_by_label("Search").fill("web")
    page.get_by_role("button", name="Search").click()
    assert page.locator("#services tbody tr").count() == 1
    page.goto(f"{live_server.url}/services/api/")
    page.get_by_role("button", name="Disable", exact=True).click()
    page.get_by_text("api is disabled.").wait_for()
    page.goto(f"{live_server.url}/services/web/")
    page.locator("summary", has_text="Maintenance").click()
    assert page.get_by_label("Why, for those who see it in Consul").is_visible()
    context.close()
