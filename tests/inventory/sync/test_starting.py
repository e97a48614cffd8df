"""Instances whose first check has not run yet: Unknown on pages, critical for eviction, never called."""

from __future__ import annotations

import pytest

from registry_admin.consul import CheckSpec, ServiceSpec
from registry_admin.consul.health import CheckResult, Health
from registry_admin.consul.types import ServiceInstance
from registry_admin.inventory.models import HealthTransition, Instance, ObservedInstance, Service
from registry_admin.inventory.selectors import critical_since
from tests.parts import mirrored, wait_until


def instance(*checks: CheckResult, health: Health = Health.CRITICAL) -> ServiceInstance:
    return ServiceInstance(service="api", id="api-1", address="127.0.0.1", port=8001, health=health, checks=checks)


def check(check_id: str = "api-1:http", status: str = "critical", output: str = "") -> CheckResult:
    return CheckResult(id=check_id, name="check", status=status, output=output)


def test_instance_whose_check_has_not_run_is_starting():
    starting = instance(check())
    assert starting.is_starting
    assert (starting.health, starting.known_health) == (Health.CRITICAL, Health.UNKNOWN)


@pytest.mark.parametrize(
    "checks",
    [
        [check(output="connection refused")],
        [check(), check("serfHealth", output="agent not live")],
        [check(), check("somebody-elses")],
    ],
    ids=["own check failed", "node failed", "another's check"],
)
def test_instance_with_a_failed_or_foreign_critical_check_is_critical(checks):
    assert instance(*checks).known_health is Health.CRITICAL


def test_instance_that_passes_without_output_is_passing():
    assert instance(check(status="passing"), health=Health.PASSING).known_health is Health.PASSING


@pytest.fixture
def declared(db) -> Instance:
    """A declared instance that nobody asks within a test: its check runs every 10 minutes."""
    service = Service.objects.create(name="api", check_kind=Service.Check.HTTP, check_interval="10m")
    return Instance.objects.create(service=service, address="127.0.0.1", port=1)


@pytest.mark.django_db(transaction=True)
def test_declared_instance_is_unknown_until_its_first_check(consul, declared, sync, operator):
    assert sync().ok
    row = ObservedInstance.objects.get(consul_id=declared.consul_id)
    assert row.health == Health.UNKNOWN
    assert Service.objects.get().health == Health.UNKNOWN
    assert HealthTransition.objects.get().after == Health.UNKNOWN
    page = operator.get("/services/api/").content.decode()
    assert "starting: its check has not run yet" in page
    assert 'class="attention-' not in operator.get("/").content.decode()


@pytest.mark.django_db(transaction=True)
def test_starting_instance_counts_as_critical_for_eviction(consul, declared, sync):
    assert sync().ok
    row = ObservedInstance.objects.get(consul_id=declared.consul_id)
    assert critical_since(row.node) == {declared.consul_id: row.health_since}


@pytest.mark.django_db(transaction=True)
def test_instance_whose_first_check_fails_turns_critical(consul, sync, operator):
    consul.register(
        ServiceSpec(name="api", address="127.0.0.1", port=1, check=CheckSpec(kind="tcp", interval="1s")), marks=None
    )
    wait_until(lambda: any(i.output for i in consul.agent_instances().values()), 10, "the first check")
    assert sync().ok
    assert ObservedInstance.objects.get().health == Health.CRITICAL
    assert 'class="attention-' in operator.get("/").content.decode()


@pytest.mark.django_db
def test_owner_of_undeclared_self_registered_service_is_shown(operator):
    mirrored.look()
    mirrored.observe("web-1", "web", registered_itself=True)
    mirrored.observe("mixed-1", "mixed", registered_itself=True)
    mirrored.observe("mixed-2", "mixed")
    rows = operator.get("/").content.decode().split("<tr")
    owners = {name: next(row for row in rows if f">{name}</a>" in row) for name in ("web", "mixed")}
    assert "registers itself" in owners["web"]
    assert "not declared" in owners["mixed"]
