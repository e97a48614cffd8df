"""Every address there is, as nobody, viewer, operator and pruner: looking changes nothing, changing takes its right."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from registry_admin.inventory import mirror, roles
from registry_admin.inventory.models import (
    CallCount,
    HealthTransition,
    Instance,
    ObservedInstance,
    Service,
    SyncRun,
)
from registry_admin.inventory.passes import Pass

pytestmark = pytest.mark.django_db(transaction=True)

PUBLIC = {"/health", "/ready", "/admin/login/"}
ROLES = {"viewer": roles.VIEWERS, "operator": roles.OPERATORS, "pruner": roles.PRUNERS}
# Forms that are about the user's own session or that other tests are about.
NOT_OURS = ("/admin/logout/", "/admin/password_change/", "/admin/login/", "/admin/auth/")


@pytest.fixture
def world(consul, consul_agent, declare, sync, settings) -> dict[str, Any]:
    """Something of each kind: declared and in Consul, removed by hand, owned and no longer declared, and foreign."""
    service = declare("api", 8001, 8002)
    old = declare("old", 8101)
    consul_agent.request("PUT", "/v1/agent/service/register", body={"Name": "billing", "ID": "theirs", "Port": 9})
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}
    sync()
    Instance.objects.filter(service=old)._raw_delete("default")
    old.delete()
    consul.deregister("api-127.0.0.1-8002")
    look = Pass(trigger=SyncRun.Trigger.COMMAND).look()
    mirror.record_observation(look.inventory, look.observation, look.plan, looked_at=look.at)
    run = SyncRun.objects.create(trigger="watch", outcome="done")
    transition = HealthTransition.objects.create(service_name="api", consul_id="x", before="", after="passing")
    user = User.objects.create_superuser("root", password="secret")
    return {
        "service": service.pk, "syncrun": run.pk, "healthtransition": transition.pk, "user": user.pk,
        "observedinstance": ObservedInstance.objects.get(consul_id="theirs").pk, "group": Group.objects.first().pk,
        "run": run.pk, "name": "api",
    }  # fmt: skip


@pytest.fixture
def clients(world, client_of) -> dict[str, Client]:
    """One for each role, and for nobody."""
    found = {"nobody": Client()}
    for role, group in ROLES.items():
        user = User.objects.create_user(role, password="secret", is_staff=True)
        user.groups.add(Group.objects.get(name=group))
        found[role] = client_of(user)
    found["root"] = client_of(User.objects.get(username="root"))
    return found


def addresses(world: dict[str, Any]) -> list[str]:
    """All that the site knows, each with something that is there."""
    return sorted({urlsplit(address).path for address in _addresses(get_resolver().url_patterns, [], world)})


def _addresses(patterns: Any, namespaces: list[str], world: dict[str, Any]) -> Iterator[str]:
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            inner = [*namespaces, pattern.namespace] if pattern.namespace else namespaces
            yield from _addresses(pattern.url_patterns, inner, world)
        elif (
            isinstance(pattern, URLPattern)
            and pattern.name
            and pattern.name not in ("view_on_site", "password_change_done")
        ):
            yield reverse(":".join([*namespaces, pattern.name]), kwargs=_arguments(pattern, world))


def _arguments(pattern: URLPattern, world: dict[str, Any]) -> dict[str, Any]:
    known = {"name": world["name"], "app_label": "inventory", "id": world["user"]}
    found = {}
    for key in pattern.pattern.converters or pattern.pattern.regex.groupindex:
        model = (pattern.name or "").split("_")[1:2]
        own = world.get(model[0]) if model else None
        found[key] = known.get(key) or own or world["run"]
    return found


def state(consul) -> Any:
    """Everything that a person could have changed, here and in Consul."""
    return (
        sorted(Service.objects.values_list("name", "enabled", "owner")),
        sorted(Instance.objects.values_list("consul_id", "enabled", "weight")),
        SyncRun.objects.count(),
        CallCount.objects.count(),
        sorted(User.objects.values_list("username", "password", "is_superuser")),
        sorted((key, one.owner, one.health) for key, one in consul.agent_instances().items()),
    )


class _Forms(HTMLParser):
    """Every way to press a button of a form that posts: (where to, what is sent)."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.page = page
        self.found: list[tuple[str, dict[str, Any]]] = []
        self._posts = False
        self._where, self._fields, self._buttons, self._choices = page, {}, [], {}
        self._select = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        name, value = given.get("name", ""), given.get("value") or "on"
        if tag == "form":
            self._posts = (given.get("method") or "").lower() == "post"
            self._where = urljoin(self.page, given.get("action") or "")
            self._fields, self._buttons, self._choices = {}, [], {}
        elif tag == "input" and name and given.get("type") == "submit":
            self._buttons.append({name: value})
        elif tag == "input" and name and name != "csrfmiddlewaretoken":
            self._fields[name] = given.get("value") or ("on" if given.get("type") == "checkbox" else "x")
        elif tag == "button" and name:
            self._buttons.append({name: value})
        elif tag == "textarea" and name:
            self._fields[name] = "x"
        elif tag == "select":
            self._select = name
            self._choices[name] = []
        elif tag == "option" and self._select and given.get("value"):
            self._choices[self._select].append(given["value"])

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = ""
        if tag != "form" or not self._posts:
            return
        self._posts = False
        actions = self._choices.pop("action", None)
        usual = {name: values[0] for name, values in self._choices.items() if values} | self._fields
        # An action of a list comes after a page that asks; who skips it must not get further.
        if actions:
            self.found += [(self._where, usual | {"action": one, "confirmed": "yes", "post": "yes"}) for one in actions]
        else:
            self.found += [(self._where, usual | button) for button in self._buttons or [{}]]


