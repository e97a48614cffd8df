"""Snapshots of a real Consul, and a second snapshot after changes."""

from __future__ import annotations

import dataclasses
import json
import threading

import pytest

from registry_admin.consul import CheckSpec, ConsulApi, ConsulConfig, Health, Place, ServiceSpec, SnapshotReader
from registry_admin.errors import ConsulPermissionError, ConsulUnavailableError, InvalidReplyError
from tests.parts import ConsulAgent, refusing_port, wait_until

TTL = CheckSpec(kind="ttl", interval="1h")


def spec(number=1, **changes):
    return ServiceSpec(**{"name": "backend-api", "address": "10.0.0.1", "port": number, "id": f"b{number}"} | changes)


@pytest.fixture
def observer(api):
    return SnapshotReader(api)


@pytest.fixture
def other_node(agent):
    """`other_node(name, *services, checks=…)`: a node in the catalog that has no agent; it goes with the test."""
    made = []

    def make(name, *services, checks=()):
        made.append(name)
        for body in [{"Service": service} for service in services] + [{"Checks": list(checks)}]:
            registration = {"Node": name, "Address": "10.9.9.9", "SkipNodeUpdate": False} | body
            agent.request("PUT", "/v1/catalog/register", body=registration)

    yield make
    for name in made:
        agent.request("PUT", "/v1/catalog/deregister", body={"Node": name})


def checked(service_id, status, **fields):
    return {"CheckID": f"{service_id}:http", "ServiceID": service_id, "Status": status} | fields


def web(service_id="w1", **fields):
    return {"ID": service_id, "Service": "web", "Address": "10.1.1.1", "Port": 80} | fields


def places(snapshot):
    return {(item.node, item.id) for item in snapshot.remote}


# -- what is seen --------------------------------------------------------------------------------------------


def test_our_agents_instances_are_seen_with_their_node_and_their_checks(observer, api, agent):
    api.register(spec(1, check=TTL, tags=["a"], meta={"k": "v"}), marks={"registry-owner": "tests"}, status="passing")
    api.register(spec(2, check=TTL), marks={})
    api.update_ttl("b2:ttl", "warning", output="a full disk")
    snapshot = observer.read()
    config = agent.request("GET", "/v1/agent/self")["Config"]
    assert (snapshot.node, snapshot.node_id) == (config["NodeName"], config["NodeID"])
    assert (snapshot.datacenter, snapshot.nodes, snapshot.failed_nodes) == (config["Datacenter"], set(), set())
    assert snapshot.node_id
    assert snapshot.local.keys() == {"b1", "b2"}
    first, second = snapshot.local["b1"], snapshot.local["b2"]
    assert (first.service, first.address, first.port, first.tags) == ("backend-api", "10.0.0.1", 1, ("a",))
    assert (first.user_meta, first.owner, first.evict_after) == ({"k": "v"}, "tests", "30s")
    assert (first.health, second.health, second.output) == (Health.PASSING, Health.WARNING, "a full disk")
    assert {first.place, second.place} == {Place("dc1", snapshot.node, "b1"), Place("dc1", snapshot.node, "b2")}
    assert (snapshot.remote, snapshot.is_filtered) == ((), False)
    assert {
        key: dataclasses.replace(item, node="", datacenter="") for key, item in snapshot.local.items()
    } == api.agent_instances()


def test_snapshot_is_immutable(observer):
    with pytest.raises(TypeError):
        observer.read().local["b1"] = None


def test_nodes_own_checks_count_for_each_of_its_instances(observer, api, agent):
    api.register(spec(1, check=CheckSpec(kind="none")), marks={})
    assert observer.read().local["b1"].health is Health.PASSING
    agent.request("PUT", "/v1/agent/maintenance?enable=true&reason=reboot")
    try:
        assert (observer.read().local["b1"].health, observer.read().local["b1"].output) == (
            Health.MAINTENANCE,
            "reboot",
        )
    finally:
        agent.request("PUT", "/v1/agent/maintenance?enable=false")
    assert observer.read().local["b1"].health is Health.PASSING


