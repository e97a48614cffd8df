"""The history of foreign instances stays bounded however they flap; that of our own is kept whole."""

from __future__ import annotations

from datetime import timedelta

import pytest

from registry_admin.inventory.models import Health, HealthTransition, Instance
from registry_admin.inventory.sync import foreign_history
from registry_admin.inventory.sync.runs import prune_history
from tests.parts.mirrored import declare

pytestmark = pytest.mark.django_db(transaction=True)


def flap(consul_agent, sync, consul_id: str, times: int) -> None:
    checks = consul_agent.request("GET", "/v1/agent/checks").values()
    check_id = next(check["CheckID"] for check in checks if check["ServiceID"] == consul_id)
    for number in range(times):
        update = {"Status": ("passing", "critical")[number % 2]}
        consul_agent.request("PUT", f"/v1/agent/check/update/{check_id}", body=update)
        assert sync().error is None


def test_flapping_foreign_instance_keeps_the_newest_changes_only(consul_agent, consul, sync, monkeypatch):
    monkeypatch.setattr(foreign_history, "MAX_PER_INSTANCE", 4)
    body = {"Name": "theirs", "Port": 1, "Check": {"TTL": "1h"}}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    flap(consul_agent, sync, "theirs", 9)
    newest, *_, oldest = HealthTransition.objects.filter(consul_id="theirs")
    assert HealthTransition.objects.filter(consul_id="theirs").count() == 4
    assert (newest.before, newest.after) == ("critical", "passing")
    assert oldest.before == Health.UNKNOWN


def test_flapping_declared_instance_keeps_its_history(consul_agent, consul, declare, sync, monkeypatch):
    monkeypatch.setattr(foreign_history, "MAX_PER_INSTANCE", 4)
    declare("api", 8001, check_kind="ttl")
    sync()
    flap(consul_agent, sync, "api-127.0.0.1-8001", 9)
    assert HealthTransition.objects.filter(consul_id="api-127.0.0.1-8001").count() >= 9


def test_trim_keeps_an_instance_of_the_same_id_on_another_node(monkeypatch):
    monkeypatch.setattr(foreign_history, "MAX_PER_INSTANCE", 2)
    for _ in range(5):
        for node in ("n1", "n2"):
            HealthTransition.objects.create(node=node, service_name="api", consul_id="api", after="passing")
    foreign_history.trim({("n1", "api")})
    counts = [HealthTransition.objects.filter(node=node).count() for node in ("n1", "n2")]
    assert counts == [2, 5]


def test_prune_history_bounds_foreign_history_in_all(monkeypatch):
    monkeypatch.setattr(foreign_history, "MAX_IN_ALL", 3)
    declare("api")
    declared_id = Instance.objects.get().consul_id
    for number in range(6):
        for consul_id in (declared_id, f"theirs-{number}"):
            HealthTransition.objects.create(service_name="x", consul_id=consul_id, after="passing")
    prune_history(timedelta(days=30))
    assert HealthTransition.objects.filter(consul_id=declared_id).count() == 6
    foreign = HealthTransition.objects.exclude(consul_id=declared_id).values_list("consul_id", flat=True)
    assert sorted(foreign) == ["theirs-3", "theirs-4", "theirs-5"]
