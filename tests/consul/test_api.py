"""What a real agent makes of everything that ConsulApi says to it: the contract that the rest is built on."""

from __future__ import annotations

import dataclasses
import threading

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from registry_admin.consul import CheckKind, CheckSpec, ConsulApi, Health, ServiceSpec
from registry_admin.consul.types import MAX_OWN_META, META_DIGEST, META_EVICT, META_OWNER, META_SELF
from registry_admin.errors import ConsulRefusedError, InvalidValueError, RegistryError
from tests.parts import free_port, wait_until

NEVER = CheckSpec(kind="none")
MARKS = {META_OWNER: "tests"}


def spec(**changes):
    return ServiceSpec(**{"name": "backend-api", "address": "127.0.0.1", "port": 8000, "check": NEVER} | changes)


def instance(api, service_id):
    return api.agent_instances()[service_id]


def health(api, service_id):
    return instance(api, service_id).health


# -- registering ---------------------------------------------------------------------------------------------


def test_what_is_registered_is_read_back_whole(api):
    one = spec(
        tags=["api", "été 1"],
        meta={"version": "1.4", "scheme": "https", "note": "a b"},
        weight=7,
        check=CheckSpec(kind="ttl"),
    )
    api.register(one, marks={**MARKS, META_SELF: "d"})
    marks = {META_OWNER: "tests", META_SELF: "d", META_DIGEST: one.digest, META_EVICT: "30s"}
    expected_meta = {**one.meta, **marks}
    wait_until(lambda: api.instances("backend-api").data, what="the catalog")
    for seen in (instance(api, one.id), api.agent_instance(one.id), api.instances("backend-api").data[0]):
        assert (seen.service, seen.id, seen.address, seen.port) == ("backend-api", one.id, "127.0.0.1", 8000)
        assert (seen.tags, dict(seen.meta), seen.weight) == (one.tags, expected_meta, 7)
        assert (seen.own_meta, seen.owner, seen.digest, seen.registered_itself) == (one.meta, "tests", one.digest, True)
        assert seen.evict_after == "30s"


@pytest.mark.parametrize("address", ["::1", "2001:db8::1", "backend.internal", "xn--bcher-kva.example"])
def test_an_address_of_any_kind_arrives_as_it_is(api, address):
    one = spec(address=address)
    api.register(one, marks=MARKS)
    assert instance(api, one.id).address == address
    api.deregister(one.id)
    assert api.agent_instances() == {}


@pytest.mark.parametrize("kind", ["http", "tcp"])
def test_a_check_that_the_agent_runs_turns_passing_and_back(api, http_service, kind):
    service = http_service()
    one = spec(port=service.port, check=CheckSpec(kind=kind, path="/health?deep=1", interval="1s", timeout="1s"))
    api.register(one, marks=MARKS)
    wait_until(lambda: health(api, one.id) is Health.PASSING, what="passing")
    if kind == "http":
        assert {(request.method, request.path) for request in service.requests} == {("GET", "/health?deep=1")}
    service.stop()
    wait_until(lambda: health(api, one.id) is Health.CRITICAL, what="critical")
    assert "refused" in instance(api, one.id).output


@pytest.mark.parametrize(
    ("status", "expected"), [(500, Health.CRITICAL), (404, Health.CRITICAL), (429, Health.WARNING)]
)
def test_a_service_that_says_it_is_ill_is_shown_with_its_own_words(api, http_service, status, expected):
    service = http_service(status=status, body=b"the <b>database</b> is away")
    one = spec(port=service.port, check=CheckSpec(interval="1s"))
    api.register(one, marks=MARKS)
    wait_until(lambda: health(api, one.id) == expected and instance(api, one.id).output, what=expected)
    assert "the <b>database</b> is away" in instance(api, one.id).output


def test_an_http_check_of_an_ipv6_address(api):
    one = spec(address="::1", port=free_port(), check=CheckSpec(interval="1s", timeout="1s"))
    api.register(one, marks=MARKS)
    wait_until(lambda: f"[::1]:{one.port}" in instance(api, one.id).output, what="the check to have run")


