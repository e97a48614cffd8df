"""Specs can't exist in an invalid state; what Consul says can be anything, and becomes a value or a typed error."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.consul import CheckKind, CheckResult, CheckSpec, Health, ServiceInstance, ServiceSpec
from registry_admin.consul.types import MAX_OWN_META, META_DIGEST, META_EVICT, META_OWNER, META_SELF, health_of
from registry_admin.errors import InvalidReplyError, InvalidValueError


def spec(**changes):
    return ServiceSpec(**{"name": "backend-api", "address": "127.0.0.1", "port": 8000} | changes)


# -- specs ---------------------------------------------------------------------------------------------------


def test_the_default_id_is_name_address_and_port():
    assert spec().id == "backend-api-127.0.0.1-8000"
    assert spec(address="::1").id == "backend-api-::1-8000"
    assert spec(id="mine").id == "mine"


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "../leave"}, {"name": "consul"}, {"name": "Consul"}, {"address": "evil@host"},
        {"address": "169.254.169.254"},
        {"port": 0}, {"port": "80"}, {"port": True}, {"id": "../../leave"}, {"id": "consul"}, {"id": 5},
        {"tags": "api"},
        {"tags": ["a,b"]}, {"meta": {"consul-x": "y"}}, {"meta": {META_OWNER: "me"}}, {"meta": {META_SELF: "me"}},
        {"meta": {META_DIGEST: "me"}}, {"meta": {META_EVICT: "1s"}},
        {"meta": {f"k{n}": "v" for n in range(MAX_OWN_META + 1)}}, {"weight": 0},
        {"weight": 65536}, {"check": None}, {"check": {"script": "rm"}}, {"name": "a" * 128,
        "address": "b" * 63 + "." + "c" * 63},
    ],
)  # fmt: skip
def test_a_spec_with_a_bad_field_does_not_come_into_being(bad):
    with pytest.raises(InvalidValueError):
        spec(**bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "script"}, {"kind": "docker"}, {"kind": None}, {"kind": ["http"]}, {"kind": "HTTP"},
        {"scheme": "ftp"},
        {"scheme": "file"}, {"scheme": None}, {"path": "health"}, {"path": "//evil/x"}, {"path": "/%2e%2e/admin"},
        {"interval": "10"}, {"interval": "0s"}, {"interval": "1ns"}, {"interval": 10}, {"timeout": "0.01s"},
        {"timeout": "601s"}, {"deregister_after": "0s"}, {"deregister_after": ""}, {"interval": "10000000h"},
    ],
)  # fmt: skip
def test_a_check_with_a_bad_field_does_not_come_into_being(bad):
    with pytest.raises(InvalidValueError) as caught:
        CheckSpec(**bad)
    assert caught.value.field == f"check.{next(iter(bad))}"


def test_a_spec_is_brought_into_its_canonical_form():
    one = spec(tags=["b", "a", "b"], check=CheckSpec(interval="1m", kind="http"), address="::ffff:10.0.0.1")
    assert (one.tags, one.check.interval, one.check.kind, one.address) == (
        ("a", "b"),
        "60s",
        CheckKind.HTTP,
        "10.0.0.1",
    )
    assert one == spec(tags=("a", "b"), check=CheckSpec(interval="60s"), address="10.0.0.1")


def test_a_spec_can_not_be_changed_nor_through_what_it_was_made_of():
    meta = {"a": "1"}
    one = spec(meta=meta)
    meta["a"] = "2"
    assert one.meta == {"a": "1"}
    with pytest.raises(TypeError):
        one.meta["a"] = "2"
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.port = 1


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"}, {"address": "10.0.0.1"}, {"port": 1}, {"tags": ["x"]}, {"meta": {"a": "b"}}, {"weight": 2},
        {"check": CheckSpec(path="/x")}, {"check": CheckSpec(scheme="https")}, {"check": CheckSpec(interval="11s")},
        {"check": CheckSpec(timeout="6s")}, {"check": CheckSpec(deregister_after=None)},
        {"check": CheckSpec(kind="tcp")},
        {"check": CheckSpec(kind="none")},
    ],
)  # fmt: skip
def test_the_digest_changes_with_everything_that_matters(change):
    assert spec(**change).digest != spec().digest


def test_the_digest_does_not_change_with_what_does_not_matter():
    assert spec(id="other").digest == spec().digest
    assert spec(meta={"a": "1", "b": "2"}).digest == spec(meta={"b": "2", "a": "1"}).digest
    tcp = spec(check=CheckSpec(kind="tcp", path="/left/over", scheme="https"))
    assert tcp.digest == spec(check=CheckSpec(kind="tcp")).digest


def test_the_digest_is_the_same_in_every_release():
    assert spec(tags=["api"], meta={"version": "1"}).digest == "30645f2c76586c95bd8f"


def test_the_payload_of_an_http_check():
    body = spec(tags=["api"], meta={"version": "1"}, weight=3).payload(marks={META_OWNER: "here"})
    assert body == {
        "ID": "backend-api-127.0.0.1-8000",
        "Name": "backend-api",
        "Address": "127.0.0.1",
        "Port": 8000,
        "Tags": ["api"],
        "Meta": {
            "version": "1",
            META_OWNER: "here",
            META_DIGEST: spec(tags=["api"], meta={"version": "1"}, weight=3).digest,
            META_EVICT: "30s",
        },
        "Weights": {"Passing": 3, "Warning": 3},
        "Checks": [
            {
                "CheckID": "backend-api-127.0.0.1-8000:http",
                "Name": "backend-api HTTP check",
                "HTTP": "http://127.0.0.1:8000/health",
                "Method": "GET",
                "Interval": "10s",
                "Timeout": "5s",
                "DeregisterCriticalServiceAfter": "30s",
            }
        ],
    }


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        (CheckSpec(kind="tcp", interval="2s"), {"TCP": "[::1]:8000", "Interval": "2s", "Timeout": "5s"}),
        (CheckSpec(kind="ttl", interval="2s"), {"TTL": "2s"}),
        (
            CheckSpec(scheme="https", path="/x?y=1"),
            {"HTTP": "https://[::1]:8000/x?y=1", "Method": "GET", "Interval": "10s", "Timeout": "5s"},
        ),
    ],
)
def test_the_payload_of_other_checks(check, expected):
    (sent,) = spec(address="::1", check=check).payload(marks={})["Checks"]
    assert sent.pop("CheckID") == f"backend-api-::1-8000:{check.kind}"
    assert sent.pop("Name").startswith("backend-api ")
    assert sent == expected | {"DeregisterCriticalServiceAfter": "30s"}


def test_without_a_check_none_is_sent():
    assert "Checks" not in spec(check=CheckSpec(kind="none")).payload(marks={}, passing=True)


def test_a_check_begins_as_passing_only_where_it_is_said_so():
    assert "Status" not in spec().payload(marks={})["Checks"][0]
    assert spec().payload(marks={}, passing=True)["Checks"][0]["Status"] == "passing"


def test_no_eviction_by_consul_where_none_is_wanted():
    (sent,) = spec(check=CheckSpec(deregister_after=None)).payload(marks={})["Checks"]
    assert "DeregisterCriticalServiceAfter" not in sent


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        (CheckSpec(deregister_after="1m30s"), "90s"),
        (CheckSpec(kind="ttl"), "30s"),
        (CheckSpec(deregister_after=None), ""),
        (CheckSpec(kind="none"), ""),  # never critical, so there is nothing to wait for
    ],
)
def test_when_to_evict_is_marked_where_a_check_says_so(check, expected):
    one = spec(check=check)
    meta = one.payload(marks={META_OWNER: "here"})["Meta"]
    assert (one.evict_after, meta.get(META_EVICT, "")) == (expected, expected)
    assert ServiceInstance(service="s", id="i", address="h", port=1, meta=meta).evict_after == expected


@pytest.mark.parametrize("value", ["", "soon", "30", "-1s", "0s", "1ns", "10000000h", "30s\n", "٣s", "9" * 5000 + "s"])
def test_a_time_to_evict_that_someone_made_up_counts_as_none(value):
    assert ServiceInstance(service="s", id="i", address="h", port=1, meta={META_EVICT: value}).evict_after == ""


@pytest.mark.parametrize("kind", list(CheckKind))
def test_a_check_of_another_kind_has_another_id(kind):
    one = spec(id="a", check=CheckSpec(kind=kind))
    ids = {f"a:{other}" for other in CheckKind if other is not CheckKind.NONE}
    assert set(one.former_check_ids) == ids - {one.check_id}


def test_a_check_says_in_words_what_it_does():
    assert str(CheckSpec()) == "http, http:/health, every 10s, timeout 5s, out after 30s"
    assert str(CheckSpec(kind="tcp", deregister_after=None)) == "tcp, every 10s, timeout 5s"
    assert str(CheckSpec(kind="ttl", deregister_after=None)) == "ttl, within 10s"
    assert str(CheckSpec(kind="none")) == "none"


# -- health --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statuses", "health"),
    [
        ([], Health.PASSING),
        (["passing"], Health.PASSING),
        (["passing", "warning"], Health.WARNING),
        (["critical", "warning"], Health.CRITICAL),
        (["critical", "what?"], Health.CRITICAL),
        (["passing", "what?"], Health.UNKNOWN),
        ([""], Health.UNKNOWN),
    ],
)
def test_health_is_the_worst_of_the_checks(statuses, health):
    assert health_of(CheckResult(id=f"c{n}", name="", status=status) for n, status in enumerate(statuses)) is health


@pytest.mark.parametrize("check_id", ["_service_maintenance:backend", "_node_maintenance"])
def test_maintenance_outranks_the_rest(check_id):
    checks = [CheckResult(id="a", name="", status="critical"), CheckResult(id=check_id, name="", status="critical")]
    assert health_of(checks) is health_of(reversed(checks)) is Health.MAINTENANCE


def test_the_worst_of_several():
    assert Health.worst([Health.PASSING, Health.CRITICAL, Health.MAINTENANCE]) is Health.CRITICAL
    assert Health.worst([]) is Health.UNKNOWN
    assert Health.worst([Health.PASSING, Health.UNKNOWN]) is Health.UNKNOWN


# -- what Consul says ----------------------------------------------------------------------------------------


def entry(**service):
    checks = service.pop("checks", [])
    return {
        "Node": {"Node": "n1", "Address": "10.0.0.9"},
        "Service": {"Service": "backend-api", "ID": "b1", "Address": "10.0.0.1", "Port": 8000} | service,
        "Checks": checks,
    }


def test_an_instance_is_read_from_a_health_entry():
    meta = {"version": "1", META_OWNER: "here", META_SELF: "d1", META_DIGEST: "d2"}
    check = {"CheckID": "b1:http", "Name": "HTTP", "Status": "critical", "Output": "refused", "Notes": "n"}
    one = ServiceInstance.from_health(
        entry(Tags=["b", "a"], Meta=meta, Weights={"Passing": 7}, EnableTagOverride=True, checks=[check])
    )
    assert (one.service, one.id, one.node, one.url) == ("backend-api", "b1", "n1", "http://10.0.0.1:8000")
    assert (one.tags, one.weight, one.health, one.tag_override) == (("a", "b"), 7, Health.CRITICAL, True)
    assert (one.own_meta, one.owner, one.digest, one.registered_itself) == ({"version": "1"}, "here", "d2", True)
    assert one.checks == (CheckResult(id="b1:http", name="HTTP", status="critical", output="refused", notes="n"),)
    assert one.output == "refused"


def test_an_instance_without_an_address_is_at_its_nodes():
    assert ServiceInstance.from_health(entry(Address="")).address == "10.0.0.9"
    assert ServiceInstance.from_agent({"Address": ""}, (), node_address="10.0.0.9").address == "10.0.0.9"


def test_what_is_worked_out_once_follows_a_change():
    one = ServiceInstance(service="s", id="i", address="h", port=1, meta={"a": "1", META_EVICT: "30s"})
    assert (one.own_meta, one.evict_after, spec().digest) == ({"a": "1"}, "30s", spec().digest)
    other = dataclasses.replace(one, meta={"b": "2", META_EVICT: "60s"})
    assert (other.own_meta, other.evict_after) == ({"b": "2"}, "60s")
    assert one == dataclasses.replace(one)
    first = spec()
    assert dataclasses.replace(first, weight=first.weight + 1).digest != first.digest


@pytest.mark.parametrize("service", [{"Tags": None, "Meta": None, "Weights": None}, {}])
def test_what_consul_leaves_out_has_a_default(service):
    one = ServiceInstance.from_health(entry(**service))
    assert (one.tags, dict(one.meta), one.weight, one.health) == ((), {}, 1, Health.PASSING)


@pytest.mark.parametrize("weight", [0, -1, 65536, 10**100, "7", None, 1.5, []])
def test_a_weight_that_can_not_be_is_1(weight):
    assert ServiceInstance.from_health(entry(Weights={"Passing": weight})).weight == 1


@pytest.mark.parametrize(
    "raw",
    [
        None, [], "x", 1, {}, {"Node": None, "Service": {}, "Checks": []}, {"Node": {}, "Service": [], "Checks": []},
        {"Node": {}, "Service": {}, "Checks": None}, {"Node": {}, "Service": {}, "Checks": {}},
        {"Node": {}, "Service": {}, "Checks": [None]}, {"Node": {}, "Service": {}, "Checks": ["x"]},
        {"Node": {}, "Service": {"ID": 5}, "Checks": []}, {"Node": {"Node": []}, "Service": {}, "Checks": []},
        {"Node": {}, "Service": {"Tags": "a"}, "Checks": []}, {"Node": {}, "Service": {"Meta": ["a"]}, "Checks": []},
        {"Node": {}, "Service": {}, "Checks": [{"Status": 1}]}, {"Node": {}, "Service": {"Address": {}},
        "Checks": []},
    ],
)  # fmt: skip
def test_what_can_not_be_an_instance_is_an_invalid_reply(raw):
    with pytest.raises(InvalidReplyError):
        ServiceInstance.from_health(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["Service", "ID", "Address", "Port", "Tags", "Meta", "Weights", "EnableTagOverride"]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON), st.lists(JSON, max_size=2))
def test_whatever_consul_says_is_a_value_or_a_typed_error(service, checks):
    try:
        one = ServiceInstance.from_health(entry(**service, checks=checks))
    except InvalidReplyError:
        return
    assert 1 <= one.weight <= 65535
    hash(one)
    json.dumps([one.url, one.tags, dict(one.meta), one.output, one.is_callable, one.health])


@pytest.mark.parametrize(
    "address", ["evil@host", "", "host/x", "a b", "0.0.0.0", "169.254.169.254", "h:1", "[::1]", "::1%lo"]
)
def test_an_instance_whose_address_could_mean_another_host_is_not_callable(address):
    assert not ServiceInstance(service="s", id="i", address=address, port=80).is_callable


@pytest.mark.parametrize("port", [0, -1, 99999, True])
def test_an_instance_without_a_possible_port_is_not_callable(port):
    assert not ServiceInstance(service="s", id="i", address="127.0.0.1", port=port).is_callable


def test_the_url_of_an_instance():
    assert ServiceInstance(service="s", id="i", address="::1", port=80).url == "http://[::1]:80"
    assert ServiceInstance(service="s", id="i", address="h", port=1, meta={"scheme": "https"}).url == "https://h:1"
    assert ServiceInstance(service="s", id="i", address="h", port=1, meta={"scheme": "file"}).url == "http://h:1"


def test_the_output_is_what_fails_and_in_maintenance_the_reason():
    passing = CheckResult(id="a", name="", status="passing", output="fine")
    failing = CheckResult(id="b", name="", status="critical", output="refused")
    away = CheckResult(id="_service_maintenance:i", name="", status="critical", output="", notes="new disk")
    assert ServiceInstance(service="s", id="i", address="h", port=1, checks=(passing, failing, away)).output == (
        "refused\nnew disk"
    )
    assert ServiceInstance(service="s", id="i", address="h", port=1, checks=(passing,)).output == "fine"
