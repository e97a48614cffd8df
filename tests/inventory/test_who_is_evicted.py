"""Whom a leading watcher takes out, and when: only what our own check has found dead for too long."""

from __future__ import annotations

import json
import math
from datetime import timedelta

import pytest
from django.utils import timezone

from registry_admin.consul import ConsulApi
from registry_admin.inventory import mirror
from registry_admin.inventory.leadership import Leadership
from registry_admin.inventory.lease import LeaseKeeper
from registry_admin.inventory.models import ConsulContact, Instance, Lease, ObservedInstance, Service
from tests.parts import ConsulAgent, free_port, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

QUICK = {"check_kind": "tcp", "check_interval": "1s", "check_timeout": "1s", "deregister_after": "2s"}


@pytest.fixture(autouse=True)
def _only_the_watcher_syncs(settings) -> None:
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}


def evict_a_dead_one(declare) -> None:
    """Declares one that nobody listens for, and waits until it is out: who isn't by then, isn't due."""
    declare("dead", free_port(), **QUICK)
    wait_until(lambda: Instance.objects.filter(service__name="dead", evicted_at__isnull=False).exists(), 30, "it to go")


def register_check(agent: ConsulAgent, check: dict[str, str]) -> None:
    ConsulApi(agent.config).http.request("PUT", "/v1/agent/check/register", data=json.dumps(check))


def is_still_there(agent: ConsulAgent, service: str) -> bool:
    in_consul = any(one["Service"] == service for one in agent.request("GET", "/v1/agent/services").values())
    return in_consul and not Instance.objects.filter(service__name=service, evicted_at__isnull=False).exists()


def test_a_failing_check_of_the_node_evicts_nobody_who_answers(lead, declare, own_agent, http_service):
    register_check(own_agent, {"Name": "disk", "TTL": "1h"})  # critical from the start
    declare("api", http_service().port, **QUICK)
    lead()
    wait_until(lambda: ObservedInstance.objects.filter(service_name="api", health="critical").exists(), 20)
    evict_a_dead_one(declare)
    assert is_still_there(own_agent, "api")


def test_what_somebody_else_checks_is_not_ours_to_evict(lead, declare, own_agent):
    declare("api", 8001, check_kind=Service.Check.NONE, deregister_after="2s")
    lead()
    wait_until(lambda: ObservedInstance.objects.filter(service_name="api").exists(), 20)
    register_check(own_agent, {"Name": "theirs", "ServiceID": "api-127.0.0.1-8001", "TTL": "1h"})
    wait_until(lambda: ObservedInstance.objects.filter(service_name="api", health="critical").exists(), 20)
    evict_a_dead_one(declare)
    assert is_still_there(own_agent, "api")


def test_who_has_not_been_asked_yet_is_not_taken_for_dead(lead, declare, own_agent, http_service):
    declare("api", http_service().port, **QUICK | {"check_interval": "10m"})
    lead()
    wait_until(lambda: ObservedInstance.objects.filter(service_name="api").exists(), 20)
    evict_a_dead_one(declare)
    assert is_still_there(own_agent, "api")


def test_a_clock_that_was_set_back_postpones_no_eviction(lead, declare, own_agent, sync):
    declare("api", free_port(), **QUICK)
    sync()
    ObservedInstance.objects.update(health_since=timezone.now() + timedelta(hours=1))
    lead()
    wait_until(lambda: Instance.objects.filter(evicted_at__isnull=False).exists(), 20, "the eviction")


def test_a_fault_that_only_a_page_has_met_is_over_as_soon_as_consul_is_felt_alive(lead, declare):
    declare("api", 8001)
    lead()
    wait_until(lambda: ConsulContact.objects.filter(seen_at__isnull=False).exists(), 20, "the first look")
    mirror.record_contact(problem="Consul didn't answer a page in time.")
    wait_until(lambda: ConsulContact.objects.filter(reachable=True).exists(), 30, "it to be over")


def test_a_removal_that_the_database_did_not_confirm_in_time_is_tried_again_soon(lead, declare, own_agent, monkeypatch):
    declare("api", 8001)
    declare("other", 8002)
    lead()
    wait_until(lambda: Instance.objects.filter(sync_status="synced").count() == 2, 20, "both to be synced")
    wait_until(lambda: Lease.objects.filter(next_pass_at__isnull=False).exists(), 20, "all to be quiet")
    answers, confirm = iter([False]), LeaseKeeper.confirm
    monkeypatch.setattr(LeaseKeeper, "confirm", lambda self: next(answers, True) and confirm(self))
    Instance.objects.filter(port=8001).delete()
    wait_until(lambda: not is_still_there(own_agent, "api"), 20, "it to be taken out")


def test_a_watcher_that_is_being_stopped_begins_nothing_more(own_agent):
    lease = LeaseKeeper()
    leadership = Leadership(lease, prune=True, force=False)
    assert leadership.may_go_on() == "another watcher leads now"
    lease.held_until = math.inf
    assert leadership.may_go_on() == ""
    leadership.watcher.stop()
    assert leadership.may_go_on() == "the watcher is being stopped"
