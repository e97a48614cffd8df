"""ConsulApi against a real agent: the contract that everything else is built on."""

from __future__ import annotations

import dataclasses
import threading

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from registry_admin.consul import CheckKind, CheckSpec, ConsulApi, Health, ServiceSpec
from registry_admin.consul.marks import META_DIGEST, META_EVICT, META_MARK, META_OWNER, META_SELF
from registry_admin.consul.service_spec import MAX_OWN_META
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


def test_registered_instance_is_read_back_whole(api):
    item = spec(
        tags=["api", "été 1"],
        meta={"version": "1.4", "scheme": "https", "note": "a b"},
        weight=7,
        check=CheckSpec(kind="ttl"),
    )
    api.register(item, marks={**MARKS, META_SELF: "d"})
    marks = {META_OWNER: "tests", META_SELF: "d", META_DIGEST: item.digest, META_EVICT: "30s"}
    expected_meta = {**item.meta, **marks}
    wait_until(lambda: api.instances("backend-api").data, what="the catalog")
    for actual in (instance(api, item.id), api.agent_instance(item.id), api.instances("backend-api").data[0]):
        assert (actual.service, actual.id, actual.address, actual.port) == (
            "backend-api",
            item.id,
            "127.0.0.1",
            8000,
        )
        assert (actual.tags, dict(actual.meta), actual.weight) == (item.tags, expected_meta, 7)
        assert (actual.user_meta, actual.owner, actual.digest, actual.registered_itself) == (
            item.meta,
            "tests",
            item.digest,
            True,
        )
        assert actual.evict_after == "30s"


@pytest.mark.parametrize("address", ["::1", "2001:db8::1", "backend.internal", "xn--bcher-kva.example"])
def test_address_of_any_kind_arrives_as_it_is(api, address):
    item = spec(address=address)
    api.register(item, marks=MARKS)
    assert instance(api, item.id).address == address
    api.deregister(item.id)
    assert api.agent_instances() == {}


@pytest.mark.parametrize("kind", ["http", "tcp"])
def test_check_that_the_agent_runs_turns_passing_and_back(api, http_service, kind):
    service = http_service()
    item = spec(port=service.port, check=CheckSpec(kind=kind, path="/health?deep=1", interval="1s", timeout="1s"))
    api.register(item, marks=MARKS)
    wait_until(lambda: health(api, item.id) is Health.PASSING, what="passing")
    if kind == "http":
        assert {(request.method, request.path) for request in service.requests} == {("GET", "/health?deep=1")}
    service.stop()
    wait_until(lambda: health(api, item.id) is Health.CRITICAL, what="critical")
    assert "refused" in instance(api, item.id).output


@pytest.mark.parametrize(
    ("status", "expected"), [(500, Health.CRITICAL), (404, Health.CRITICAL), (429, Health.WARNING)]
)
def test_service_that_says_it_is_ill_is_shown_with_its_own_words(api, http_service, status, expected):
    service = http_service(status=status, body=b"the <b>database</b> is away")
    item = spec(port=service.port, check=CheckSpec(interval="1s"))
    api.register(item, marks=MARKS)
    wait_until(lambda: health(api, item.id) == expected and instance(api, item.id).output, what=expected)
    assert "the <b>database</b> is away" in instance(api, item.id).output


def test_http_check_of_an_ipv6_address(api):
    item = spec(address="::1", port=free_port(), check=CheckSpec(interval="1s", timeout="1s"))
    api.register(item, marks=MARKS)
    wait_until(lambda: f"[::1]:{item.port}" in instance(api, item.id).output, what="the check to have run")


def test_ttl_check_says_what_it_is_told_and_expires(api):
    item = spec(check=CheckSpec(kind="ttl", interval="1s"))
    api.register(item, marks=MARKS)
    for status in ("passing", "warning", "critical"):
        api.update_ttl(item.check_id, status, output="queue: 5 < 10\n")
        assert health(api, item.id) == status
        assert instance(api, item.id).output == "queue: 5 < 10\n"
    api.update_ttl(item.check_id, "passing")
    wait_until(lambda: health(api, item.id) is Health.CRITICAL, what="the TTL to expire")


