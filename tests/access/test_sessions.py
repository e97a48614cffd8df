"""The end of sessions: when idle, at their limit, at the logout; and what counts as use."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.sessions.backends.base import UpdateError
from django.test import Client
from django.utils import timezone

from registry_admin.access.middleware import LIVE_HEADER
from registry_admin.access.models import Session
from registry_admin.access.sessions import SessionStore
from registry_admin.inventory.sync import runs

pytestmark = pytest.mark.django_db

LIVE = {LIVE_HEADER: "1"}


def age(**fields: timedelta) -> None:
    now = timezone.now()
    Session.objects.update(**{name: now - before for name, before in fields.items()})


def test_session_ends_at_its_limit_whatever_is_done(operator, settings):
    (session,) = Session.objects.all()
    limit = session.expire_date
    assert timedelta(hours=23, minutes=59) < limit - timezone.now() <= timedelta(hours=24)
    age(used_at=timedelta(hours=1))
    assert operator.get("/").status_code == 200
    operator.post("/drift/", {})  # leaves a message in the session, which saves it
    session.refresh_from_db()
    assert session.expire_date == limit
    age(expire_date=timedelta(seconds=1))
    assert operator.get("/").status_code == 302


def test_session_that_nobody_uses_ends(operator):
    age(used_at=timedelta(hours=3, minutes=59))
    assert operator.get("/").status_code == 200
    age(used_at=timedelta(hours=4, seconds=1))
    assert operator.get("/").status_code == 302
    assert operator.get("/", headers=LIVE).status_code == 401


def test_session_limits_are_settings(operator, settings):
    settings.REGISTRY = {"SESSION_IDLE": "1m", "SESSION_LIMIT": "2h"}
    age(used_at=timedelta(seconds=61))
    assert operator.get("/").status_code == 302


def test_poll_is_no_use_of_the_session(operator):
    age(used_at=timedelta(hours=1))
    before = Session.objects.get().used_at
    assert operator.get("/", headers=LIVE).status_code == 200
    assert Session.objects.get().used_at == before
    operator.get("/")
    assert Session.objects.get().used_at > before


def test_use_within_a_minute_writes_nothing(operator, count_queries):
    operator.get("/drift/")
    assert not [
        sql for sql in count_queries(lambda: operator.get("/drift/")) if sql.startswith(("INSERT", "UPDATE", "DELETE"))
    ]


def test_logout_ends_every_page_of_the_session(operator):
    etag = operator.get("/", headers=LIVE)["ETag"]
    other_tab = Client()
    other_tab.cookies["sessionid"] = operator.cookies["sessionid"].value
    assert other_tab.get("/", headers=LIVE).status_code == 200
    operator.post("/admin/logout/")
    assert not Session.objects.exists()
    assert other_tab.get("/", headers=LIVE | {"If-None-Match": etag}).status_code == 401
    assert other_tab.get("/").status_code == 302


def test_session_of_deleted_user_is_deleted(make_user, client_of):
    user = make_user("view_service")
    client = client_of(user)
    assert client.get("/").status_code == 200
    user.delete()
    assert not Session.objects.exists()


def test_prune_history_deletes_ended_sessions(operator):
    runs.prune_history(timedelta(days=30))
    assert Session.objects.count() == 1
    age(expire_date=timedelta(seconds=1))
    assert runs.prune_history(timedelta(days=30))["sessions"] == 1
    assert not Session.objects.exists()


def test_page_is_not_stored_by_the_browser(operator):
    assert operator.get("/")["Cache-Control"] == "private, no-store"


def test_closed_session_is_not_brought_back_by_a_reader(operator):
    key = operator.cookies["sessionid"].value
    reader = SessionStore(key)
    assert "_auth_user_id" in reader
    operator.post("/admin/logout/")
    reader["late"] = "write"
    with pytest.raises(UpdateError):
        reader.save()
    assert not Session.objects.exists()
    assert not SessionStore(key).load()
