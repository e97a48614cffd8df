"""Open pages in a browser after the logout in another tab: nothing of them stays, and they ask no more."""

from __future__ import annotations

import pytest

from registry_admin.inventory.models import Service

pytestmark = pytest.mark.django_db(transaction=True)


def test_logout_in_one_tab_leads_the_other_to_the_login_and_ends_its_polls(operator_page, live_server):
    page = operator_page
    Service.objects.create(name="backend-api", check_kind="none")
    page.reload()
    page.get_by_role("link", name="backend-api").first.wait_for()
    other = page.context.new_page()
    other.goto(f"{live_server.url}/admin/")
    other.get_by_role("button", name="Log out").click()
    other.get_by_text("Log in again").wait_for()
    page.get_by_label("Password").wait_for()
    assert page.url == f"{live_server.url}/admin/login/?next=/"
    polls: list[str] = []
    page.on("request", lambda request: polls.append(request.url))
    page.go_back()
    page.get_by_label("Password").wait_for()
    assert "backend-api" not in page.content()
    assert not [url for url in polls if not url.startswith(f"{live_server.url}/static") and "login" not in url][1:]
    page.complaints[:] = [text for text in page.complaints if "401" not in text]