def test_without_a_check_an_instance_is_passing(api):
    api.register(spec(), marks=MARKS)
    assert health(api, spec().id) is Health.PASSING


def test_registration_as_passing_starts_passing(api):
    check = CheckSpec(kind="ttl", interval="1h")
    api.register(spec(id="sure", check=check), marks=MARKS, status="passing")
    api.register(spec(id="unsure", check=check), marks=MARKS)
    assert health(api, "sure") is Health.PASSING
    assert health(api, "unsure") is Health.CRITICAL


# -- updating ------------------------------------------------------------------------------------------------


def test_update_changes_every_field(api):
    api.register(spec(id="b1", tags=["old"], meta={"old": "1"}), marks=MARKS)
    new = spec(id="b1", address="10.0.0.1", port=9000, tags=["new"], meta={"new": "2"}, weight=3)
    api.register(new, marks={})
    actual = instance(api, "b1")
    assert (actual.address, actual.port, actual.tags, actual.user_meta, actual.weight) == (
        "10.0.0.1",
        9000,
        ("new",),
        {"new": "2"},
        3,
    )
    assert (actual.owner, actual.digest) == ("", new.digest)


def test_update_keeps_the_health_that_was_seen(api):
    check = CheckSpec(kind="ttl", interval="1h")
    api.register(spec(check=check), marks=MARKS)
    api.update_ttl(spec(check=check).check_id, "passing", output="as before")
    api.register(spec(check=check, tags=["new"]), marks=MARKS)
    actual = instance(api, spec().id)
    assert (actual.tags, actual.health, actual.output) == (("new",), Health.PASSING, "as before")


def test_update_does_not_end_maintenance(api):
    check = CheckSpec(kind="ttl", interval="1h")
    api.register(spec(check=check), marks=MARKS, status="passing")
    api.set_maintenance(spec().id, enable=True, reason="a new disk & more")
    api.register(spec(check=check, tags=["new"]), marks=MARKS)
    actual = instance(api, spec().id)
    assert (actual.tags, actual.health, actual.output) == (("new",), Health.MAINTENANCE, "a new disk & more")
    api.set_maintenance(spec().id, enable=False)
    assert health(api, spec().id) is Health.PASSING


def test_check_that_an_update_drops_stays_until_it_is_taken_off(api):
    checked = spec(check=CheckSpec(kind="ttl", interval="1h"))
    api.register(checked, marks=MARKS)
    api.register(spec(), marks=MARKS)
    assert [check.id for check in instance(api, spec().id).checks] == [checked.check_id]
    api.deregister_check(checked.check_id)
    assert instance(api, spec().id).checks == ()


def test_check_of_another_kind_does_not_speak_for_the_new_one(api, http_service):
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


def test_most_meta_that_a_spec_may_hold_is_what_the_agent_takes(api):
    full = {f"{'k' * 120}{n:08}": "v" * 512 for n in range(MAX_OWN_META)}
    item = spec(meta=full, check=CheckSpec(kind="ttl"))
    api.register(item, marks={META_OWNER: "tests", META_MARK: "1:", META_SELF: "d"})
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
def test_meta_refused_by_validation_is_refused_by_agent(agent, meta):
    with pytest.raises(InvalidValueError):
        spec(meta=meta)
    with pytest.raises(AssertionError, match="400"):
        agent.request("PUT", "/v1/agent/service/register", body={"Name": "m", "Meta": meta})


