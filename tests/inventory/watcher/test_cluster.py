"""The watcher in a cluster of three servers with a client agent, and while its own database is away."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from registry_admin.consul import CheckKind, CheckSpec, ConsulApi, ServiceSpec
from registry_admin.consul.marks import META_OWNER
from registry_admin.inventory.models import ConsulContact, Instance, ObservedInstance, SyncStatus
from scripts import embedded_postgres
from tests.fixtures.django import OWNER
from tests.parts import ConsulAgent, ConsulCluster, RecordingProxy, assert_holds, wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(os.environ.get("TEST_DATABASE") == "sqlite", reason="it looks into the processes' own database"),
]


@pytest.fixture(autouse=True)
def _only_the_watcher_syncs(settings) -> None:
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}


@pytest.fixture
def cluster(make_cluster: Callable[..., ConsulCluster], use_consul: Callable[..., None]) -> ConsulCluster:
    """Cluster whose client agent is the product's Consul."""
    made = make_cluster()
    use_consul(made.client)
    return made


def in_catalog(agent: ConsulAgent, service: str) -> set[str]:
    """Returns the IDs of the service's instances: none while the servers elect a leader, who alone could tell."""
    try:
        return {entry["ServiceID"] for entry in agent.request("GET", f"/v1/catalog/service/{service}")}
    except AssertionError as error:
        if "leader" in str(error).lower():
            return set()
        raise


def problem() -> str:
    contact = ConsulContact.objects.filter(pk=1).first()
    return contact.problem if contact else "not looked at yet"


def test_cluster_losing_its_leader_is_synced_after_the_election(cluster: ConsulCluster, declare, watch):
    declare("api", 8001)
    watch()
    wait_until(lambda: in_catalog(cluster.client, "api"), 20, "the instance in the catalog")
    cluster.leader().stop()
    declare("web", 8002)
    wait_until(cluster.leader, 30, "another leader")
    wait_until(lambda: in_catalog(cluster.client, "web") == {"web-127.0.0.1-8002"}, 60, "what was declared meanwhile")
    wait_until(lambda: problem() == "", 30, "all to be well again")
    assert in_catalog(cluster.client, "api") == {"api-127.0.0.1-8001"}


def test_cluster_without_leader_is_reported_and_synced_afterwards(cluster: ConsulCluster, declare, watch):
    declare("api", 8001, 8002)
    watch()
    wait_until(lambda: len(in_catalog(cluster.client, "api")) == 2, 20, "both in the catalog")
    leader = cluster.leader()
    stopped = [leader, cluster.followers()[0]]
    for server in stopped:
        server.stop()
    wait_until(lambda: "no leader" in problem(), 60, "people to be told")
    Instance.objects.filter(port=8002).delete()
    declare("web", 8003)
    both = {"api-127.0.0.1-8001", "api-127.0.0.1-8002"}
    assert_holds(lambda: set(cluster.client.request("GET", "/v1/agent/services")) == both, 3, "what is registered")
    for server in stopped:
        server.start()
    wait_until(lambda: in_catalog(cluster.client, "web"), 90, "what was declared meanwhile")
    wait_until(lambda: in_catalog(cluster.client, "api") == {"api-127.0.0.1-8001"}, 30, "what was deleted to go")
    wait_until(lambda: problem() == "", 30, "all to be well again")


def test_agent_without_servers_is_reported_and_synced_afterwards(cluster: ConsulCluster, declare, watch):
    declare("api", 8001)
    watcher = watch()
    wait_until(lambda: in_catalog(cluster.client, "api"), 20, "the instance in the catalog")
    for server in cluster.servers:
        server.freeze()
    wait_until(lambda: problem() != "", 60, "people to be told")
    declare("web", 8002)
    assert "api-127.0.0.1-8001" in cluster.client.request("GET", "/v1/agent/services")
    for server in cluster.servers:
        server.thaw()
    wait_until(lambda: in_catalog(cluster.client, "web"), 90, "what was declared meanwhile")
    wait_until(lambda: problem() == "", 60, "all to be well again")
    assert watcher.stop() == 0


