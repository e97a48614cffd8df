"""What all pages have in common: who may see them, the frame, and keeping themselves current."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from registry_admin.dashboard.pages import LIVE_HEADER
from registry_admin.inventory import mirror
from registry_admin.inventory.models import ConsulContact, Lease, ObservationGap, Service, SyncRun

pytestmark = pytest.mark.django_db

PAGES = ["home", "drift", "health-history", "sync-history", "change-history", "map"]
LIVE = {LIVE_HEADER: "1"}


@pytest.fixture
def seen(db) -> ConsulContact:
    """Consul was looked at just now, and a watcher leads."""
    now = timezone.now()
    Lease.objects.create(pk=1, holder="watcher", since=now, expires_at=now + timedelta(minutes=1))
    return ConsulContact.objects.create(pk=1, reachable=True, seen_at=now)


def poll(client, etag: str = ""):
    return client.get("/", headers=LIVE | ({"If-None-Match": etag} if etag else {}))


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_for_staff_who_may_view_services(name, client, client_of, make_user):
    url = reverse(f"dashboard:{name}")
    response = client.get(url)
    assert (response.status_code, response.headers["Location"]) == (302, f"/admin/login/?next={url}")
    assert client_of(make_user("view_service", name="guest", staff=False)).get(url).status_code == 302
    assert client_of(make_user(name="nobody")).get(url).status_code == 403
    viewer = client_of(make_user("view_service", "view_healthtransition", "view_syncrun", name="viewer")).get(url)
    assert viewer.status_code == 200
    assert b'aria-current="page"' in viewer.content


@pytest.mark.parametrize("name", [*PAGES, "admin:index", "admin:inventory_service_add", "admin:login"])
def test_nothing_inline_and_nothing_from_another_host_is_allowed(name, operator):
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
def test_a_page_number_that_is_none_is_no_error(name, page, operator):
    assert operator.get(reverse(f"dashboard:{name}"), {"page": page, "before": page}).status_code == 200


def test_an_unchanged_page_is_not_sent_again_and_costs_one_query(seen, operator, count_queries):
    first = poll(operator)
    assert first.status_code == 200
    assert b"<html" not in first.content
    answered = []
    assert len(count_queries(lambda: answered.append(poll(operator, first["ETag"])))) == 1
    assert (answered[0].status_code, answered[0].content) == (304, b"")


def a_declaration_changes():
    Service.objects.create(name="api")


def a_run_begins():
    SyncRun.objects.create(trigger="watch", outcome="running")


def a_run_ends():
    SyncRun.objects.update(outcome="done")


def consul_goes_away():
    mirror.record_contact(problem="Consul refused the connection")


def another_watcher_leads():
    Lease.objects.update(holder="another")


def nobody_leads():
    Lease.objects.update(expires_at=timezone.now() - timedelta(seconds=1))


def nobody_has_looked_for_long():
    ConsulContact.objects.update(seen_at=timezone.now() - timedelta(minutes=3))


@pytest.mark.parametrize(
    "change",
    [
        a_declaration_changes, a_run_begins, a_run_ends, consul_goes_away, another_watcher_leads, nobody_leads,
        nobody_has_looked_for_long,
    ],
)  # fmt: skip
def test_a_page_is_sent_again_when(change, seen, operator, monkeypatch):
    monkeypatch.setattr("registry_admin.inventory.selectors.stamp.RENEWED_EVERY_S", 10**9)
    SyncRun.objects.create(trigger="watch", outcome="running")
    first = poll(operator)
    assert poll(operator, first["ETag"]).status_code == 304
    change()
    assert poll(operator, first["ETag"]).status_code == 200


def test_what_one_was_shown_is_no_key_for_another(seen, operator, client_of, make_user, client):
    etag = poll(operator)["ETag"]
    assert poll(client, etag).status_code == 401
    assert poll(client_of(make_user(name="other")), etag).status_code == 403


def test_before_anything_was_looked_at_a_page_is_always_made_anew(operator):
    first = poll(operator)
    assert poll(operator, first["ETag"]).status_code == 200


def test_a_time_without_consul_is_remembered_as_a_gap(seen):
    mirror.record_contact(problem="Consul refused the connection")
    gap = ObservationGap.objects.get()
    assert (gap.ended_at, gap.reason) == (None, "Consul refused the connection")
    assert gap.began_at == seen.seen_at
    mirror.record_contact(problem="Consul did not answer in time")
    assert ObservationGap.objects.count() == 1
    mirror.record_contact()
    gap.refresh_from_db()
    assert gap.ended_at is not None
    mirror.record_contact()
    assert ObservationGap.objects.count() == 1


def test_a_time_without_a_watcher_is_a_gap_too(seen):
    before = timezone.now() - timedelta(minutes=10)
    ConsulContact.objects.update(seen_at=before)
    mirror.record_contact()
    gap = ObservationGap.objects.get()
    assert gap.began_at == before
    assert gap.ended_at > before