def test_refusal_says_why_and_is_not_to_be_tried_again(api, monkeypatch):
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
def test_valid_spec_can_be_registered_read_and_deregistered(consul_agent, data):
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
        item = ServiceSpec(**fields)
        api.refuse_own_port(item.address, item.port)
    except InvalidValueError:
        assume(False)
    try:
        api.register(item, marks=MARKS)
        actual = instance(api, item.id)
        assert (actual.service, actual.address, actual.port) == (item.name, item.address, item.port)
        assert (actual.tags, actual.user_meta, actual.weight, actual.digest) == (
            item.tags,
            item.meta,
            item.weight,
            item.digest,
        )
        assert [check.id for check in actual.checks] == ([] if item.check.kind is CheckKind.NONE else [item.check_id])
    finally:
        api.deregister(item.id)
        gone = api.agent_instance(item.id)
        api.close()
    assert gone is None


# -- taking out ----------------------------------------------------------------------------------------------


def test_deregister_unknown_id_is_not_an_error(api):
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
def test_change_of_unknown_id_is_refused(api, call):
    with pytest.raises(ConsulRefusedError) as caught:
        call(api)
    assert caught.value.status == 404


# -- reading -------------------------------------------------------------------------------------------------


def test_services_are_listed_with_their_tags(api):
    api.register(spec(tags=["a"]), marks=MARKS)
    api.register(spec(id="b2", tags=["b"]), marks=MARKS)
    wait_until(lambda: sorted(api.services().data.get("backend-api", [])) == ["a", "b"], what="the catalog")


def test_instances_by_tag_and_by_health(api):
    ttl = CheckSpec(kind="ttl", interval="1h")
    api.register(spec(id="b1", tags=["blue"]), marks=MARKS)
    api.register(spec(id="b2", tags=["green"], check=ttl), marks=MARKS)

    def ids(**options):
        return {item.id for item in api.instances("backend-api", **options).data}

    wait_until(lambda: ids() == {"b1", "b2"}, what="the catalog")
    assert ids(tag="green") == {"b2"}
    assert ids(passing=True) == {"b1"}
    assert ids(tag="green", passing=True) == set()
    assert ids(tag="no such") == set()
    assert api.instances("no-such").data == []


def test_every_check_in_the_catalog(api):
    item = spec(check=CheckSpec(kind="ttl", interval="1h"))
    api.register(item, marks=MARKS)
    wait_until(lambda: item.check_id in {check["CheckID"] for check in api.health_states().data}, what="the catalog")


def test_nodes_own_checks_count_for_each_of_its_instances(api, agent):
    api.register(spec(), marks=MARKS)
    agent.request("PUT", "/v1/agent/maintenance?enable=true&reason=reboot")
    try:
        assert health(api, spec().id) is Health.MAINTENANCE
        assert instance(api, spec().id).output == "reboot"
    finally:
        agent.request("PUT", "/v1/agent/maintenance?enable=false")
    assert health(api, spec().id) is Health.PASSING


def test_agent_says_who_it_is_and_who_leads(api, agent):
    config = agent.request("GET", "/v1/agent/self")["Config"]
    assert api.agent_node() == (config["NodeName"], config["NodeID"], config["Datacenter"])
    assert api.leader() == agent.request("GET", "/v1/status/leader")


