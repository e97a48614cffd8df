"""Specs can't exist in an invalid state; what Consul says can be anything, and becomes a value or a typed error."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.consul import CheckKind, CheckResult, CheckSpec, Health, ServiceInstance, ServiceSpec
from registry_admin.consul.health import health_of
from registry_admin.consul.marks import META_DIGEST, META_EVICT, META_OWNER, META_SELF
from registry_admin.consul.service_spec import MAX_OWN_META
from registry_admin.errors import InvalidReplyError, InvalidValueError


def spec(**changes):
    return ServiceSpec(**{"name": "backend-api", "address": "127.0.0.1", "port": 8000} | changes)


# -- specs ---------------------------------------------------------------------------------------------------


def test_default_id_is_name_address_and_port():
    assert spec().id == "backend-api-127.0.0.1-8000"
    assert spec(address="::1").id == "backend-api-::1-8000"
    assert spec(id="mine").id == "mine"


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "../leave"}, {"name": "consul"}, {"name": "Consul"}, {"address": "evil@host"},
        {"address": "169.254.169.254"},
        {"port": -1}, {"port": 0}, {"port": "80"}, {"port": True}, {"id": "../../leave"}, {"id": "consul"}, {"id": 5},
        {"tags": "api"},
        {"warning_weight": -1}, {"warning_weight": 65536}, {"tag_override": 1}, {"tagged_addresses": {"wan": "x"}},
        {"tagged_addresses": {"wan": "169.254.169.254:80"}}, {"tagged_addresses": {"a b": "10.0.0.1:80"}},
        {"meta": {"consul-x": "y"}}, {"meta": {META_OWNER: "me"}}, {"meta": {META_SELF: "me"}},
        {"meta": {META_DIGEST: "me"}}, {"meta": {META_EVICT: "1s"}},
        {"meta": {f"k{n}": "v" for n in range(MAX_OWN_META + 1)}}, {"weight": 0},
        {"weight": 65536}, {"check": None}, {"check": {"script": "rm"}}, {"name": "a" * 128,
        "address": "b" * 63 + "." + "c" * 63},
    ],
)  # fmt: skip
def test_spec_with_a_bad_field_does_not_come_into_being(bad):
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
def test_check_with_a_bad_field_does_not_come_into_being(bad):
    with pytest.raises(InvalidValueError) as caught:
        CheckSpec(**bad)
    assert caught.value.field == f"check.{next(iter(bad))}"


def test_spec_is_brought_into_its_canonical_form():
    item = spec(tags=["b", "a", "b"], check=CheckSpec(interval="1m", kind="http"), address="::ffff:10.0.0.1")
    assert (item.tags, item.check.interval, item.check.kind, item.address) == (
        ("a", "b"),
        "60s",
        CheckKind.HTTP,
        "10.0.0.1",
    )
    assert item == spec(tags=("a", "b"), check=CheckSpec(interval="60s"), address="10.0.0.1")


def test_spec_can_not_be_changed_nor_through_what_it_was_made_of():
    meta = {"a": "1"}
    item = spec(meta=meta)
    meta["a"] = "2"
    assert item.meta == {"a": "1"}
    with pytest.raises(TypeError):
        item.meta["a"] = "2"
    with pytest.raises(dataclasses.FrozenInstanceError):
        item.port = 1


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
def test_digest_changes_with_everything_that_matters(change):
    assert spec(**change).digest != spec().digest


def test_digest_does_not_change_with_what_does_not_matter():
    assert spec(id="other").digest == spec().digest
    assert spec(meta={"a": "1", "b": "2"}).digest == spec(meta={"b": "2", "a": "1"}).digest
    tcp = spec(check=CheckSpec(kind="tcp", path="/left/over", scheme="https"))
    assert tcp.digest == spec(check=CheckSpec(kind="tcp")).digest


def test_digest_is_the_same_in_every_release():
    # pragma: allowlist nextline secret - a digest
    assert spec(tags=["api"], meta={"version": "1"}).digest == "30645f2c76586c95bd8f"


def test_payload_of_an_http_check():
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
def test_payload_of_other_checks(check, expected):
    (sent,) = spec(address="::1", check=check).payload(marks={})["Checks"]
    assert sent.pop("CheckID") == f"backend-api-::1-8000:{check.kind}"
    assert sent.pop("Name").startswith("backend-api ")
    assert sent == expected | {"DeregisterCriticalServiceAfter": "30s"}


def test_without_a_check_none_is_sent():
    assert "Checks" not in spec(check=CheckSpec(kind="none")).payload(marks={}, status="passing")


def test_check_begins_as_passing_only_where_it_is_said_so():
    assert "Status" not in spec().payload(marks={})["Checks"][0]
    assert spec().payload(marks={}, status="passing")["Checks"][0]["Status"] == "passing"


@pytest.mark.parametrize(("later", "sent"), [("6h", "6h"), ("10s", "30s"), ("", "30s")])
def test_payload_lets_consul_evict_later_but_never_earlier_than_the_check_says(later, sent):
    (check,) = spec().payload(marks={}, consul_evicts_after=later)["Checks"]
    assert check["DeregisterCriticalServiceAfter"] == sent


def test_payload_without_deregister_after_has_no_eviction():
    (sent,) = spec(check=CheckSpec(deregister_after=None)).payload(marks={}, consul_evicts_after="6h")["Checks"]
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
def test_eviction_time_of_check_is_marked(check, expected):
    item = spec(check=check)
    meta = item.payload(marks={META_OWNER: "here"})["Meta"]
    assert (item.evict_after, meta.get(META_EVICT, "")) == (expected, expected)
    assert ServiceInstance(service="s", id="i", address="h", port=1, meta=meta).evict_after == expected


@pytest.mark.parametrize("value", ["", "soon", "30", "-1s", "0s", "1ns", "10000000h", "30s\n", "٣s", "9" * 5000 + "s"])
def test_time_to_evict_that_someone_made_up_counts_as_none(value):
    assert ServiceInstance(service="s", id="i", address="h", port=1, meta={META_EVICT: value}).evict_after == ""


@pytest.mark.parametrize("kind", list(CheckKind))
def test_check_of_another_kind_has_another_id(kind):
    item = spec(id="a", check=CheckSpec(kind=kind))
    ids = {f"a:{other}" for other in CheckKind if other not in (CheckKind.NONE, CheckKind.KEEP)}
    assert set(item.former_check_ids) == ids - {item.check_id}


def test_check_says_in_words_what_it_does():
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


def test_worst_of_several():
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


def test_instance_is_read_from_a_health_entry():
    meta = {"version": "1", META_OWNER: "here", META_SELF: "d1", META_DIGEST: "d2"}
    check = {"CheckID": "b1:http", "Name": "HTTP", "Status": "critical", "Output": "refused", "Notes": "n"}
    item = ServiceInstance.from_health(
        entry(Tags=["b", "a"], Meta=meta, Weights={"Passing": 7}, EnableTagOverride=True, checks=[check])
    )
    assert (item.service, item.id, item.node, item.url) == ("backend-api", "b1", "n1", "http://10.0.0.1:8000")
    assert (item.tags, item.weight, item.health, item.tag_override) == (("a", "b"), 7, Health.CRITICAL, True)
    assert (item.user_meta, item.owner, item.digest, item.registered_itself) == ({"version": "1"}, "here", "d2", True)
    assert item.checks == (CheckResult(id="b1:http", name="HTTP", status="critical", output="refused", notes="n"),)
    assert item.output == "refused"


def test_instance_without_an_address_is_at_its_nodes():
    assert ServiceInstance.from_health(entry(Address="")).address == "10.0.0.9"


def test_cached_property_of_replaced_instance_is_computed_anew():
    item = ServiceInstance(service="s", id="i", address="h", port=1, meta={"a": "1", META_EVICT: "30s"})
    assert (item.user_meta, item.evict_after, spec().digest) == ({"a": "1"}, "30s", spec().digest)
    other = dataclasses.replace(item, meta={"b": "2", META_EVICT: "60s"})
    assert (other.user_meta, other.evict_after) == ({"b": "2"}, "60s")
    assert item == dataclasses.replace(item)
    first = spec()
    assert dataclasses.replace(first, weight=first.weight + 1).digest != first.digest


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ([{"Name": "admin", "Port": 8001}, {"Name": "http", "Port": 8002, "Default": True}], 8002),
        ([{"Name": "admin", "Port": 8001}, {"Name": "http", "Port": 8002}], 8001),
        ([], 0), (None, 0), (["x"], 0), ([{"Port": "8001"}], 0),
    ],
)  # fmt: skip
def test_port_of_a_service_with_several_is_its_default_or_its_first(ports, expected):
    assert ServiceInstance.from_health(entry(Port=0, Ports=ports)).port == expected


@pytest.mark.parametrize("service", [{"Tags": None, "Meta": None, "Weights": None}, {}])
def test_field_missing_in_reply_has_a_default(service):
    item = ServiceInstance.from_health(entry(**service))
    assert (item.tags, dict(item.meta), item.weight, item.health) == ((), {}, 1, Health.PASSING)


@pytest.mark.parametrize("weight", [0, -1, 65536, 10**100, "7", None, 1.5, []])
def test_weight_that_can_not_be_is_1(weight):
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
def test_malformed_instance_is_an_invalid_reply(raw):
    with pytest.raises(InvalidReplyError):
        ServiceInstance.from_health(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["Service", "ID", "Address", "Port", "Tags", "Meta", "Weights", "EnableTagOverride"]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON), st.lists(JSON, max_size=2))
def test_random_reply_is_a_value_or_a_typed_error(service, checks):
    try:
        item = ServiceInstance.from_health(entry(**service, checks=checks))
    except InvalidReplyError:
        return
    assert 1 <= item.weight <= 65535
    hash(item)
    json.dumps([item.url, item.tags, dict(item.meta), item.output, item.is_callable, item.health])


@pytest.mark.parametrize(
    "address", ["evil@host", "", "host/x", "a b", "0.0.0.0", "169.254.169.254", "h:1", "[::1]", "::1%lo"]
)
def test_instance_whose_address_could_mean_another_host_is_not_callable(address):
    assert not ServiceInstance(service="s", id="i", address=address, port=80).is_callable


@pytest.mark.parametrize("port", [0, -1, 99999, True])
def test_instance_without_a_possible_port_is_not_callable(port):
    assert not ServiceInstance(service="s", id="i", address="127.0.0.1", port=port).is_callable


def test_url_of_an_instance():
    assert ServiceInstance(service="s", id="i", address="::1", port=80).url == "http://[::1]:80"
    assert ServiceInstance(service="s", id="i", address="h", port=1, meta={"scheme": "https"}).url == "https://h:1"
    assert ServiceInstance(service="s", id="i", address="h", port=1, meta={"scheme": "file"}).url == "http://h:1"
    assert (
        ServiceInstance(service="s", id="i", address="h", port=1, meta={"base_path": "/a/b/"}).url == "http://h:1/a/b"
    )


@pytest.mark.parametrize(
    ("base_path", "is_callable"),
    [("", True), ("/", True), ("/a", True), ("a", False), ("@evil/", False), ("/a?b", False), ("/a#b", False),
     ("//evil", False), ("/../a", False), ("/a b", False)],
)  # fmt: skip
def test_instance_is_called_only_below_a_base_path_that_keeps_the_host(base_path, is_callable):
    instance = ServiceInstance(service="s", id="i", address="h", port=1, meta={"base_path": base_path})
    assert instance.is_callable is is_callable


def test_output_is_what_fails_and_in_maintenance_the_reason():
    passing = CheckResult(id="a", name="", status="passing", output="fine")
    failing = CheckResult(id="b", name="", status="critical", output="refused")
    away = CheckResult(id="_service_maintenance:i", name="", status="critical", output="", notes="new disk")
    assert ServiceInstance(service="s", id="i", address="h", port=1, checks=(passing, failing, away)).output == (
        "refused\nnew disk"
    )
    assert ServiceInstance(service="s", id="i", address="h", port=1, checks=(passing,)).output == "fine"
