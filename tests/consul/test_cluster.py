"""Three servers and a client agent: what goes on without a leader, and that nothing is lost or made up meanwhile."""

from __future__ import annotations

import dataclasses
from contextlib import suppress

import pytest

from registry_admin.consul import CheckSpec, ConsulApi, Health, ServiceRegistry, ServiceSpec, SnapshotReader
from registry_admin.discovery import SyncServiceDiscoveryClient
from registry_admin.errors import ConsulUnavailableError
from tests.parts import ConsulCluster, wait_until

pytestmark = pytest.mark.cluster

SPEC = ServiceSpec(name="backend-api", address="127.0.0.1", port=8000, check=CheckSpec(kind="none"))
NEW = dataclasses.replace(SPEC, id="new", port=8001)
MARKS = {"registry-owner": "tests"}


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory):
    cluster = ConsulCluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield cluster.start()
    finally:
        cluster.stop()


@pytest.fixture
def cluster(shared_cluster):
    """The one cluster of this module; whatever a test did to it is put right afterwards."""
    yield shared_cluster
    for agent in shared_cluster.agents:
        if agent.is_frozen:
            agent.thaw()
        elif not agent.is_running:
            agent.launch()
    for agent in shared_cluster.agents:
        agent.await_ready()
        agent.forget_services()
    shared_cluster.leader()
    wait_until(lambda: in_catalog(shared_cluster, "backend-api") == set(), 30, "the catalog to be empty again")


@pytest.fixture
def api(cluster):
    """At the client agent, as a module's would be."""
    api = ConsulApi(cluster.client.config)
    yield api
    api.close()


@pytest.fixture
def impatient(cluster):
    """Gives up on a reply after a second."""
    api = ConsulApi(dataclasses.replace(cluster.client.config, read_timeout=1))
    yield api
    api.close()


def in_catalog(cluster, service):
    entries = cluster.leader().request("GET", f"/v1/health/service/{service}?consistent")
    return {(entry["Node"]["Node"], entry["Service"]["ID"]) for entry in entries}


def ids(api):
    return {item.id for item in api.instances("backend-api").data}


def await_replication(cluster):
    """A server that follows knows of a write a moment later, and not at all if the leader ends within that moment."""
    latest = cluster.leader().request("GET", "/v1/health/service/backend-api")
    path = "/v1/health/service/backend-api?stale"
    wait_until(lambda: all(item.request("GET", path) == latest for item in cluster.servers), what="replication")


def lose_the_quorum(cluster):
    """Two of three servers end: the third can neither lead nor follow."""
    leader = cluster.leader()
    other, survivor = cluster.followers()
    await_replication(cluster)
    leader.stop()
    other.stop()
    wait_until(lambda: survivor.request("GET", "/v1/status/leader") == "", 30, "the last server to notice")
    return leader, other


def send(call, *arguments, **options):
    """A write whose reply may be late, because the agent passes it on before it answers: it has it all the same."""
    with suppress(ConsulUnavailableError):
        call(*arguments, **options)


def came_true(api, condition):
    """For what fails now and then until all servers are back: whether it is so by now."""
    try:
        return condition(api)
    except ConsulUnavailableError:
        return False


# -- the leader goes -------------------------------------------------------------------------------------------


def test_reads_go_on_and_writes_arrive_while_another_leader_is_elected(cluster, api):
    api.register(SPEC, marks=MARKS)
    wait_until(lambda: ids(api) == {SPEC.id}, what="the catalog")
    await_replication(cluster)
    cluster.leader().stop()
    send(api.register, NEW, marks=MARKS)
    snapshot = []
    while cluster.agreed_leader() is None:
        snapshot += came_true(api, lambda api: [ids(api)]) or []
    assert snapshot
    assert all(SPEC.id in result for result in snapshot)  # an answer that leaves it out would be worse than none
    wait_until(lambda: came_true(api, lambda api: ids(api) == {SPEC.id, NEW.id}), 60, "the write to arrive")
    assert in_catalog(cluster, "backend-api") == {("client", SPEC.id), ("client", NEW.id)}