def test_other_nodes_instances_are_seen_with_their_checks(observer, api, other_node):
    api.register(spec(1, check=CheckSpec(kind="none")), marks={})
    other_node(
        "db-1",
        web("w1", Tags=["b", "a"], Meta={"registry-owner": "tests", "k": "v"}, Weights={"Passing": 7, "Warning": 1}),
        web("w2", Address=""),
        web("b1", Service="backend-api"),  # an ID is unique per agent only
        checks=[checked("w1", "critical", Output="refused"), checked("w2", "passing")],
    )
    other_node("db-2", web("w1"), checks=[{"CheckID": "disk", "Status": "warning", "Output": "90 % full"}])
    snapshot = observer.read()
    assert snapshot.local.keys() == {"b1"}
    result = {(item.node, item.id): item for item in snapshot.remote}
    assert result.keys() == {("db-1", "w1"), ("db-1", "w2"), ("db-1", "b1"), ("db-2", "w1")}
    first = result["db-1", "w1"]
    assert (first.service, first.address, first.port, first.tags) == ("web", "10.1.1.1", 80, ("a", "b"))
    assert (first.owner, first.user_meta, first.weight) == ("tests", {"k": "v"}, 7)
    assert (first.health, first.output) == (Health.CRITICAL, "refused")
    assert (result["db-1", "w2"].health, result["db-1", "w2"].address) == (Health.PASSING, "10.9.9.9")
    assert result["db-1", "b1"].health is Health.PASSING
    assert (result["db-2", "w1"].health, result["db-2", "w1"].output) == (Health.WARNING, "90 % full")


def test_consuls_own_servers_are_no_instances(observer, other_node):
    other_node("server-2", {"ID": "consul", "Service": "consul", "Port": 8300}, web("w1"))
    snapshot = observer.read()
    assert places(snapshot) == {("server-2", "w1")}
    assert snapshot.local == {}


def test_our_own_node_is_no_other_one_however_its_name_is_written(scripted):
    scripted.bodies["/v1/catalog/nodes"] = b'[{"Node": "N1"}]'  # Consul takes both for one
    assert scripted.observer.read().remote == ()


@pytest.mark.parametrize("name", ["..", "../../agent/leave", "a//b", "a/./b", "."])
def test_node_whose_name_no_url_can_hold_hides_only_itself(observer, other_node, name):
    other_node(name, web("w1"))
    other_node("db-1", web("w1"))
    assert places(observer.read()) == {("db-1", "w1")}


@pytest.mark.parametrize("name", ["a b", "a/b", "q?x#y%41", "é", "a%2Fb", "<script>"])
def test_node_of_an_odd_name_is_seen(observer, other_node, name):
    other_node(name, web("w1"), checks=[checked("w1", "critical")])
    (snapshot,) = observer.read().remote
    assert (snapshot.node, snapshot.id, snapshot.health) == (name, "w1", Health.CRITICAL)


def test_strangers_odd_registrations_are_seen_as_they_are(make_agent):
    agent = make_agent()  # of its own: nothing can take such an ID off an agent again
    odd = {
        "ID": "a/b\n..",
        "Name": "x" * 300,
        "Address": "evil@host",
        "Port": -1,
        "Tags": ['"},{', "\\", "é\U0001f600"],
    }
    agent.request("PUT", "/v1/agent/service/register", body=odd | {"Meta": {"registry-evict-after": "soon"}})
    api = ConsulApi(agent.config)
    observer = SnapshotReader(api)
    for _ in range(2):
        actual = observer.read().local["a/b\n.."]
        assert (actual.service, actual.port, actual.evict_after, actual.is_callable) == (
            "x" * 300,
            -1,
            "",
            False,
        )
        assert actual.tags == tuple(sorted(odd["Tags"]))
    api.close()