READS = {
    "services": lambda api, **options: api.services(**options),
    "health_states": lambda api, **options: api.health_states(**options),
    "instances": lambda api, **options: api.instances("backend-api", **options),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_blocking_read_returns_when_something_changes(api, read):
    api.register(spec(id="first"), marks=MARKS)
    wait_until(lambda: api.instances("backend-api").data, what="the catalog")
    before = read(api)
    assert before.index > 0
    assert before.known_leader
    assert not before.filtered_by_acls
    result = []

    def until_changed():
        index = before.index
        while index <= before.index:  # a return proves no change
            reply = read(api, index=index, wait_s=60)
            index = reply.index
        result.append(reply)

    waiting = threading.Thread(target=until_changed, daemon=True)
    waiting.start()
    api.register(
        spec(id="second", name="backend-api", tags=["new"], check=CheckSpec(kind="ttl", interval="1h")), marks=MARKS
    )
    waiting.join(30)
    assert result
    assert result[0].index > before.index


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("wait_s", [0.001, 0.05])
def test_blocking_read_returns_when_its_wait_is_over(api, read, wait_s):
    api.register(spec(), marks=MARKS)
    wait_until(lambda: api.instances("backend-api").data, what="the catalog")
    index = read(api).index
    assert read(api, index=index, wait_s=wait_s).index >= index


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("wait_s", [0, -1, float("nan")])
def test_index_without_a_wait_does_not_block(agent, read, wait_s):
    """Consul takes a wait of 0 for its default of 5 minutes, and the call would time out."""
    impatient = ConsulApi(dataclasses.replace(agent.config, read_timeout=5))
    index = max(read(impatient).index, 1)
    read(impatient, index=index, wait_s=wait_s)
    impatient.close()


# -- the library's own endpoints -----------------------------------------------------------------------------


def test_librarys_own_endpoints_work_over_the_same_transport(consul_agent):
    api = ConsulApi(consul_agent.config)
    try:
        assert api.kv.put("registry-admin/test", "value")
        _, result = api.kv.get("registry-admin/test")
        assert result["Value"] == b"value"
        _, result = api.kv.get("registry-admin/", recurse=True)
        assert [entry["Key"] for entry in result] == ["registry-admin/test"]
        assert api.kv.delete("registry-admin/test")
        assert api.kv.get("registry-admin/test")[1] is None
        assert "consul" in api.catalog.services()[1]
        assert isinstance(api.agent.services(), dict)
        with pytest.raises(RegistryError):
            api.kv.put("registry-admin/test", "x" * 600_000)
    finally:
        api.close()


# -- what people's services have ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "check",
    [
        CheckSpec(headers={"Host": "x.example", "X-Key": "k"}, method="POST", body="{}", tls_skip_verify=True),
        CheckSpec(disable_redirects=True, tls_server_name="x.example", failures_before_warning=2),
        CheckSpec(kind="grpc", grpc_service="pkg.Api", grpc_use_tls=True, tls_server_name="x.example"),
        CheckSpec(kind="tcp", success_before_passing=2, failures_before_critical=3),
        CheckSpec(kind="keep"),
    ],
    ids=str,
)
def test_check_with_options_is_registered_whatever_the_agents_version(api, check):
    """An agent refuses a whole registration for an option that it doesn't know."""
    item = spec(check=check)
    api.register(item, marks=MARKS)
    assert [result.id for result in instance(api, item.id).checks] == [f"{item.id}:{check.kind}"]


def test_instance_without_address_or_port_is_registered_and_read_back(api):
    item = spec(
        address="", port=0, tags=["a,b"], weight=7, warning_weight=0, tag_override=True,
        tagged_addresses={"wan": "203.0.113.5:80"},
    )  # fmt: skip
    api.register(item, marks=MARKS)
    actual = instance(api, item.id)
    assert actual.registration == item.registration
    assert not actual.has_own_address


@pytest.mark.parametrize("service_id", ["_nomad-task-1b2c-web-http-8080", "a/b", "/a/b"])
def test_id_of_another_program_is_registered_read_and_deregistered(own_agent, service_id):
    api = ConsulApi(own_agent.config)
    item = spec(id=service_id, check=CheckSpec(kind="ttl"))
    api.register(item, marks=MARKS)
    instance = api.agent_instance(service_id)
    assert instance is not None
    assert instance.digest == item.digest
    api.update_ttl(item.check_id, "passing")
    assert health(api, service_id) is Health.PASSING
    assert [check.id for check in api.instance_checks(service_id)] == [item.check_id]
    if service_id.startswith("/") and api.agent_version() < (1, 10):
        with pytest.raises(RegistryError, match="redirect"):  # no path of its API can hold it
            api.deregister(service_id)
        return
    api.deregister(service_id)
    assert service_id not in api.agent_instances()