def test_a_ttl_check_says_what_it_is_told_and_expires(api):
    one = spec(check=CheckSpec(kind="ttl", interval="1s"))
    api.register(one, marks=MARKS)
    for status in ("passing", "warning", "critical"):
        api.update_ttl(one.check_id, status, output="queue: 5 < 10\n")
        assert health(api, one.id) == status
        assert instance(api, one.id).output == "queue: 5 < 10\n"
    api.update_ttl(one.check_id, "passing")
    wait_until(lambda: health(api, one.id) is Health.CRITICAL, what="the TTL to expire")


def test_without_a_check_an_instance_is_passing(api):
    api.register(spec(), marks=MARKS)
    assert health(api, spec().id) is Health.PASSING


def test_who_knows_that_it_answers_begins_as_passing(api):
    check = CheckSpec(kind="ttl", interval="1h")
    api.register(spec(id="sure", check=check), marks=MARKS, passing=True)
    api.register(spec(id="unsure", check=check), marks=MARKS)
    assert health(api, "sure") is Health.PASSING
    assert health(api, "unsure") is Health.CRITICAL


# -- updating ------------------------------------------------------------------------------------------------


def test_an_update_changes_every_field(api):
    api.register(spec(id="b1", tags=["old"], meta={"old": "1"}), marks=MARKS)
    new = spec(id="b1", address="10.0.0.1", port=9000, tags=["new"], meta={"new": "2"}, weight=3)
    api.register(new, marks={})
    seen = instance(api, "b1")
    assert (seen.address, seen.port, seen.tags, seen.own_meta, seen.weight) == (
        "10.0.0.1",
        9000,
        ("new",),
        {"new": "2"},
        3,
    )
    assert (seen.owner, seen.digest) == ("", new.digest)


def test_an_update_keeps_the_health_that_was_seen(api):
    check = CheckSpec(kind="ttl", interval="1h")
    api.register(spec(check=check), marks=MARKS)
    api.update_ttl(spec(check=check).check_id, "passing", output="as before")
    api.register(spec(check=check, tags=["new"]), marks=MARKS)
    seen = instance(api, spec().id)
    assert (seen.tags, seen.health, seen.output) == (("new",), Health.PASSING, "as before")


def test_an_update_does_not_end_maintenance(api):
    check = CheckSpec(kind="ttl", interval="1h")
    api.register(spec(check=check), marks=MARKS, passing=True)
    api.set_maintenance(spec().id, enable=True, reason="a new disk & more")
    api.register(spec(check=check, tags=["new"]), marks=MARKS)
    seen = instance(api, spec().id)
    assert (seen.tags, seen.health, seen.output) == (("new",), Health.MAINTENANCE, "a new disk & more")
    api.set_maintenance(spec().id, enable=False)
    assert health(api, spec().id) is Health.PASSING


def test_a_check_that_an_update_drops_stays_until_it_is_taken_off(api):
    checked = spec(check=CheckSpec(kind="ttl", interval="1h"))
    api.register(checked, marks=MARKS)
    api.register(spec(), marks=MARKS)
    assert [check.id for check in instance(api, spec().id).checks] == [checked.check_id]
    api.deregister_check(checked.check_id)
    assert instance(api, spec().id).checks == ()


def test_a_check_of_another_kind_does_not_speak_for_the_new_one(api, http_service):
    """With one ID for both, the forgotten HTTP check would go on and report a TTL that was never fed as passing."""
    service = http_service()
    http = spec(port=service.port, check=CheckSpec(interval="1s"))
    ttl = dataclasses.replace(http, check=CheckSpec(kind="ttl", interval="1h"))
    api.register(http, marks=MARKS)
    wait_until(lambda: health(api, http.id) is Health.PASSING, what="passing")
    api.register(ttl, marks=MARKS)
    api.deregister_check(http.check_id)
    asked = len(service.requests)
    probe = dataclasses.replace(http, id="probe", check=CheckSpec(interval="1s", path="/probe"))
    api.register(probe, marks=MARKS)  # two rounds of this one, and a round of the other would have been seen
    wait_until(lambda: [r.path for r in service.requests].count("/probe") >= 3, what="three rounds of checks")
    assert {request.path for request in service.requests[asked + 1 :]} == {"/probe"}
    assert health(api, ttl.id) is Health.CRITICAL


# -- limits --------------------------------------------------------------------------------------------------


def test_the_most_meta_that_a_spec_may_hold_is_what_the_agent_takes(api):
    full = {f"{'k' * 120}{n:08}": "v" * 512 for n in range(MAX_OWN_META)}
    one = spec(meta=full, check=CheckSpec(kind="ttl"))
    api.register(one, marks={META_OWNER: "tests", META_SELF: "d"})
    assert len(instance(api, spec().id).meta) == 64