# -- the second look -----------------------------------------------------------------------------------------


def test_unchanged_instance_is_the_same_object(observer, api, other_node):
    for number in range(1, 4):
        api.register(spec(number, check=TTL), marks={}, status="passing")
    other_node("db-1", web("w1"), web("w2"), checks=[checked("w1", "passing")])
    first, second = observer.read(), observer.read()
    assert (len(first.local), len(first.remote)) == (3, 2)
    assert second.local is first.local
    assert all(item is other for item, other in zip(first.remote, second.remote, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        lambda api: api.update_ttl("b2:ttl", "critical", output="x"),
        lambda api: api.update_ttl("b2:ttl", "passing", output="fine"),
        lambda api: api.register(spec(2, check=TTL, tags=["new"]), marks={}),
        lambda api: api.set_maintenance("b2", enable=True),
        lambda api: api.deregister_check("b2:ttl"),
    ],
    ids=["health", "output", "tags", "maintenance", "no check"],
)
def test_only_what_has_changed_is_a_new_object(observer, api, change):
    for number in range(1, 4):
        api.register(spec(number, check=TTL), marks={}, status="passing")
    before = observer.read().local
    change(api)
    after = observer.read().local
    assert after["b2"] != before["b2"]
    assert (after["b1"], after["b3"]) == (before["b1"], before["b3"])
    assert after["b1"] is before["b1"]
    assert after["b3"] is before["b3"]
    api.set_maintenance("b2", enable=False)


def test_snapshot_follows_added_and_removed_instances(observer, api, other_node):
    for number in (1, 3):
        api.register(spec(number), marks={})
    other_node("db-1", web("w1"))
    before = observer.read()
    api.deregister("b1")
    api.register(spec(2), marks={})
    other_node("db-1", web("w2"), checks=[checked("w1", "critical")])
    other_node("db-2", web("w1"))
    after = observer.read()
    assert after.local.keys() == {"b2", "b3"}
    assert after.local["b3"] is before.local["b3"]
    assert places(after) == {("db-1", "w1"), ("db-1", "w2"), ("db-2", "w1")}
    assert {item.health for item in after.remote if (item.node, item.id) == ("db-1", "w1")} == {Health.CRITICAL}


def test_change_on_another_node_keeps_its_other_instances(observer, other_node):
    other_node("db-1", web("w1"), web("w2"), checks=[checked("w1", "passing"), checked("w2", "passing")])
    before = {item.id: item for item in observer.read().remote}
    other_node("db-1", web("w2", Port=81))
    after = {item.id: item for item in observer.read().remote}
    assert after["w1"] is before["w1"]
    assert (before["w2"].port, after["w2"].port) == (80, 81)


def test_node_that_goes_is_gone_and_may_come_back(observer, other_node, agent):
    other_node("db-1", web("w1"))
    assert places(observer.read()) == {("db-1", "w1")}
    agent.request("PUT", "/v1/catalog/deregister", body={"Node": "db-1"})
    assert observer.read().remote == ()
    other_node("db-1", web("w1"))
    assert places(observer.read()) == {("db-1", "w1")}


def test_threads_share_one_observer(observer, api):
    for number in range(1, 6):
        api.register(spec(number, check=TTL), marks={})
    failed = []

    def look():
        failed.extend(
            snapshot for _ in range(20) if (snapshot := set(observer.read().local)) != {f"b{n}" for n in range(1, 6)}
        )

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(40):
        api.update_ttl("b3:ttl", "passing", output=str(n))
    for thread in threads:
        thread.join()
    assert failed == []
    assert observer.read().local["b3"].output == "39"


# -- an agent that restarts, and a cluster without a leader --------------------------------------------------