def test_instance_on_another_node_is_mirrored_and_never_changed(cluster: ConsulCluster, declare, sync):
    server = ConsulApi(cluster.servers[0].config)
    check = CheckSpec(kind=CheckKind.NONE)
    declared = ServiceSpec(name="api", address="127.0.0.1", port=8001, check=check)
    old = ServiceSpec(name="old", address="127.0.0.1", port=9, id="old", check=check)
    server.register(declared, marks={META_OWNER: OWNER})
    server.register(old, marks={META_OWNER: OWNER})
    wait_until(lambda: in_catalog(cluster.client, "old") and in_catalog(cluster.client, "api"), 20, "both")
    declare("api", 8001, 8002)
    assert sync(force=True).ok
    assert set(cluster.client.request("GET", "/v1/agent/services")) == {"api-127.0.0.1-8002"}
    assert {"old", declared.id} <= set(server.agent_instances())
    nodes = {row.consul_id: row.node for row in ObservedInstance.objects.all()}
    assert nodes == {"api-127.0.0.1-8001": "server-1", "old": "server-1", "api-127.0.0.1-8002": "client"}
    assert not Instance.objects.exclude(sync_status=SyncStatus.SYNCED).exists()
    Instance.objects.filter(port=8001).update(weight=7)
    result = sync(force=True)
    assert result.results == ()
    row = Instance.objects.get(port=8001)
    assert (row.sync_status, "server-1" in row.sync_reason) == (SyncStatus.OUT_OF_SYNC, True)
    server.close()


# -- the database -----------------------------------------------------------------------------------------------------


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Returns `own_postgres()`: starts, or restarts, a PostgreSQL of this test's own and returns its URL."""
    folder, port = tmp_path / "postgres", embedded_postgres.free_port()
    with ExitStack() as stack:
        stack.callback(embedded_postgres.stop, folder)

        def start() -> str:
            return embedded_postgres.start(folder, port=port, durable=False)

        start.stop = lambda: embedded_postgres.stop(folder)  # type: ignore[attr-defined]
        yield start


def test_database_outage_during_apply_stops_writes_and_run_records_progress(
    recorder: RecordingProxy, own_postgres, manage, watch, environment
):
    environment["DATABASE_URL"] = url = own_postgres()
    assert manage("migrate", "-v0").code == 0
    recorder.inject_fault("^PUT /v1/agent/service/register", delay_s=0.5)
    watcher = watch()
    places = ",".join(f"127.0.0.1:{port}" for port in range(8001, 8201))
    assert manage("seed_inventory", f"api={places}", REGISTRY_SYNC_ON_SAVE="0").code == 0
    wait_until(lambda: len(recorder.registrations()) > 20, 20, "it to be in the middle")
    own_postgres.stop()
    wait_until(lambda: "the database is away" in watcher.log or "database can't be used" in watcher.log, 20, "the log")
    done = len(wait_until(lambda: settled(recorder), 10, "the writing to stop"))
    assert done < 200
    own_postgres()
    wait_until(lambda: len(recorder.registrations()) == 200, 60, "the rest, once the database is back")
    with psycopg.connect(url) as database:
        wait_until(
            lambda: database.execute("SELECT count(*) FROM inventory_syncrun WHERE outcome = 'done'").fetchone()[0],
            20, "the run that completed it",
        )  # fmt: skip
        messages = database.execute("SELECT message FROM inventory_syncrun WHERE outcome = 'interrupted'").fetchall()
    assert len(messages) == 1
    assert " of 200 applied. The database can't be used" in messages[0][0]
    assert all(count == 1 for count in recorder.registrations().values())
    assert watcher.stop() == 0


@pytest.fixture
def recorder(own_agent: ConsulAgent, recording_proxy, environment: dict[str, str]) -> RecordingProxy:
    """Proxy between the processes and their agent; records and delays requests."""
    proxy: RecordingProxy = recording_proxy(own_agent)
    environment["CONSUL_HTTP_ADDR"] = proxy.url
    return proxy


def settled(recorder: RecordingProxy) -> dict[str, int]:
    """Returns the registrations, or nothing while some came within the last second."""
    before = dict(recorder.registrations())
    time.sleep(1)  # two rounds of delayed requests
    return before if dict(recorder.registrations()) == before else {}