@pytest.mark.parametrize(
    "meta",
    [
        {f"k{n}": "v" for n in range(65)},
        {"k": "v" * 513},
        {"k": "é" * 257},
        {"k" * 129: "v"},
        {"k.k": "v"},
        {"consul-k": "v"},
    ],
)
def test_what_we_refuse_in_meta_the_agent_refuses_too(agent, meta):
    with pytest.raises(InvalidValueError):
        spec(meta=meta)
    with pytest.raises(AssertionError, match="400"):
        agent.request("PUT", "/v1/agent/service/register", body={"Name": "m", "Meta": meta})


def test_a_refusal_says_why_and_is_not_to_be_tried_again(api, monkeypatch):
    monkeypatch.setattr(ServiceSpec, "payload", lambda *_, **__: {"Name": "m", "Meta": {"k.k": "v"}})
    with pytest.raises(ConsulRefusedError, match="Invalid Service Meta") as caught:
        api.register(spec(), marks={})
    assert caught.value.status == 400


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=40)
NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,30}[A-Za-z0-9])?", fullmatch=True)
DURATIONS = st.integers(3600, 86_400).map("{}s".format)
CHECKS = st.builds(
    CheckSpec,
    kind=st.sampled_from(CheckKind),
    path=st.from_regex(r"/[a-z0-9-]{1,9}(\?[a-z]=[a-z0-9%41]{0,3})?", fullmatch=True).filter(
        lambda path: "%" not in path
    ),
    scheme=st.sampled_from(["http", "https"]),
    interval=DURATIONS,  # so long that the agent never gets to ask whatever address this is
    deregister_after=st.none() | DURATIONS,
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_a_spec_accepts_can_be_registered_read_back_and_taken_out(consul_agent, data):
    api = ConsulApi(consul_agent.config)
    fields = {
        "name": data.draw(NAMES),
        "address": data.draw(st.ip_addresses().map(str) | NAMES.map(str.lower)),
        "port": data.draw(st.integers(1, 65_535)),
        "id": data.draw(st.just("") | st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._:-]{0,40}[A-Za-z0-9])?", fullmatch=True)),
        "tags": data.draw(st.lists(TEXT.filter(lambda text: "," not in text), max_size=3)),
        "meta": data.draw(st.dictionaries(st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True), TEXT, max_size=3)),
        "weight": data.draw(st.integers(1, 65_535)),
        "check": data.draw(CHECKS),
    }
    try:
        one = ServiceSpec(**fields)
        api.refuse_own_port(one.address, one.port)
    except InvalidValueError:
        assume(False)
    try:
        api.register(one, marks=MARKS)
        seen = instance(api, one.id)
        assert (seen.service, seen.address, seen.port) == (one.name, one.address, one.port)
        assert (seen.tags, seen.own_meta, seen.weight, seen.digest) == (one.tags, one.meta, one.weight, one.digest)
        assert [check.id for check in seen.checks] == ([] if one.check.kind is CheckKind.NONE else [one.check_id])
    finally:
        api.deregister(one.id)
        gone = api.agent_instance(one.id)
        api.close()
    assert gone is None


# -- taking out ----------------------------------------------------------------------------------------------


def test_what_is_not_there_is_as_good_as_taken_out(api):
    api.deregister("never-registered")
    api.deregister_check("never-registered:http")
    api.register(spec(), marks=MARKS)
    api.deregister(spec().id)
    api.deregister(spec().id)
    assert api.agent_instance(spec().id) is None
    assert api.agent_instances() == {}


@pytest.mark.parametrize(
    "call", [lambda api: api.update_ttl("never:ttl", "passing"), lambda api: api.set_maintenance("never", enable=True)]
)
def test_what_is_not_there_can_not_be_changed_and_trying_again_would_not_help(api, call):
    with pytest.raises(ConsulRefusedError) as caught:
        call(api)
    assert caught.value.status == 404


# -- reading -------------------------------------------------------------------------------------------------


def test_all_services_with_their_tags(api):
    api.register(spec(tags=["a"]), marks=MARKS)
    api.register(spec(id="b2", tags=["b"]), marks=MARKS)
    wait_until(lambda: sorted(api.services().data.get("backend-api", [])) == ["a", "b"], what="the catalog")


