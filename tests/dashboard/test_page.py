"""Behaviour of every page: permissions, security headers, polling and observation gaps."""

from __future__ import annotations

import importlib
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from registry_admin.dashboard.views.page import LIVE_HEADER
from registry_admin.inventory.models import ConsulContact, Lease, ObservationGap, Service, SyncRun
from registry_admin.inventory.sync import mirror

pytestmark = pytest.mark.django_db

PAGES = ["home", "drift", "health-history", "sync-history", "change-history", "map"]
LIVE = {LIVE_HEADER: "1"}


@pytest.fixture
def contact(db) -> ConsulContact:
    """Current contact to Consul, with a leading watcher."""
    now = timezone.now()
    Lease.objects.create(pk=1, holder="watcher", since=now, expires_at=now + timedelta(minutes=1))
    return ConsulContact.objects.create(pk=1, reachable=True, seen_at=now)


def poll(client, etag: str = ""):
    return client.get("/", headers=LIVE | ({"If-None-Match": etag} if etag else {}))


@pytest.mark.parametrize("name", PAGES)
def test_page_needs_staff_with_view_permission(name, client, client_of, make_user):
    url = reverse(f"dashboard:{name}")
    response = client.get(url)
    assert (response.status_code, response.headers["Location"]) == (302, f"/admin/login/?next={url}")
    assert client_of(make_user("view_service", name="guest", staff=False)).get(url).status_code == 302
    assert client_of(make_user(name="nobody")).get(url).status_code == 403
    viewer = client_of(make_user("view_service", "view_healthtransition", "view_syncrun", name="viewer")).get(url)
    assert viewer.status_code == 200
    assert b'aria-current="page"' in viewer.content


@pytest.mark.parametrize("name", [*PAGES, "admin:index", "admin:inventory_service_add", "admin:login"])
def test_page_has_no_inline_code_and_csp_allows_own_host_only(name, operator):
    response = operator.get(reverse(name if ":" in name else f"dashboard:{name}"))
    policy = response.headers["Content-Security-Policy"]
    assert {part.strip() for part in policy.split(";")} >= {
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
    }
    html = response.content.decode()
    assert " style=" not in html
    assert " onclick=" not in html
    assert all("src=" in script[:200] or 'type="application/json"' in script for script in html.split("<script")[1:])


@pytest.mark.parametrize("page", ["0", "-1", "x", "\u0664", "9" * 5000])
@pytest.mark.parametrize("name", PAGES)
def test_page_with_invalid_page_number_is_not_an_error(name, page, operator):
    assert operator.get(reverse(f"dashboard:{name}"), {"page": page, "before": page}).status_code == 200


def test_poll_of_unchanged_page_is_304_and_takes_one_query(contact, operator, count_queries):
    first = poll(operator)
    assert first.status_code == 200
    assert b"<html" not in first.content
    replies = []
    assert len(count_queries(lambda: replies.append(poll(operator, first["ETag"])))) == 1
    assert (replies[0].status_code, replies[0].content) == (304, b"")


def declaration_changes():
    Service.objects.create(name="api")


def run_starts():
    SyncRun.objects.create(trigger="watch", outcome="running")


def run_ends():
    SyncRun.objects.update(outcome="done")


def consul_is_unreachable():
    mirror.record_contact(problem="Consul refused the connection")


def another_watcher_leads():
    Lease.objects.update(holder="another")


def lease_expires():
    Lease.objects.update(expires_at=timezone.now() - timedelta(seconds=1))


def contact_becomes_stale():
    ConsulContact.objects.update(seen_at=timezone.now() - timedelta(minutes=3))


@pytest.mark.parametrize(
    "change",
    [
        declaration_changes, run_starts, run_ends, consul_is_unreachable, another_watcher_leads, lease_expires,
        contact_becomes_stale,
    ],
)  # fmt: skip
def test_poll_after_change_returns_new_page(change, contact, operator, monkeypatch):
    module = importlib.import_module("registry_admin.inventory.selectors.state_stamp")
    monkeypatch.setattr(module, "RENEWAL_S", 10**9)
    SyncRun.objects.create(trigger="watch", outcome="running")
    first = poll(operator)
    assert poll(operator, first["ETag"]).status_code == 304
    change()
    assert poll(operator, first["ETag"]).status_code == 200


def test_etag_of_another_user_grants_no_access(contact, operator, client_of, make_user, client):
    etag = poll(operator)["ETag"]
    assert poll(client, etag).status_code == 401
    assert poll(client_of(make_user(name="other")), etag).status_code == 403


def test_poll_before_first_contact_is_never_304(operator):
    first = poll(operator)
    assert poll(operator, first["ETag"]).status_code == 200


def test_consul_outage_is_recorded_as_one_gap(contact):
    mirror.record_contact(problem="Consul refused the connection")
    gap = ObservationGap.objects.get()
    assert (gap.ended_at, gap.reason) == (None, "Consul refused the connection")
    assert gap.began_at == contact.seen_at
    mirror.record_contact(problem="Consul did not answer in time")
    assert ObservationGap.objects.count() == 1
    mirror.record_contact()
    gap.refresh_from_db()
    assert gap.ended_at is not None
    mirror.record_contact()
    assert ObservationGap.objects.count() == 1


def test_time_without_watcher_is_recorded_as_gap(contact):
    before = timezone.now() - timedelta(minutes=10)
    ConsulContact.objects.update(seen_at=before)
    mirror.record_contact()
    gap = ObservationGap.objects.get()
    assert gap.began_at == before
    assert gap.ended_at > before
