"""Warnings of what is valid and yet can't work."""

from __future__ import annotations

import pytest

from registry_admin.inventory.doctor import examine
from registry_admin.inventory.models import Instance, Service

pytestmark = pytest.mark.django_db


def advice(
    name: str = "api", address: str = "10.0.0.1", port: int = 8000, *, consul: str = "10.0.0.9", **fields
) -> str:
    service = Service(name=name, **fields)
    instance = Instance(service=service, address=address, port=port)
    return " | ".join(map(str, examine(service, [instance], consul_host=consul)))


def test_of_what_is_well_nothing_is_said():
    assert advice() == ""
    assert advice(address="127.0.0.1", consul="127.0.0.1") == ""


@pytest.mark.parametrize(
    ("declared", "said"),
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
def test_what_can_not_work_is_named_with_its_field(declared, said):
    assert said.replace("api-10.0.0.1-5432", "10.0.0.1:5432") in advice(**declared)


def test_a_tcp_check_of_a_database_is_fine():
    assert advice(port=5432, check_kind="tcp") == ""


def test_another_service_s_address_is_noticed():
    Instance.objects.create(service=Service.objects.create(name="web"), address="10.0.0.1", port=8000)
    assert "10.0.0.1:8000 is web's too" in advice()


def test_saving_in_the_admin_warns_and_saves(operator):
    service = Service.objects.create(name="api")
    data = {
        "name": "api", "check_kind": "http", "check_path": "/health", "check_scheme": "http", "check_interval": "1s",
        "check_timeout": "5s", "deregister_after": "30s", "enabled": "on", "tags": "", "meta": "",
        "instances-TOTAL_FORMS": "1", "instances-INITIAL_FORMS": "0", "instances-0-address": "10.0.0.1",
        "instances-0-port": "6379", "instances-0-weight": "1", "instances-0-enabled": "on",
    }  # fmt: skip
    response = operator.post(f"/admin/inventory/service/{service.pk}/change/", data, follow=True)
    told = " ".join(map(str, response.context["messages"]))
    assert "Saved, but look again. timeout: 5s is longer than the interval" in told
    assert "6379 is Redis's" in told
    assert Instance.objects.get().port == 6379