def forms(client: Client, pages: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """Of all pages, each once."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for page in pages:
        response = client.get(page)
        if response.status_code == 200 and "html" in response.headers["Content-Type"]:
            parser = _Forms(page)
            parser.feed(response.content.decode())
            for where, data in parser.found:
                if not where.startswith(NOT_OURS):
                    found[repr((where, sorted(data.items())))] = where, data
    return list(found.values())


def test_looking_at_anything_changes_nothing_and_nobody_sees_anything(world, clients, consul):
    pages = addresses(world)
    assert len(pages) > 40
    before = state(consul)
    for role, client in clients.items():
        for page in pages:
            if page == "/admin/logout/":
                continue
            status = client.get(page, {"action": "sync", "what": "all", "confirmed": "yes"}).status_code
            assert status < 500, (role, page)
            if role == "nobody":
                assert status in ((200,) if page in PUBLIC else (302, 404, 405)), page
    assert state(consul) == before


def test_a_post_without_the_token_changes_nothing(world, clients, consul):
    found = forms(clients["root"], addresses(world))
    before = state(consul)
    for where, data in found:
        strict = Client(enforce_csrf_checks=True)
        strict.cookies = clients["root"].cookies
        assert strict.post(where, data).status_code == 403, where
    assert state(consul) == before


@pytest.mark.parametrize("role", ["nobody", "viewer"])
def test_nothing_can_be_changed_without_the_right(role, world, clients, consul):
    found = forms(clients["root"], addresses(world))
    assert {"sync", "disable", "adopt", "release", "maintenance_on"} <= {data.get("action") for _, data in found}
    assert {"/drift/", "/drift/prune/", "/admin/inventory/service/import/"} <= {where for where, _ in found}
    before = state(consul)
    for where, data in found:
        response = clients[role].post(where, data)
        assert response.status_code in (302, 403, 200), (where, data)
    assert state(consul) == before


def test_an_operator_edits_and_syncs_and_removes_nothing(world, clients, consul):
    found = forms(clients["root"], addresses(world))
    there, declared = consul.agent_instances().keys(), set(Instance.objects.values_list("consul_id", flat=True))
    for where, data in found:
        if data.get("action") in ("disable", "adopt"):  # an edit, which a person may undo
            continue
        clients["operator"].post(where, data)
    assert consul.agent_instances().keys() >= there
    assert set(Instance.objects.values_list("consul_id", flat=True)) >= declared
    assert SyncRun.objects.filter(actor="operator").exists()


def test_a_pruner_removes(world, clients, consul):
    page = clients["pruner"].get("/drift/prune/").content.decode()
    digest = page.partition('name="digest" value="')[2].partition('"')[0]
    assert "old-127.0.0.1-8101" in consul.agent_instances()
    clients["pruner"].post("/drift/prune/", {"digest": digest})
    assert "old-127.0.0.1-8101" not in consul.agent_instances()


def test_the_groups_are_there_and_keep_what_somebody_gave_them(db):
    group = Group.objects.get(name=roles.VIEWERS)
    codes = set(group.permissions.values_list("codename", flat=True))
    assert all(code.startswith("view_") for code in codes)
    extra = Group.objects.get(name=roles.PRUNERS).permissions.get(codename="prune_service")
    group.permissions.set([extra])
    roles.make_groups()
    assert set(group.permissions.values_list("codename", flat=True)) == codes | {"prune_service"}
