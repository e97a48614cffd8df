"""Lint: warnings of valid declarations that can't work."""

from __future__ import annotations

import pytest

from registry_admin.inventory.lint import lint_declaration
from registry_admin.inventory.models import Instance, Service

pytestmark = pytest.mark.django_db


def advice(
    name: str = "api", address: str = "10.0.0.1", port: int = 8000, *, consul: str = "10.0.0.9", **fields
) -> str:
    service = Service(name=name, **fields)
    instance = Instance(service=service, address=address, port=port)
    return " | ".join(map(str, lint_declaration(service, [instance], consul_host=consul)))


def test_lint_of_valid_declaration_is_empty():
    assert advice() == ""
    assert advice(address="127.0.0.1", consul="127.0.0.1") == ""


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"name": "back_end"}, "name: Consul's DNS can't find it"),
        ({"name": "x" * 64}, "name: Consul's DNS"),
        ({"check_interval": "5s", "check_timeout": "10s"}, "timeout: 10s is longer than the interval, 5s"),
        ({"check_interval": "1m", "deregister_after": "30s"}, "deregister after: 30s is shorter than the interval"),
        ({"port": 5432}, "port: api-10.0.0.1-5432"),
        ({"port": 443}, "scheme: "),
        ({"port": 80, "check_scheme": "https"}, "scheme: "),
        ({"address": "127.0.0.1"}, "is Consul's own machine to Consul, which is at 10.0.0.9"),
        ({"address": "0.0.0.0"}, "means every address"),
    ],
)
def test_lint_warning_names_field(declared, expected):
    assert expected.replace("api-10.0.0.1-5432", "10.0.0.1:5432") in advice(**declared)


def test_lint_accepts_tcp_check_of_database_port():
    assert advice(port=5432, check_kind="tcp") == ""


def test_lint_warns_of_address_of_another_service():
    Instance.objects.create(service=Service.objects.create(name="web"), address="10.0.0.1", port=8000)
    assert "10.0.0.1:8000 is web's too" in advice()


def test_lint_warning_in_the_admin_does_not_prevent_saving(operator):
    service = Service.objects.create(name="api")
    data = {
        "name": "api", "check_kind": "http", "check_path": "/health", "check_scheme": "http", "check_interval": "1s",
        "check_timeout": "5s", "deregister_after": "30s", "enabled": "on", "tags": "", "meta": "",
        "instances-TOTAL_FORMS": "1", "instances-INITIAL_FORMS": "0", "instances-0-address": "10.0.0.1",
        "instances-0-port": "6379", "instances-0-weight": "1", "instances-0-enabled": "on",
    }  # fmt: skip
    response = operator.post(f"/admin/inventory/service/{service.pk}/change/", data, follow=True)
    messages = " ".join(map(str, response.context["messages"]))
    assert "Saved, but look again. timeout: 5s is longer than the interval" in messages
    assert "6379 is Redis's" in messages
    assert Instance.objects.get().port == 6379
