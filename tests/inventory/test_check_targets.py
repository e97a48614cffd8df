"""Checks of declarations: what may be asked, when it is saved and imported, and what pages keep of the answers."""

from __future__ import annotations

import json

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.test import override_settings

from registry_admin.consul import ConsulConfig
from registry_admin.inventory.models import HealthTransition, Instance, ObservedInstance, Service
from registry_admin.inventory.system_checks import check_redirects
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


def test_checks_that_follow_redirects_are_named_at_each_migration(capsys):
    Service.objects.create(name="old")
    Service.objects.create(name="safe", check_disable_redirects=True)
    Service.objects.create(name="posts", check_method="POST")
    Service.objects.create(name="connects", check_kind="tcp")
    (warning,) = check_redirects(databases=["default"])
    assert warning.msg == "HTTP checks of 1 services follow redirects: old."
    call_command("migrate", plan=True, skip_checks=False)
    assert "registry.W002" in capsys.readouterr().err
    assert check_redirects() == []
    Service.objects.update(check_disable_redirects=True)
    assert check_redirects(databases=["default"]) == []


def test_services_are_filtered_by_whether_their_checks_follow_redirects(operator):
    Service.objects.create(name="old-one")
    Service.objects.create(name="safe-one", check_disable_redirects=True)
    page = operator.get("/admin/inventory/service/?check_disable_redirects__exact=0").content.decode()
    assert ("old-one" in page, "safe-one" in page) == (True, False)


def test_agent_follows_no_redirect_where_it_can_be_told_so(consul_agent, consul, http_service, sync):
    inner, outer = http_service(body=SECRET.encode()), http_service(status=302)
    outer.headers = {"Location": f"{inner.url}/v1/kv/"}
    fields = {"check_kind": "http", "check_interval": "1s", "check_disable_redirects": True}
    service = Service.objects.create(name="api", **fields)
    Instance.objects.create(service=service, address="127.0.0.1", port=outer.port)
    sync()
    wait_until(lambda: outer.requests, 30, "the agent to run the check")
    if consul.agent_version() < (1, 11, 5):  # it isn't told, and follows
        wait_until(lambda: inner.requests, 30, "the agent to follow")
        return
    (instance_id,) = Instance.objects.values_list("consul_id", flat=True)
    wait_until(lambda: "302" in consul.agent_instances()[instance_id].output, 30, "the redirect to be the result")
    assert inner.requests == []
    assert sync().ok