def test_reads_go_on_while_the_leader_is_frozen(cluster, api, impatient):
    api.register(SPEC, marks=MARKS)
    wait_until(lambda: ids(api) == {SPEC.id}, what="the catalog")
    await_replication(cluster)
    cluster.leader().freeze()
    wait_until(lambda: came_true(impatient, lambda api: ids(api) == {SPEC.id}), 60, "a server to answer")


def test_without_a_quorum_reads_go_on_and_writes_are_kept_until_there_is_one(cluster, api):
    api.register(SPEC, marks=MARKS)
    wait_until(lambda: ids(api) == {SPEC.id}, what="the catalog")
    lost = lose_the_quorum(cluster)
    reply = wait_until(lambda: came_true(api, lambda api: api.instances("backend-api")), 30, "a server to answer")
    assert [item.id for item in reply.data] == [SPEC.id]
    assert not reply.known_leader
    send(api.register, NEW, marks=MARKS)
    send(api.deregister, SPEC.id)
    # While it passes a write on, a newer agent answers nobody.
    registered = wait_until(lambda: came_true(api, lambda api: api.agent_instances()), 60, "the agent to answer")
    assert set(registered) == {NEW.id}
    wait_until(lambda: came_true(api, lambda api: ids(api) == {SPEC.id}), 30, "a server, which can't know yet")
    for server in lost:
        server.launch()
    wait_until(lambda: came_true(api, lambda api: ids(api) == {NEW.id}), 60, "both writes to arrive")


def test_without_a_quorum_a_look_says_that_there_is_no_leader_and_not_that_there_is_nothing(cluster, api):
    api.register(SPEC, marks=MARKS)
    assert set(SnapshotReader(api).read().local) == {SPEC.id}
    lose_the_quorum(cluster)

    def failure():
        with pytest.raises(ConsulUnavailableError) as caught:
            SnapshotReader(api).read()
        return str(caught.value)

    wait_until(lambda: "has no leader" in failure(), 30, "the client agent to have found the server that is left")


def test_without_a_quorum_modules_go_on_calling_each_other(cluster, api, http_service):
    service = http_service(body=b"hello")
    api.register(dataclasses.replace(SPEC, id="real", port=service.port), marks=MARKS)
    wait_until(lambda: ids(api) == {"real"}, what="the catalog")
    lose_the_quorum(cluster)
    with SyncServiceDiscoveryClient(ServiceRegistry(config=cluster.client.config)) as client:
        assert wait_until(lambda: came_true(api, ids), 30, "a server to answer")
        # Until it has found the server that is left, the agent may ask one that is gone at any time.
        response = wait_until(
            lambda: came_true(client, lambda item: item.call_service("backend-api", "/x")), 30, "a call"
        )
        assert response.text == "hello"


# -- the servers can't be reached -----------------------------------------------------------------------------


CATALOG = {
    "services": lambda api: api.services(),
    "health_states": lambda api: api.health_states(),
    "instances": lambda api: api.instances("backend-api"),
    "look": lambda api: SnapshotReader(api).read(),
}


def test_cut_off_from_the_servers_every_read_of_the_catalog_ends_in_a_typed_error(cluster, impatient):
    for server in cluster.servers:
        server.freeze()
    for read in CATALOG.values():
        with pytest.raises(ConsulUnavailableError) as caught:
            read(impatient)
        assert str(caught.value).startswith(f"Consul at {impatient.config.url} ")
    for server in cluster.servers:
        server.thaw()
    for name, read in CATALOG.items():
        wait_until(lambda read=read: came_true(impatient, lambda api: read(api) or True), 60, name)