def test_agent_that_lost_its_state_is_another_one(make_agent):
    agent = make_agent()
    api = ConsulApi(agent.config)
    observer = SnapshotReader(api)
    api.register(spec(1), marks={})
    before = observer.read()
    agent.stop()
    with pytest.raises(ConsulUnavailableError, match="refused the connection") as caught:
        observer.read()
    assert caught.value.status is None
    agent.start()
    after = observer.read()
    assert (after.local, after.node) == ({}, before.node)
    assert after.node_id != before.node_id
    api.close()


@pytest.mark.consul
@pytest.mark.parametrize(
    "settings", [{"bootstrap_expect": 3}, {"server": False, "bootstrap_expect": 0}], ids=["server", "client"]
)
def test_without_a_leader_nothing_is_known(tmp_path, settings):
    """A server that waits for two others, and a client agent without any server: both show empty lists."""
    agent = ConsulAgent(tmp_path, durable=True, settings=settings)
    agent.launch()
    api = ConsulApi(dataclasses.replace(agent.config, read_timeout=5))
    try:
        wait_until(lambda: answers(api), 30, "the agent to answer")
        with pytest.raises(ConsulUnavailableError, match="has no leader") as caught:
            SnapshotReader(api).read()
        assert caught.value.status is not None  # something answered
    finally:
        api.close()
        agent.stop()


def answers(api):
    try:
        return api.agent_node()
    except ConsulUnavailableError:
        return None


# -- tokens --------------------------------------------------------------------------------------------------


def test_token_without_rights_is_refused_and_shows_no_empty_registry(guarded_agent):
    owner = ConsulApi(guarded_agent.config)
    owner.register(spec(1), marks={})
    try:
        for token in (None, guarded_agent.make_token('key_prefix "" { policy = "read" }')):
            api = ConsulApi(dataclasses.replace(guarded_agent.config, token=token))
            with pytest.raises(ConsulPermissionError, match="`agent:read`"):
                SnapshotReader(api).read()
            api.close()
    finally:
        owner.close()
        guarded_agent.forget_services()


def test_instance_hidden_by_acls_is_missing_and_flagged_by_newer_versions(guarded_agent):
    owner = ConsulApi(guarded_agent.config)
    owner.register(spec(1), marks={})
    owner.register(spec(2, name="research-api"), marks={})
    may_read = '{ policy = "read" }'
    rules = f'service "backend-api" {may_read} node_prefix "" {may_read} agent_prefix "" {may_read}'
    api = ConsulApi(dataclasses.replace(guarded_agent.config, token=guarded_agent.make_token(rules)))
    try:
        snapshot = SnapshotReader(api).read()
        assert snapshot.local.keys() == {"b1"}
        assert snapshot.is_filtered is (guarded_agent.version >= (1, 11))
    finally:
        api.close()
        owner.close()
        guarded_agent.forget_services()


# -- what no real agent says ---------------------------------------------------------------------------------


