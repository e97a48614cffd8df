"""Permissions of every URL for anonymous, viewer, operator and pruner: GET changes no state, POST needs a right."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from registry_admin.callgraph.models import CallCount
from registry_admin.inventory import roles
from registry_admin.inventory.models import (
    HealthTransition,
    Instance,
    ObservedInstance,
    Service,
    SyncRun,
)
from registry_admin.inventory.sync import mirror
from registry_admin.inventory.sync.reconciler import Reconciler

pytestmark = pytest.mark.django_db(transaction=True)

PUBLIC = {"/api/v1/openapi.json", "/health", "/ready", "/admin/login/"}
ROLES = {"viewer": roles.VIEWERS, "operator": roles.OPERATORS, "pruner": roles.PRUNERS}
# Forms of the user's own session, and forms that other tests cover.
EXCLUDED = ("/admin/logout/", "/admin/password_change/", "/admin/login/", "/admin/auth/")


@pytest.fixture
def site_data(consul, consul_agent, declare, sync, settings) -> dict[str, Any]:
    """Rows of each kind: declared and in Consul, removed by hand, owned and no longer declared, and foreign."""
    service = declare("api", 8001, 8002)
    old = declare("old", 8101)
    consul_agent.request("PUT", "/v1/agent/service/register", body={"Name": "billing", "ID": "theirs", "Port": 9})
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}
    sync()
    Instance.objects.filter(service=old)._raw_delete("default")
    old.delete()
    consul.deregister("api-127.0.0.1-8002")
    comparison = Reconciler(trigger=SyncRun.Trigger.COMMAND).plan()
    mirror.record_snapshot(comparison.inventory, comparison.snapshot, comparison.plan, read_at=comparison.read_at)
    run = SyncRun.objects.create(trigger="watch", outcome="done")
    transition = HealthTransition.objects.create(service_name="api", consul_id="x", before="", after="passing")
    user = User.objects.create_superuser("root", password="secret")
    return {
        "service": service.pk, "syncrun": run.pk, "healthtransition": transition.pk, "user": user.pk,
        "observedinstance": ObservedInstance.objects.get(consul_id="theirs").pk, "group": Group.objects.first().pk,
        "run": run.pk, "name": "api",
    }  # fmt: skip


@pytest.fixture
def clients(site_data, client_of) -> dict[str, Client]:
    """Clients by role: each group, a superuser `root` and the anonymous `nobody`."""
    clients = {"nobody": Client()}
    for role, group in ROLES.items():
        user = User.objects.create_user(role, password="secret", is_staff=True)
        user.groups.add(Group.objects.get(name=group))
        clients[role] = client_of(user)
    clients["root"] = client_of(User.objects.get(username="root"))
    return clients


def page_paths(site_data: dict[str, Any]) -> list[str]:
    """Returns the path of every URL pattern, with keys of existing rows."""
    return sorted({urlsplit(url).path for url in _paths(get_resolver().url_patterns, [], site_data)})


def _paths(patterns: Any, namespaces: list[str], site_data: dict[str, Any]) -> Iterator[str]:
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            inner = [*namespaces, pattern.namespace] if pattern.namespace else namespaces
            yield from _paths(pattern.url_patterns, inner, site_data)
        elif (
            isinstance(pattern, URLPattern)
            and pattern.name
            and pattern.name not in ("view_on_site", "password_change_done")
        ):
            yield reverse(":".join([*namespaces, pattern.name]), kwargs=_arguments(pattern, site_data))


def _arguments(pattern: URLPattern, site_data: dict[str, Any]) -> dict[str, Any]:
    values = {"name": site_data["name"], "app_label": "inventory", "id": site_data["user"]}
    arguments = {}
    for key in pattern.pattern.converters or pattern.pattern.regex.groupindex:
        model = (pattern.name or "").split("_")[1:2]
        own = site_data.get(model[0]) if model else None
        arguments[key] = values.get(key) or own or site_data["run"]
    return arguments


def state(consul) -> Any:
    """Returns all state that a user can change, in the database and in Consul."""
    return (
        sorted(Service.objects.values_list("name", "enabled", "owner")),
        sorted(Instance.objects.values_list("consul_id", "enabled", "weight")),
        SyncRun.objects.count(),
        CallCount.objects.count(),
        sorted(User.objects.values_list("username", "password", "is_superuser")),
        sorted((key, instance.owner, instance.health) for key, instance in consul.agent_instances().items()),
    )


class _Forms(HTMLParser):
    """Parser that collects (URL, data) for each button of each POST form of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.page = page
        self.submissions: list[tuple[str, dict[str, Any]]] = []
        self._posts = False
        self._url, self._fields, self._buttons, self._choices = page, {}, [], {}
        self._select = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        attributes = dict(attrs)
        name, value = attributes.get("name", ""), attributes.get("value") or "on"
        if tag == "form":
            self._posts = (attributes.get("method") or "").lower() == "post"
            self._url = urljoin(self.page, attributes.get("action") or "")
            self._fields, self._buttons, self._choices = {}, [], {}
        elif tag == "input" and name and attributes.get("type") == "submit":
            self._buttons.append({name: value})
        elif tag == "input" and name and name != "csrfmiddlewaretoken":
            self._fields[name] = attributes.get("value") or ("on" if attributes.get("type") == "checkbox" else "x")
        elif tag == "button" and name:
            self._buttons.append({name: value})
        elif tag == "textarea" and name:
            self._fields[name] = "x"
        elif tag == "select":
            self._select = name
            self._choices[name] = []
        elif tag == "option" and self._select and attributes.get("value"):
            self._choices[self._select].append(attributes["value"])

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = ""
        if tag != "form" or not self._posts:
            return
        self._posts = False
        actions = self._choices.pop("action", None)
        fields = {name: values[0] for name, values in self._choices.items() if values} | self._fields
        # A list action asks for confirmation; sending the confirmation at once must not help.
        if actions:
            self.submissions += [
                (self._url, fields | {"action": action, "confirmed": "yes", "post": "yes"}) for action in actions
            ]
        else:
            self.submissions += [(self._url, fields | button) for button in self._buttons or [{}]]