def test_cut_off_from_the_servers_the_agent_still_takes_writes_and_they_arrive_later(cluster, api, impatient):
    api.register(SPEC, marks=MARKS)
    wait_until(lambda: ids(api) == {SPEC.id}, what="the catalog")
    for server in cluster.servers:
        server.freeze()
    send(impatient.register, NEW, marks=MARKS)
    send(impatient.deregister, SPEC.id)  # while the agent passes a write on, even what it knows itself can't be read
    for server in cluster.servers:
        server.thaw()
    wait_until(lambda: came_true(api, lambda api: ids(api) == {NEW.id}), 90, "both writes to arrive")


def test_cut_off_from_the_servers_a_module_goes_on_calling_what_it_knew(cluster, api, http_service):
    service = http_service(body=b"hello")
    api.register(dataclasses.replace(SPEC, id="real", port=service.port), marks=MARKS)
    wait_until(lambda: ids(api) == {"real"}, what="the catalog")
    with SyncServiceDiscoveryClient(ServiceRegistry(config=cluster.client.config)) as client:
        assert client.call_service("backend-api", "/x").text == "hello"
        for server in cluster.servers:
            server.freeze()
        assert client.call_service("backend-api", "/x").text == "hello"


# -- several nodes -------------------------------------------------------------------------------------------


def test_service_on_two_nodes_even_under_one_id(cluster, api):
    present = ConsulApi(cluster.servers[0].config)
    away = dataclasses.replace(SPEC, port=9000)  # the ID is unique on each agent only
    present.register(dataclasses.replace(away, id=SPEC.id), marks={})
    api.register(SPEC, marks=MARKS)
    wait_until(lambda: len(api.instances("backend-api").data) == 2, what="the catalog")
    assert {(item.node, item.id, item.port) for item in api.instances("backend-api").data} == {
        ("client", SPEC.id, 8000),
        ("server-1", SPEC.id, 9000),
    }
    snapshot = SnapshotReader(api).read()
    assert {(item.node, item.id, item.port) for item in snapshot.local.values()} == {("client", SPEC.id, 8000)}
    assert {(item.node, item.id, item.port) for item in snapshot.remote} == {("server-1", SPEC.id, 9000)}
    api.deregister(SPEC.id)
    wait_until(lambda: in_catalog(cluster, "backend-api") == {("server-1", SPEC.id)}, what="the catalog")
    present.close()


def test_instance_on_failed_node_is_critical_and_listed(cluster, api):
    elsewhere = cluster.followers()[0]
    present = ConsulApi(elsewhere.config)
    present.register(SPEC, marks={})
    present.close()
    wait_until(lambda: ids(api) == {SPEC.id}, what="the catalog")
    elsewhere.stop()
    gone = wait_until(
        lambda: [item for item in SnapshotReader(api).read().remote if item.health is Health.CRITICAL],
        60,
        "the loss to show",
    )
    assert [item.id for item in gone] == [SPEC.id]
    assert "not live or unreachable" in gone[0].output


# -- the agent itself ----------------------------------------------------------------------------------------


def test_agent_with_a_data_folder_keeps_its_registrations_and_who_it_is(cluster, api):
    api.register(SPEC, marks=MARKS)
    wait_until(lambda: ids(api) == {SPEC.id}, what="the catalog")
    before = api.agent_node()
    cluster.client.stop()
    with pytest.raises(ConsulUnavailableError):
        api.agent_node()
    cluster.client.start()
    assert set(api.agent_instances()) == {SPEC.id}
    assert api.agent_instances()[SPEC.id].owner == "tests"
    assert api.agent_node() == before


def test_agent_that_has_lost_its_data_folder_can_be_told_by_the_id_of_its_node(cluster, api):
    api.register(SPEC, marks=MARKS)
    wait_until(lambda: ids(api) == {SPEC.id}, what="the catalog")
    name, node_id, _ = api.agent_node()
    cluster.replace_client()
    assert api.agent_instances() == {}
    assert api.agent_node().name == name
    assert api.agent_node().id != node_id
    api.register(NEW, marks=MARKS)
    wait_until(lambda: came_true(api, lambda api: ids(api) == {NEW.id}), 60, "the catalog to forget the old ones")