def test_instances_by_tag_and_by_health(api):
    ttl = CheckSpec(kind="ttl", interval="1h")
    api.register(spec(id="b1", tags=["blue"]), marks=MARKS)
    api.register(spec(id="b2", tags=["green"], check=ttl), marks=MARKS)

    def ids(**options):
        return {one.id for one in api.instances("backend-api", **options).data}

    wait_until(lambda: ids() == {"b1", "b2"}, what="the catalog")
    assert ids(tag="green") == {"b2"}
    assert ids(passing=True) == {"b1"}
    assert ids(tag="green", passing=True) == set()
    assert ids(tag="no such") == set()
    assert api.instances("no-such").data == []


def test_every_check_in_the_catalog(api):
    one = spec(check=CheckSpec(kind="ttl", interval="1h"))
    api.register(one, marks=MARKS)
    wait_until(lambda: one.check_id in {check["CheckID"] for check in api.health_states().data}, what="the catalog")


def test_the_nodes_own_checks_count_for_each_of_its_instances(api, agent):
    api.register(spec(), marks=MARKS)
    agent.request("PUT", "/v1/agent/maintenance?enable=true&reason=reboot")
    try:
        assert health(api, spec().id) is Health.MAINTENANCE
        assert instance(api, spec().id).output == "reboot"
    finally:
        agent.request("PUT", "/v1/agent/maintenance?enable=false")
    assert health(api, spec().id) is Health.PASSING


def test_the_agent_says_who_it_is_and_who_leads(api, agent):
    config = agent.request("GET", "/v1/agent/self")["Config"]
    assert api.agent_node() == (config["NodeName"], config["NodeID"])
    assert api.leader() == agent.request("GET", "/v1/status/leader")


READS = {
    "services": lambda api, **options: api.services(**options),
    "health_states": lambda api, **options: api.health_states(**options),
    "instances": lambda api, **options: api.instances("backend-api", **options),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_blocking_read_returns_when_something_changes(api, read):
    api.register(spec(id="first"), marks=MARKS)
    wait_until(lambda: api.instances("backend-api").data, what="the catalog")
    before = read(api)
    assert before.index > 0
    assert before.known_leader
    assert not before.filtered_by_acls
    found = []

    def until_changed():
        index = before.index
        while index <= before.index:  # a return proves no change
            reply = read(api, index=index, wait_s=60)
            index = reply.index
        found.append(reply)

    waiting = threading.Thread(target=until_changed, daemon=True)
    waiting.start()
    api.register(
        spec(id="second", name="backend-api", tags=["new"], check=CheckSpec(kind="ttl", interval="1h")), marks=MARKS
    )
    waiting.join(30)
    assert found
    assert found[0].index > before.index


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("wait_s", [0.001, 0.05])
def test_a_blocking_read_returns_when_its_wait_is_over(api, read, wait_s):
    api.register(spec(), marks=MARKS)
    wait_until(lambda: api.instances("backend-api").data, what="the catalog")
    index = read(api).index
    assert read(api, index=index, wait_s=wait_s).index >= index


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("wait_s", [0, -1, float("nan")])
def test_an_index_without_a_wait_does_not_block(agent, read, wait_s):
    """To Consul a wait of 0 is its default of 5 minutes, so this would end in an error."""
    impatient = ConsulApi(dataclasses.replace(agent.config, read_timeout=5))
    index = max(read(impatient).index, 1)
    read(impatient, index=index, wait_s=wait_s)
    impatient.close()


# -- the library's own endpoints -----------------------------------------------------------------------------


def test_the_librarys_own_endpoints_work_over_the_same_transport(consul_agent):
    api = ConsulApi(consul_agent.config)
    try:
        assert api.kv.put("registry-admin/test", "value")
        _, found = api.kv.get("registry-admin/test")
        assert found["Value"] == b"value"
        _, found = api.kv.get("registry-admin/", recurse=True)
        assert [entry["Key"] for entry in found] == ["registry-admin/test"]
        assert api.kv.delete("registry-admin/test")
        assert api.kv.get("registry-admin/test")[1] is None
        assert "consul" in api.catalog.services()[1]
        assert isinstance(api.agent.services(), dict)
        with pytest.raises(RegistryError):
            api.kv.put("registry-admin/test", "x" * 600_000)
    finally:
        api.close()
