"""Evictions by a leading watcher: only instances whose own check has failed for too long."""

from __future__ import annotations

import json
import math
from datetime import timedelta

import pytest
from django.utils import timezone

from registry_admin.consul import ConsulApi
from registry_admin.inventory.models import ConsulContact, Instance, Lease, ObservedInstance, Service
from registry_admin.inventory.sync import mirror
from registry_admin.inventory.watcher.leader import Leader
from registry_admin.inventory.watcher.lease import LeaseKeeper
from tests.parts import ConsulAgent, refusing_port, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

QUICK = {"check_kind": "tcp", "check_interval": "1s", "check_timeout": "1s", "deregister_after": "2s"}


@pytest.fixture(autouse=True)
def _only_the_watcher_syncs(settings) -> None:
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}


def evict_dead_instance(declare) -> None:
    """Declares an instance without a process and waits for its eviction: an instance still present then is not due."""
    declare("dead", refusing_port(), **QUICK)
    wait_until(
        lambda: Instance.objects.filter(service__name="dead", evicted_at__isnull=False).exists(), 30, "the eviction"
    )


def register_check(agent: ConsulAgent, check: dict[str, str]) -> None:
    ConsulApi(agent.config).http.request("PUT", "/v1/agent/check/register", data=json.dumps(check))


def is_registered(agent: ConsulAgent, service: str) -> bool:
    in_consul = any(instance["Service"] == service for instance in agent.request("GET", "/v1/agent/services").values())
    return in_consul and not Instance.objects.filter(service__name=service, evicted_at__isnull=False).exists()


def test_failing_node_check_does_not_evict_passing_instance(lead, declare, own_agent, http_service):
    register_check(own_agent, {"Name": "disk", "TTL": "1h"})  # critical from the start
    declare("api", http_service().port, **QUICK)
    lead()
    wait_until(lambda: ObservedInstance.objects.filter(service_name="api", health="critical").exists(), 20)
    evict_dead_instance(declare)
    assert is_registered(own_agent, "api")


def test_check_added_by_another_does_not_evict(lead, declare, own_agent):
    declare("api", 8001, check_kind=Service.Check.NONE, deregister_after="2s")
    lead()
    wait_until(lambda: ObservedInstance.objects.filter(service_name="api").exists(), 20)
    register_check(own_agent, {"Name": "foreign", "ServiceID": "api-127.0.0.1-8001", "TTL": "1h"})
    wait_until(lambda: ObservedInstance.objects.filter(service_name="api", health="critical").exists(), 20)
    evict_dead_instance(declare)
    assert is_registered(own_agent, "api")


def test_instance_before_its_first_check_is_not_evicted(lead, declare, own_agent, http_service):
    declare("api", http_service().port, **QUICK | {"check_interval": "10m"})
    lead()
    wait_until(lambda: ObservedInstance.objects.filter(service_name="api").exists(), 20)
    evict_dead_instance(declare)
    assert is_registered(own_agent, "api")


def test_clock_set_back_does_not_delay_eviction(lead, declare, own_agent, sync):
    declare("api", refusing_port(), **QUICK)
    sync()
    ObservedInstance.objects.update(health_since=timezone.now() + timedelta(hours=1))
    lead()
    wait_until(lambda: Instance.objects.filter(evicted_at__isnull=False).exists(), 20, "the eviction")


def test_contact_problem_recorded_by_a_page_is_cleared_by_next_pulse(lead, declare):
    declare("api", 8001)
    lead()
    wait_until(lambda: ConsulContact.objects.filter(seen_at__isnull=False).exists(), 20, "the first look")
    mirror.record_contact(problem="Consul didn't answer a page in time.")
    wait_until(lambda: ConsulContact.objects.filter(reachable=True).exists(), 30, "it to be over")


def test_removal_without_lease_confirmation_is_retried(lead, declare, own_agent, monkeypatch):
    declare("api", 8001)
    declare("other", 8002)
    lead()
    wait_until(lambda: Instance.objects.filter(sync_status="synced").count() == 2, 20, "both to be synced")
    wait_until(lambda: Lease.objects.filter(next_pass_at__isnull=False).exists(), 20, "all to be quiet")
    answers, confirm = iter([False]), LeaseKeeper.confirm
    monkeypatch.setattr(LeaseKeeper, "confirm", lambda self: next(answers, True) and confirm(self))
    Instance.objects.get(port=8001).delete()
    wait_until(lambda: not is_registered(own_agent, "api"), 20, "it to be taken out")


def test_stop_reason_names_lost_lease_and_stop(own_agent):
    lease = LeaseKeeper()
    leader = Leader(lease, prune=True)
    assert leader.stop_reason() == "another watcher leads now"
    lease.valid_until = math.inf
    assert leader.stop_reason() == ""
    leader.stop()
    assert leader.stop_reason() == "the watcher is being stopped"
