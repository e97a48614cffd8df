"""Checks of declarations: what may be asked, when it is saved and imported, and what pages keep of the answers."""

from __future__ import annotations

import json

import pytest
from django.core.exceptions import ValidationError
from django.test import override_settings

from registry_admin.consul import ConsulConfig
from registry_admin.inventory.models import HealthTransition, Instance, ObservedInstance, Service
from tests.parts import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

SECRET = "a value of Consul's KV"


@pytest.mark.parametrize(
    ("settings_of_registry", "address", "port", "field"),
    [
        ({}, "10.0.0.7", 8500, "port"),
        ({}, "169.254.169.254", 80, "address"),
        ({"CHECK_REFUSED_PORTS": "5432, 6379"}, "10.0.0.7", 6379, "port"),
        ({"CHECK_REFUSED_NETWORKS": "10.0.0.0/24"}, "::ffff:10.0.0.7", 80, "address"),
        ({"CHECK_NETWORKS": "192.168.0.0/16"}, "10.0.0.7", 80, "address"),
        ({"CHECK_NETWORKS": "192.168.0.0/16"}, "unknown.invalid", 80, "address"),
    ],
)
def test_instance_with_a_refused_target_is_not_saved(settings, settings_of_registry, address, port, field):
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"} | settings_of_registry
    service = Service.objects.create(name="api")
    with pytest.raises(ValidationError) as caught:
        Instance(service=service, address=address, port=port).save()
    assert list(caught.value.message_dict) == [field]
    Instance(service=service, address="192.168.0.1", port=80).save()


def test_instance_that_was_saved_under_other_rules_can_be_edited(settings):
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}
    row = Instance.objects.create(service=Service.objects.create(name="api"), address="10.0.0.7", port=80)
    settings.REGISTRY |= {"CHECK_NETWORKS": "192.168.0.0/16"}
    row = Instance.objects.get(pk=row.pk)
    row.weight = 2
    row.save()
    row.port = 81
    with pytest.raises(ValidationError):
        row.save()


@pytest.mark.parametrize(
    "values",
    [{"CHECK_NETWORKS": "10.0.0.0/33"}, {"CHECK_REFUSED_PORTS": "x"}, {"CHECK_REFUSED_NETWORKS": "10.0.0.1/8"}],
)
def test_invalid_rules_are_reported_by_a_system_check(settings, values):
    from registry_admin.inventory.conf import RegistrySettings

    settings.REGISTRY = values
    assert [check_id for check_id, _ in RegistrySettings().errors()] != []


def test_reply_of_a_passing_check_is_kept_only_if_wanted(consul_agent, consul, http_service, sync, operator):
    service = http_service(body=json.dumps({"Value": SECRET}).encode())
    url = f"http://127.0.0.1:{service.port}/health"
    body = {"Name": "theirs", "Address": "127.0.0.1", "Port": service.port, "Check": {"HTTP": url, "Interval": "1s"}}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    wait_until(lambda: consul.agent_instances()["theirs"].health == "passing", 10, "the check to pass")
    sync()
    (check,) = ObservedInstance.objects.get().checks
    assert check["output"] == f"HTTP GET {url}: 200 OK"
    assert SECRET not in operator.get("/services/theirs/").content.decode()
    assert HealthTransition.objects.get().output == f"HTTP GET {url}: 200 OK"
    consul_agent.request("PUT", "/v1/agent/service/register", body=body | {"Tags": ["new"]})
    with override_settings(REGISTRY={"PASSING_OUTPUT": "1"}):
        sync()
    assert SECRET in ObservedInstance.objects.get().checks[0]["output"]


def test_config_with_rules_is_a_key_of_caches():
    assert hash(ConsulConfig()) == hash(ConsulConfig())


def test_form_of_a_new_service_suggests_no_redirects(operator):
    form = operator.get("/admin/inventory/service/add/").context["adminform"].form
    assert form["check_disable_redirects"].value() is True
    declared = Service.objects.create(name="api")
    form = operator.get(f"/admin/inventory/service/{declared.pk}/change/").context["adminform"].form
    assert form["check_disable_redirects"].value() is False