class Scripted:
    """Answers of an agent by path; what isn't told is what an agent with two nodes would say."""

    def __init__(self):
        self.bodies = {
            "/v1/agent/self": b'{"Config": {"NodeName": "n1", "NodeID": "id-1"}}',
            "/v1/status/leader": b'"10.0.0.1:8300"',
            "/v1/agent/services": b'{"b1": {"ID": "b1", "Service": "api"}}',
            "/v1/agent/checks": b'{"c": {"CheckID": "c", "ServiceID": "b1", "Status": "passing"}}',
            "/v1/catalog/nodes": b'[{"Node": "n1"}, {"Node": "n2"}]',
            "/v1/catalog/node/n1": b'{"Node": {"Node": "n1"}, "Services": {"b1": {"ID": "b1", "Service": "api"}}}',
            "/v1/catalog/node/n1b": b"null",
            "/v1/health/state/critical": b"[]",
            "/v1/health/state/warning": b"[]",
            "/v1/catalog/node/n2": b'{"Node": {"Node": "n2"}, "Services": {"w1": {"ID": "w1", "Service": "web"}}}',
            "/v1/health/state/any": b'[{"Node": "n2", "CheckID": "c", "ServiceID": "w1", "Status": "critical"}]',
        }
        self.headers = {}

    def answer(self, handler, request):
        path = request.path.partition("?")[0]
        body = self.bodies[path]  # once: whoever asked may go on, and change it, before an empty one is written
        handler.send_response(200)
        for name, value in self.headers.get(path, {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


@pytest.fixture
def scripted(http_service):
    script = Scripted()
    service = http_service(answer=script.answer)
    api = ConsulApi(ConsulConfig(host=service.host, port=service.port))
    script.observer, script.requests = SnapshotReader(api), service.requests
    yield script
    api.close()


def test_leader_is_asked_for_the_other_nodes_and_the_agent_itself_once(scripted):
    snapshot = scripted.observer.read()
    assert (places(snapshot), snapshot.remote[0].health) == ({("n2", "w1")}, Health.CRITICAL)
    others = [request.path for request in scripted.requests if request.path != "/v1/agent/self"]
    assert sorted(others) == sorted(
        ["/v1/status/leader", "/v1/agent/services", "/v1/agent/checks", "/v1/catalog/nodes",
         "/v1/catalog/node/n2", "/v1/health/state/any",
         "/v1/catalog/node/n1", "/v1/health/state/critical", "/v1/health/state/warning"]
    )  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/agent/services", "/v1/agent/checks", "/v1/catalog/nodes", "/v1/catalog/node/n2",
                                  "/v1/health/state/any"])  # fmt: skip
def test_acl_filter_flag_of_each_list_is_passed_on(scripted, path):
    assert not scripted.observer.read().is_filtered
    scripted.headers[path] = {"X-Consul-Results-Filtered-By-ACLs": "true"}
    assert scripted.observer.read().is_filtered


@pytest.mark.parametrize("path", ["/v1/catalog/nodes", "/v1/catalog/node/n2", "/v1/health/state/any"])
def test_list_of_server_without_leader_is_unavailable(scripted, path):
    scripted.headers[path] = {"X-Consul-KnownLeader": "false"}
    with pytest.raises(ConsulUnavailableError, match="has no leader"):
        scripted.observer.read()


def test_missing_leader_refuses_the_snapshot(scripted):
    scripted.bodies["/v1/status/leader"] = b'""'
    with pytest.raises(ConsulUnavailableError, match="has no leader"):
        scripted.observer.read()
    assert {request.path for request in scripted.requests} == {"/v1/agent/self", "/v1/status/leader"}