def post_forms(client: Client, pages: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """Returns the distinct (URL, data) of the POST forms on `pages`, as `client` sees them."""
    submissions: dict[str, tuple[str, dict[str, Any]]] = {}
    for page in pages:
        response = client.get(page)
        if response.status_code == 200 and "html" in response.headers["Content-Type"]:
            parser = _Forms(page)
            parser.feed(response.content.decode())
            for url, data in parser.submissions:
                if not url.startswith(EXCLUDED):
                    submissions[repr((url, sorted(data.items())))] = url, data
    return list(submissions.values())


def test_get_of_every_page_changes_no_state_and_anonymous_is_redirected(site_data, clients, consul):
    pages = page_paths(site_data)
    assert len(pages) > 40
    before = state(consul)
    for role, client in clients.items():
        for page in pages:
            if page == "/admin/logout/":
                continue
            status = client.get(page, {"action": "sync", "what": "all", "confirmed": "yes"}).status_code
            assert status < 500, (role, page)
            if role == "nobody":
                refusals = (401, 404, 405) if page.startswith("/api/v1/") else (302, 404, 405)
                assert status in ((200,) if page in PUBLIC else refusals), page
    assert state(consul) == before


def test_post_without_csrf_token_is_refused_and_changes_no_state(site_data, clients, consul):
    submissions = post_forms(clients["root"], page_paths(site_data))
    assert submissions
    before = state(consul)
    for url, data in submissions:
        strict = Client(enforce_csrf_checks=True)
        strict.cookies = clients["root"].cookies
        assert strict.post(url, data).status_code == 403, url
    assert state(consul) == before


@pytest.mark.parametrize("role", ["nobody", "viewer"])
def test_post_without_permission_changes_no_state(role, site_data, clients, consul):
    submissions = post_forms(clients["root"], page_paths(site_data))
    assert {"sync", "disable", "adopt", "release", "maintenance_on"} <= {data.get("action") for _, data in submissions}
    assert {"/drift/", "/drift/prune/", "/admin/inventory/service/import/"} <= {url for url, _ in submissions}
    before = state(consul)
    for url, data in submissions:
        response = clients[role].post(url, data)
        assert response.status_code in (302, 403, 200), (url, data)
    assert state(consul) == before


def test_operator_posts_sync_and_remove_no_instance(site_data, clients, consul):
    submissions = post_forms(clients["root"], page_paths(site_data))
    registered, declared = consul.agent_instances().keys(), set(Instance.objects.values_list("consul_id", flat=True))
    for url, data in submissions:
        if data.get("action") in ("disable", "adopt"):  # an edit, which can be undone
            continue
        clients["operator"].post(url, data)
    assert consul.agent_instances().keys() >= registered
    assert set(Instance.objects.values_list("consul_id", flat=True)) >= declared
    assert SyncRun.objects.filter(actor="operator").exists()


def test_pruner_post_removes_undeclared_instance(site_data, clients, consul):
    page = clients["pruner"].get("/drift/prune/").content.decode()
    digest = page.partition('name="digest" value="')[2].partition('"')[0]
    assert "old-127.0.0.1-8101" in consul.agent_instances()
    clients["pruner"].post("/drift/prune/", {"digest": digest})
    assert "old-127.0.0.1-8101" not in consul.agent_instances()


def test_make_groups_keeps_permissions_that_were_added(db):
    group = Group.objects.get(name=roles.VIEWERS)
    codes = set(group.permissions.values_list("codename", flat=True))
    assert all(code.startswith("view_") for code in codes)
    extra = Group.objects.get(name=roles.PRUNERS).permissions.get(codename="prune_service")
    group.permissions.set([extra])
    roles.make_groups()
    assert set(group.permissions.values_list("codename", flat=True)) == codes | {"prune_service"}
