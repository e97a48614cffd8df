"""Polls: nothing is read for strangers, and an unchanged page is authorised by the one query that answers it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import Group, Permission
from django.utils import timezone

from registry_admin.access.middleware import LIVE_HEADER
from registry_admin.access.models import Session
from registry_admin.inventory import roles
from registry_admin.inventory.models import ConsulContact

pytestmark = pytest.mark.django_db


@pytest.fixture
def viewer(make_user, client_of):
    ConsulContact.objects.create(pk=1, reachable=True, seen_at=timezone.now())
    user = make_user("view_service")
    user.groups.add(Group.objects.create(name="auditors"))
    return user, client_of(user)


def poll(client, etag: str = ""):
    return client.get("/", headers={LIVE_HEADER: "1"} | ({"If-None-Match": etag} if etag else {}))


@pytest.mark.parametrize("etag", ["", 'W/"made-up"'])
def test_poll_without_session_runs_no_query(etag, client, count_queries):
    replies = []
    assert count_queries(lambda: replies.append(poll(client, etag))) == []
    assert replies[0].status_code == 401


def test_poll_with_made_up_session_reads_only_whether_it_is_one(client, count_queries):
    client.cookies["sessionid"] = "a" * 32
    replies = []
    queries = count_queries(lambda: replies.append(poll(client)))
    assert (len(queries), replies[0].status_code) == (1, 401)
    assert "access_session" in queries[0]


def test_poll_of_unchanged_page_is_authorised_by_its_only_query(viewer, count_queries):
    _, client = viewer
    etag = poll(client)["ETag"]
    replies = []
    queries = count_queries(lambda: replies.append(poll(client, etag)))
    assert (len(queries), replies[0].status_code) == (1, 304)
    assert "access_session" in queries[0]


def deactivate(user):
    type(user).objects.update(is_active=False)


def leave_staff(user):
    type(user).objects.update(is_staff=False)


def end_session(user):
    Session.objects.update(expire_date=timezone.now())


def become_idle(user):
    Session.objects.update(used_at=timezone.now() - timedelta(days=1))


def change_password(user):
    user.set_password("another one")
    user.save()


@pytest.mark.parametrize("change", [deactivate, leave_staff, end_session, become_idle, change_password])
def test_poll_after_login_has_ended_is_401(change, viewer):
    user, client = viewer
    etag = poll(client)["ETag"]
    assert poll(client, etag).status_code == 304
    change(user)
    assert poll(client, etag).status_code == 401


def test_poll_after_rights_were_taken_is_403(viewer):
    user, client = viewer
    etag = poll(client)["ETag"]
    user.user_permissions.clear()
    assert poll(client, etag).status_code == 403


def become_superuser(user):
    type(user).objects.update(is_superuser=True)


def grant(user):
    user.user_permissions.add(Permission.objects.get(codename="sync_service"))


def join_group(user):
    user.groups.add(Group.objects.get(name=roles.OPERATORS))


def group_gains(user):
    Group.objects.get(name="auditors").permissions.add(Permission.objects.get(codename="sync_service"))


@pytest.mark.parametrize("change", [become_superuser, grant, join_group, group_gains])
def test_poll_after_rights_were_given_shows_them(change, viewer):
    user, client = viewer
    etag = poll(client)["ETag"]
    assert poll(client, etag).status_code == 304
    change(user)
    assert poll(client, etag).status_code == 200
