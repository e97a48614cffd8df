"""/metrics: who may read it, what it says, and that it never goes backwards."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.db import DatabaseError
from django.test import Client

from registry_admin.inventory.models import ConsulContact, EvictionHalt, ObservedInstance, Service, SyncRun
from registry_admin.inventory.sync.counters import CounterName, add_to_counters
from registry_admin.inventory.sync.runs import RunRecorder, prune_history
from registry_admin.metrics import families
from tests.parts import mirrored

pytestmark = pytest.mark.django_db(transaction=True)

TOKEN = "a token for tests"


@pytest.fixture(autouse=True)
def _token(settings):
    settings.REGISTRY_METRICS_TOKEN = TOKEN
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}


def get(token: str = TOKEN, **headers: str):
    given = {"Authorization": f"Bearer {token}"} if token else {}
    return Client().get("/metrics", headers=given | headers)


def scrape() -> dict[str, float]:
    """Returns the samples by name and labels, as the text has them."""
    response = get()
    assert response.status_code == 200
    lines = [line.rsplit(" ", 1) for line in response.content.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def instance_samples() -> dict[str, float]:
    return {name: value for name, value in scrape().items() if name.startswith("registry_instances{")}


def test_metrics_need_the_token(settings):
    for token in ("", "wrong", "\N{SNOWMAN}".encode().decode("latin-1")):
        response = get(token)
        assert response.status_code == 401
        assert response["WWW-Authenticate"] == "Bearer"
        assert b"registry_" not in response.content
    assert b"registry_" in get().content


def test_metrics_without_a_configured_token_are_not_there(settings):
    settings.REGISTRY_METRICS_TOKEN = ""
    response = get("")
    assert response.status_code == 404
    assert b"REGISTRY_METRICS_TOKEN" in response.content


def test_metrics_are_openmetrics_where_the_client_asks_for_it():
    response = get(Accept="application/openmetrics-text; version=1.0.0")
    assert response["Content-Type"].startswith("application/openmetrics-text")
    assert response.content.endswith(b"# EOF\n")
    assert get()["Content-Type"].startswith("text/plain")


def test_metrics_without_the_database_are_unavailable(monkeypatch):
    def fail(**_options: object) -> None:
        raise DatabaseError("the connection is closed")

    monkeypatch.setattr(families.selectors, "instance_counts", fail)
    response = get()
    assert response.status_code == 503
    assert b"registry_" not in response.content


def test_instances_are_counted_by_service_sync_status_and_health():
    mirrored.look()
    mirrored.declare("api", 3)
    mirrored.fail("api-127.0.0.1-8001")
    mirrored.lose("api-127.0.0.1-8002")
    assert instance_samples() == {
        'registry_instances{health="passing",service="api",sync_status="synced"}': 1,
        'registry_instances{health="critical",service="api",sync_status="synced"}': 1,
        'registry_instances{health="absent",service="api",sync_status="missing"}': 1,
    }


def test_names_of_undeclared_services_are_no_label_values():
    mirrored.look()
    for number in range(5):
        mirrored.observe(f"foreign-{number}", f"foreign-{number}")
    assert instance_samples() == {'registry_instances{health="passing",service="",sync_status="unmanaged"}': 5}


def test_instances_are_unknown_while_consul_is_not_seen():
    mirrored.look()
    mirrored.declare("api", 2)
    assert scrape()["registry_consul_reachable"] == 1
    ConsulContact.objects.update(reachable=False, problem="connection refused", revision=2)
    samples = scrape()
    assert samples["registry_consul_reachable"] == 0
    assert samples['registry_instances{health="unknown",service="api",sync_status="unknown"}'] == 2
    assert not any('health="passing"' in name for name in samples)


def test_number_of_queries_does_not_grow_with_instances(count_queries):
    mirrored.look()
    mirrored.declare("api", 2)
    few = len(count_queries(get))
    for number in range(20):
        mirrored.declare(f"api-{number}", 2, first_port=9000 + 10 * number)
    ConsulContact.objects.update(revision=2)
    assert len(count_queries(get)) == few <= 8


def test_service_name_is_escaped():
    mirrored.look()
    mirrored.declare("api", 1)
    Service.objects.update(name='a"b\\c\nd')
    ObservedInstance.objects.update(service_name='a"b\\c\nd')
    assert list(instance_samples()) == [
        'registry_instances{health="passing",service="a\\"b\\\\c\\nd",sync_status="synced"}'
    ]


def test_counters_begin_at_zero():
    samples = scrape()
    for name in (
        'registry_runs_total{outcome="failed"}', 'registry_runs_total{outcome="refused"}',
        'registry_changes_total{action="evicted"}', 'registry_eviction_halts_total{kind="service"}',
        "registry_failed_changes_total",
    ):  # fmt: skip
        assert samples[name] == 0


def test_runs_are_counted_and_outlive_the_history():
    for _ in range(3):
        RunRecorder(trigger=SyncRun.Trigger.WATCH).finish()
    before = scrape()
    assert before['registry_runs_total{outcome="unchanged"}'] == 3
    assert before['registry_run_seconds_total{outcome="unchanged"}'] > 0
    prune_history(timedelta(0))
    assert scrape()['registry_runs_total{outcome="unchanged"}'] == 3


def test_changes_of_a_run_are_counted(declare, sync, consul):
    declare("api", 8001, 8002)
    sync()
    samples = scrape()
    assert samples['registry_changes_total{action="registered"}'] == 2
    assert samples['registry_changes_total{action="updated"}'] == 0


def test_open_halts_are_shown():
    EvictionHalt.objects.create(kind="service", name="api")
    assert scrape()["registry_open_eviction_halts"] == 1


def test_amounts_of_simultaneous_processes_are_summed():
    for _ in range(2):
        add_to_counters({(CounterName.RUNS, "done"): 1, (CounterName.CHANGES, "evicted"): 2})
    samples = scrape()
    assert samples['registry_runs_total{outcome="done"}'] == 2
    assert samples['registry_changes_total{action="evicted"}'] == 4


def test_names_follow_prometheus_conventions():
    for line in get().content.decode().splitlines():
        if kind := re.fullmatch(r"# TYPE (\S+) (\w+)", line):
            assert kind[1].endswith("_total") == (kind[2] == "counter")
            assert kind[1].startswith("registry_")
