"""WCAG 2.2 AA by axe on every page, light and dark; and every page without JavaScript."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from registry_admin.inventory.models import CallCount, ConsulContact, HealthTransition, Service, SyncRun
from tests.inventory import mirrored

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
# Best practice, and no rule of WCAG, that the stock admin doesn't follow.
STOCK = {"empty-table-header", "label-title-only"}


@pytest.fixture
def world(transactional_db: None) -> dict[str, int]:
    """Something of everything, in every state."""
    service = mirrored.declare("api", 4, first_port=8001, owner="team-blue", description="What it does", tags=["v1"])
    mirrored.fail("api-127.0.0.1-8001")
    mirrored.lose("api-127.0.0.1-8002")
    mirrored.lose("api-127.0.0.1-8003", "evicted", "critical for 31 s")
    mirrored.declare("web", first_port=8100)
    mirrored.observe("theirs", "billing", health="maintenance")
    owned = {"owner": "registry-admin", "sync_status": "out_of_sync", "sync_action": "deregister"}
    mirrored.observe(
        "old-1", "old", sync_cause="no longer declared", sync_reason="owned but no longer declared", **owned
    )
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
def page(request: Any, chromium: Browser, live_server: Any, world: dict[str, int]) -> Iterator[Page]:
    """Logged in, in one of the two schemes."""
    User.objects.create_superuser("operator", password="a password for tests")
    context = chromium.new_context(color_scheme=request.param, bypass_csp=True)  # axe itself is put into the page
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


def faults(page: Page) -> list[str]:
    """What axe finds, a line each."""
    page.evaluate(AXE)
    found = page.evaluate("tags => axe.run({runOnly: {type: 'tag', values: tags}})", TAGS)["violations"]
    return [
        f"{one['id']} ({one['impact']}): {node['target']} {node['html'][:150]} {node['failureSummary'][:300]}"
        for one in found
        for node in one["nodes"][:3]
    ]


def test_axe_finds_nothing_on_any_page(page, live_server, world):
    told: dict[str, list[str]] = {}
    for path in PAGES:
        address = path.format(**world)
        page.goto(live_server.url + address)
        found = faults(page)
        if address.startswith("/admin/"):
            found = [one for one in found if one.partition(" ")[0] not in STOCK]
        if found:
            told[address] = found
    assert told == {}, "\n".join(f"{where}: {one}" for where, ones in told.items() for one in ones)


def test_axe_finds_nothing_while_consul_is_away_or_nothing_is_there(page, live_server):
    ConsulContact.objects.update(reachable=False, problem="Consul refused the connection", since=timezone.now())
    for path in ("/", "/services/api/", "/drift/", "/map/"):
        page.goto(live_server.url + path)
        assert faults(page) == [], path
    Service.objects.all().delete()
    ConsulContact.objects.all().delete()
    for path in ("/", "/drift/", "/history/changes/"):
        page.goto(live_server.url + path)
        assert faults(page) == [], path


def test_every_page_works_without_javascript(chromium, live_server, world):
    User.objects.create_superuser("operator", password="a password for tests")
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    _log_in(page, live_server.url)
    elsewhere: list[str] = []
    page.on("request", lambda sent: None if sent.url.startswith(live_server.url) else elsewhere.append(sent.url))
    for path in PAGES:
        response = page.goto(live_server.url + path.format(**world))
        assert response.status in (200, 404), path
        assert page.locator("h1").first.is_visible(), path
    assert elsewhere == []
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