def test_node_that_vanishes_between_two_reads_is_no_error(scripted):
    scripted.bodies["/v1/catalog/node/n2"] = b"null\n"
    assert scripted.observer.read().remote == ()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/agent/self", b'{"Config": {}}'), ("/v1/agent/self", b'{"Config": {"NodeName": 5}}'),
        ("/v1/agent/services", b"null"), ("/v1/agent/services", b"[]"), ("/v1/agent/services", b'{"b1": []}'),
        ("/v1/agent/services", b'{"b1": {"Tags": "x"}}'), ("/v1/agent/services", b'{"b1": {"ID": "b1"}'),
        ("/v1/agent/checks", b"null"), ("/v1/agent/checks", b'{"c": null}'),
        ("/v1/agent/checks", b'{"c": {"Status": 1}}'), ("/v1/catalog/nodes", b"null"), ("/v1/catalog/nodes", b"[null]"),
        ("/v1/catalog/nodes", b'[{"Node": 1}]'), ("/v1/catalog/node/n2", b"[]"), ("/v1/catalog/node/n2", b"x"),
        ("/v1/catalog/node/n2", b'{"Services": {}}'), ("/v1/catalog/node/n2", b'{"Node": {}, "Services": []}'),
        ("/v1/catalog/node/n2", b'{"Node": {}, "Services": {"w1": 1}}'), ("/v1/health/state/any", b"null"),
        ("/v1/health/state/any", b"{}"), ("/v1/health/state/any", b"[1]"), ("/v1/health/state/any", b'[{"Name": []}]'),
        ("/v1/health/state/any", b""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("look", [1, 2])
def test_wrong_reply_is_an_error_on_the_first_look_and_later_and_is_forgotten(scripted, path, body, look):
    right = scripted.bodies[path]
    if look == 2:
        scripted.observer.read()
    scripted.bodies[path] = body
    with pytest.raises(InvalidReplyError, match="reply"):
        scripted.observer.read()
    scripted.bodies[path] = right
    snapshot = scripted.observer.read()
    assert snapshot.local["b1"].health is Health.PASSING
    assert [item.health for item in snapshot.remote] == [Health.CRITICAL]


OURS = b'"b1": {"ID": "b1", "Service": "api", "Meta": {"registry-owner": "us"}}'


def test_own_node_is_compared_as_often_as_that_is_cheap_or_asked_for(scripted):
    path = "/v1/catalog/node/n1"
    for compare, count in [(False, 1), (False, 1), (True, 2)]:
        scripted.observer.read(compare=compare)
        assert sum(request.path == path for request in scripted.requests) == count


def test_difference_on_own_node_holds_until_the_agent_says_otherwise(scripted):
    scripted.bodies["/v1/agent/services"] = b"{" + OURS + b"}"
    scripted.bodies["/v1/catalog/node/n1"] = b'{"Node": {"Node": "n1"}, "Services": {}}'
    for _ in range(2):
        assert scripted.observer.read().catalog.ids == {"b1"}
    scripted.bodies["/v1/agent/services"] = b"{" + OURS.replace(b'"api"', b'"web"') + b"}"
    assert scripted.observer.read().catalog.ids == set()
    assert scripted.observer.read(compare=True).catalog.ids == {"b1"}


@pytest.mark.parametrize("body", [b"null", b'{"Node": {"Node": "n1"}, "Services": {}}'])
def test_own_node_that_the_token_may_not_read_is_not_compared(scripted, body):
    scripted.bodies["/v1/catalog/node/n1"] = body
    scripted.headers["/v1/catalog/node/n1"] = {"X-Consul-Results-Filtered-By-ACLs": "true"}
    assert scripted.observer.read().catalog is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/catalog/node/n1", b"[]"), ("/v1/catalog/node/n1", b"x"),
        ("/v1/catalog/node/n1", b'{"Node": {}, "Services": []}'),
        ("/v1/catalog/node/n1", b'{"Node": {}, "Services": {"b1": 1}}'), ("/v1/health/state/critical", b"{}"),
        ("/v1/health/state/critical", b"[1]"), ("/v1/health/state/warning", b""),
    ],
)  # fmt: skip
def test_wrong_reply_about_own_node_is_an_error(scripted, path, body):
    scripted.bodies[path] = body
    with pytest.raises(InvalidReplyError, match="reply"):
        scripted.observer.read()


def test_renamed_node_is_seen_so_at_once(scripted):
    assert scripted.observer.read().local["b1"].node == "n1"
    scripted.bodies["/v1/agent/self"] = json.dumps({"Config": {"NodeName": "n1b", "NodeID": "id-2"}}).encode()
    scripted.bodies["/v1/catalog/nodes"] = b'[{"Node": "n1b"}]'
    snapshot = scripted.observer.read()
    assert (snapshot.node, snapshot.node_id, snapshot.local["b1"].node) == ("n1b", "id-2", "n1b")


@pytest.mark.network
def test_closed_port_is_unavailable():
    api = ConsulApi(ConsulConfig(port=refusing_port()))
    with pytest.raises(ConsulUnavailableError, match="refused") as caught:
        SnapshotReader(api).read()
    assert caught.value.status is None
