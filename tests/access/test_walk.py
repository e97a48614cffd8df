"""The walk: what each role gets at each address by each method, as one table. A new address without a row fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from registry_admin.callgraph.models import CallCount, ModuleToken
from registry_admin.callgraph.tokens import make_token
from registry_admin.inventory import roles
from registry_admin.inventory.models import (
    AuditEvent,
    EvictionHalt,
    HealthTransition,
    Instance,
    ObservedInstance,
    Service,
    SyncRun,
)
from tests.access.walk_table import TABLE
from tests.parts import mirrored

pytestmark = pytest.mark.django_db

ROLES = ("nobody", "module", "viewer", "operator", "pruner", "superuser")
GROUPS = {"viewer": roles.VIEWERS, "operator": roles.OPERATORS, "pruner": roles.PRUNERS}
METHODS = {"read": ("GET", "HEAD"), "post": ("POST",), "write": ("PUT", "PATCH", "DELETE"), "options": ("OPTIONS",)}
PUBLIC = {"/health", "/ready", "/metrics", "/api/calls", "/api/v1/openapi.json", "/admin/login/", "/admin/jsi18n/"}


@pytest.fixture
def site(make_user, client_of) -> dict[str, Client]:
    """A row of each kind, and a client of each role."""
    mirrored.declare("api")
    mirrored.observe("theirs", "billing")
    mirrored.look()
    SyncRun.objects.create(trigger="watch", outcome="done")
    HealthTransition.objects.create(service_name="api", consul_id="x", before="", after="passing")
    EvictionHalt.objects.create(kind="service", name="api")
    AuditEvent.objects.create(action=AuditEvent.Action.EXPORT)
    _, token = make_token("api")
    clients = {"nobody": Client(), "module": Client(headers={"Authorization": f"Bearer {token}"})}
    for role, group in GROUPS.items():
        user = make_user(name=role)
        user.groups.add(Group.objects.get(name=group))
        clients[role] = client_of(user)
    clients["superuser"] = client_of(make_user(name="superuser", superuser=True))
    return clients


def addresses() -> dict[str, str]:
    """Returns the path of each URL pattern by its name, with the keys of existing rows."""
    return dict(_named_paths(get_resolver().url_patterns, []))


def _named_paths(patterns: Any, namespaces: list[str]) -> Iterator[tuple[str, str]]:
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            inner = [*namespaces, pattern.namespace] if pattern.namespace else namespaces
            yield from _named_paths(pattern.url_patterns, inner)
        elif pattern.name:
            name = ":".join([*namespaces, pattern.name])
            yield name, reverse(name, kwargs=_arguments(pattern))
        else:  # the old addresses and the rest of the admin
            yield f"{':'.join(namespaces)}:{pattern.pattern}", "/admin/nothing-of-this-name/"


def _arguments(pattern: URLPattern) -> dict[str, Any]:
    names = pattern.pattern.converters or pattern.pattern.regex.groupindex
    known = {
        "app_label": "inventory",
        "name": "api",
        "url": "x",
        "content_type_id": 1,
        "id": User.objects.earliest("pk").pk,
    }
    return {name: known[name] if name in known else _key(pattern.name or "") for name in names}


def _key(route: str) -> Any:
    app, model = (
        route.split("_")[:2] if route.endswith(("_change", "_delete", "_history")) else ("inventory", "syncrun")
    )
    return apps.get_model(app, model).objects.order_by("pk").values_list("pk", flat=True).first()


def state() -> Any:
    """Returns what a request could change."""
    return (
        sorted(Service.objects.values_list("name", "enabled", "owner")),
        sorted(Instance.objects.values_list("consul_id", "enabled", "maintenance")),
        sorted(ObservedInstance.objects.values_list("consul_id")),
        sorted(User.objects.values_list("username", "password", "is_superuser", "is_staff", "is_active")),
        sorted(ModuleToken.objects.values_list("key", "revoked_at")),
        sorted(EvictionHalt.objects.values_list("name", "confirmed_by")),
        (SyncRun.objects.count(), CallCount.objects.count(), Group.objects.count(), HealthTransition.objects.count()),
    )


def answers(site: dict[str, Client], name: str, path: str) -> dict[str, str]:
    """Returns the statuses by kind of method, in the order of the roles; several where its methods differ."""
    answers_by_kind = {}
    for kind, methods in METHODS.items():
        statuses = []
        for role in ROLES:
            codes = {str(site[role].generic(method, path).status_code) for method in methods}
            statuses.append("/".join(sorted(codes)))
        answers_by_kind[kind] = " ".join(statuses)
    return answers_by_kind


def test_each_address_answers_each_role_and_method_as_the_table_says(site):
    paths = addresses()
    assert sorted(paths) == sorted(TABLE), "each address has a row in tests/access/walk_table.py, and no other"
    before = state()
    wrong = {}
    for name, path in paths.items():
        if name == "admin:logout":
            continue  # ends the login that the others need
        row = answers(site, name, path)
        if tuple(row.values()) != TABLE[name]:
            wrong[name] = (path, tuple(row.values()))
    assert wrong == {}
    assert state() == before, "a request without a body has changed something"


def test_logout_takes_a_post_and_is_refused_to_nobody(site):
    assert (
        answers({role: site[role] for role in ROLES}, "admin:logout", "/admin/logout/")["read"]
        == TABLE["admin:logout"][0]
    )
    for role in ROLES:
        assert site[role].post("/admin/logout/").status_code in (200, 302)
        assert site[role].get("/").status_code == 302


def test_variants_of_an_address_open_nothing(site):
    for path in addresses().values():
        for variant in {f"{path}/", path.rstrip("/"), f"/{path}", f"{path}%2e", path.upper()} - {path, ""}:
            if variant.rstrip("/") not in {public.rstrip("/") for public in PUBLIC}:
                status = site["nobody"].get(variant).status_code
                assert status in (301, 302, 400, 404) or (status == 401 and "/api/v1/" in variant), variant
    assert site["superuser"].get("/drift/").status_code == 200
