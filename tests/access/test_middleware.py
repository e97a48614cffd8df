"""The context of requests: IDs, host names, refusals and errors, each with a line and most with a row."""

from __future__ import annotations

import logging
import re

import pytest
from django.contrib.auth.models import Group
from django.test import Client
from django.urls import path

from registry_admin import urls
from registry_admin.inventory import roles
from registry_admin.inventory.models import AuditEvent
from registry_admin.logs import JsonFormatter, LineFormatter
from tests.parts import mirrored

pytestmark = pytest.mark.django_db

Action = AuditEvent.Action


def broken(request):
    raise ZeroDivisionError("of the test\nINFO forged")


handler403, handler500 = urls.handler403, urls.handler500
urlpatterns = [*urls.urlpatterns, path("broken/", broken)]


def lines(caplog) -> list[str]:
    """The lines that the site's handler would write."""
    return [LineFormatter().format(record) for record in caplog.records]


@pytest.mark.urls(__name__)
def test_unhandled_error_is_logged_on_one_line_with_the_id_that_the_page_shows(caplog, client, django_capture):
    client.raise_request_exception = False
    response = client.get("/broken/?token=hidden")
    request_id = response["X-Request-ID"]
    assert response.status_code == 500
    assert request_id in response.content.decode()
    (line,) = django_capture()
    assert f"request_id={request_id}" in line
    assert "Traceback" in line
    assert "ZeroDivisionError" in line
    assert "\n" not in line
    assert "hidden" not in line


@pytest.fixture
def django_capture():
    """The lines of Django's loggers, formatted as they are within the request, for these don't reach the root."""
    formatted: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            formatted.append(LineFormatter().format(record))
            JsonFormatter().format(record)

    handler = Handler()
    logging.getLogger("django").addHandler(handler)
    yield lambda: formatted
    logging.getLogger("django").removeHandler(handler)


def test_request_id_is_made_anew_unless_a_trusted_proxy_gives_it(client, settings):
    given = {"X-Request-ID": "given-by-the-proxy"}
    settings.BEHIND_PROXY = False
    first, second = (client.get("/health", headers=given)["X-Request-ID"] for _ in range(2))
    assert first != second
    assert re.fullmatch("[0-9a-f]{32}", first)
    settings.BEHIND_PROXY = True
    assert client.get("/health", headers=given)["X-Request-ID"] == "given-by-the-proxy"
    assert client.get("/health", headers=given, REMOTE_ADDR="203.0.113.5")["X-Request-ID"] != "given-by-the-proxy"
    assert client.get("/health", headers={"X-Request-ID": "<script>alert(1)"})["X-Request-ID"] != "<script>alert(1)"


@pytest.mark.parametrize("host", ["evil.example", "localhost\nforged", "a b", "[::", "x" * 2000])
def test_refused_host_leaves_a_row_and_a_line(host, client, caplog):
    response = client.get("/", headers={"Host": host})
    assert (response.status_code, b"DJANGO_ALLOWED_HOSTS" in response.content) == (400, True)
    event = AuditEvent.objects.get()
    assert (event.action, event.address) == (Action.HOST_REFUSED, "127.0.0.1")
    assert event.target == host[:512]
    assert len([line for line in lines(caplog) if "unknown host name" in line]) == 1
    assert not [line for line in lines(caplog) if "\n" in line]


def test_refused_permission_leaves_a_row_and_a_line(client_of, make_user, caplog, django_capture):
    client = client_of(make_user("view_service", name="ada"))
    assert client.post("/drift/", {"what": "all"}).status_code == 403
    event = AuditEvent.objects.get(action=Action.PERMISSION_REFUSED)
    assert (event.actor, event.via, event.target) == ("ada", "dashboard", "POST /drift/")
    assert len([line for line in lines(caplog) if "no permission" in line]) == 1
    assert django_capture() == []  # an event is one line


def test_refused_removal_leaves_a_row(client_of, make_user):
    user = make_user(name="ada")
    user.groups.add(Group.objects.get(name=roles.OPERATORS))
    mirrored.declare("api")
    mirrored.look()
    client_of(user).post("/services/api/", {"action": "disable"})
    events = AuditEvent.objects.filter(action=Action.PERMISSION_REFUSED)
    assert [(event.actor, event.target) for event in events] == [("ada", "POST /services/api/")]


def test_refused_form_leaves_a_row_and_a_line(make_user, caplog, django_capture):
    client = Client(enforce_csrf_checks=True)
    client.force_login(make_user(name="ada", superuser=True))
    assert client.post("/drift/", {"what": "all"}).status_code == 403
    event = AuditEvent.objects.get(action=Action.CSRF_REFUSED)
    assert (event.actor, event.target) == ("ada", "POST /drift/")
    assert "CSRF" in event.detail
    assert len([line for line in lines(caplog) if "not from our form" in line]) == 1
    assert django_capture() == []


def test_login_logout_and_failure_leave_a_row_without_secrets(make_user, client, caplog):
    caplog.set_level(logging.INFO)
    make_user(name="ada")
    AuditEvent.objects.all().delete()
    for name, password in (("ada", "guess-1"), ("my-secret-password", "guess-2"), ("ada", "secret")):
        client.post("/admin/login/", {"username": name, "password": password})
    client.post("/admin/logout/")
    rows = list(AuditEvent.objects.order_by("pk").values_list("action", "actor", "target", "address"))
    assert rows == [
        (Action.LOGIN_FAILED, "", "ada", "127.0.0.1"),
        (Action.LOGIN_FAILED, "", "an unknown name", "127.0.0.1"),
        (Action.LOGIN, "ada", "", "127.0.0.1"),
        (Action.LOGOUT, "ada", "", "127.0.0.1"),
    ]
    text = "\n".join(lines(caplog))
    assert "Logged in" in text
    assert "my-secret-password" not in text
    assert "guess" not in text


def test_locked_login_leaves_a_row(client, make_user):
    make_user(name="ada")
    for _ in range(6):
        # pragma: allowlist nextline secret - only for tests
        client.post("/admin/login/", {"username": "ada", "password": "guess"})
    assert AuditEvent.objects.filter(action=Action.LOGIN_LOCKED, target="ada").count() == 1


def test_change_of_user_leaves_a_row(operator, make_user):
    ada = make_user(name="ada")
    group = Group.objects.get(name=roles.PRUNERS)
    page = f"/admin/auth/user/{ada.pk}/change/"
    operator.post(page, {
        "username": "ada", "is_active": "on", "is_superuser": "on", "groups": [group.pk],
        "date_joined_0": "2026-11-27", "date_joined_1": "12:00:00",
    })  # fmt: skip
    rows = AuditEvent.objects.filter(action=Action.USER_CHANGED, actor="operator").values_list("target", "detail")
    assert ("user ada", "changed: is_active, is_superuser") in rows
    assert ("user ada", f"gets {group}") in rows


def test_audit_trail_is_seen_by_superusers_and_whoever_is_given_it(operator, client_of, make_user):
    page = "/admin/inventory/auditevent/"
    viewer = make_user(name="viewer")
    viewer.groups.add(Group.objects.get(name=roles.PRUNERS))
    assert client_of(viewer).get(page).status_code == 403
    html = operator.get(page).content.decode()
    assert "Refused: no permission" in html
    event = AuditEvent.objects.first()
    assert operator.post(f"{page}{event.pk}/delete/", {"post": "yes"}).status_code == 403
    assert client_of(make_user("view_auditevent", name="auditor")).get(page).status_code == 200
