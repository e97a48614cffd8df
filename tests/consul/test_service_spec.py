"""Registrations with what people's services have: weights, tagged addresses, tags that others may change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from registry_admin.consul import CheckSpec, ServiceInstance, ServiceSpec
from registry_admin.consul.tagged_addresses import tagged_addresses
from registry_admin.consul.uncarried import uncarried_fields


def spec(**fields: Any) -> ServiceSpec:
    return ServiceSpec(**{"name": "web", "address": "10.0.0.1", "port": 80, "check": CheckSpec(kind="none")} | fields)


def observed(declared: ServiceSpec, **fields: Any) -> ServiceInstance:
    body = declared.payload(marks=None)
    return replace(ServiceInstance.from_agent(body | {"Service": body["Name"]}, ()), **fields)


@pytest.mark.parametrize(
    ("fields", "service_id"),
    [({}, "web-10.0.0.1-80"), ({"address": ""}, "web-80"), ({"port": 0}, "web-10.0.0.1"),
     ({"address": "", "port": 0}, "web")],
)  # fmt: skip
def test_default_id_leaves_out_what_is_not_given(fields, service_id):
    assert spec(**fields).id == service_id


@pytest.mark.parametrize(
    ("fields", "key", "content"),
    [
        ({"weight": 7}, "Weights", {"Passing": 7, "Warning": 7}),
        ({"weight": 7, "warning_weight": 0}, "Weights", {"Passing": 7, "Warning": 0}),
        ({"tag_override": True}, "EnableTagOverride", True),
        ({"tagged_addresses": {"wan": "[::1]:443"}}, "TaggedAddresses", {"wan": {"Address": "::1", "Port": 443}}),
        ({"address": ""}, "Address", ""),
        ({"port": 0}, "Port", 0),
        ({"tags": ["a,b"]}, "Tags", ["a,b"]),
    ],
)
def test_payload_has_the_field_and_reads_back_the_same(fields, key, content):
    declared = spec(**fields)
    assert declared.payload(marks=None)[key] == content
    assert observed(declared).registered_address == declared.address
    assert observed(declared).warning_weight == declared.warning_weight
    assert observed(declared).tagged_addresses == declared.tagged_addresses


@pytest.mark.parametrize(
    "fields", [{"warning_weight": 5}, {"tag_override": True}, {"tagged_addresses": {"wan": "10.0.0.2:80"}}]
)
def test_digest_changes_with_a_field_that_is_given(fields):
    assert spec(**fields).digest != spec().digest
    assert fields.keys() <= spec(**fields).fields.keys()
    assert not fields.keys() & spec().fields.keys()


def test_warning_weight_that_equals_the_weight_does_not_change_the_digest():
    assert spec(weight=5, warning_weight=5).digest == spec(weight=5).digest


def test_tagged_addresses_that_agents_add_by_themselves_are_no_difference():
    declared = spec(tagged_addresses={"lan_ipv4": "10.0.0.1:80", "wan_ipv4": "203.0.113.5:80"})
    assert declared.tagged_addresses == {"wan_ipv4": "203.0.113.5:80"}
    raw = {"Address": "10.0.0.1", "Port": 80, "TaggedAddresses": {"lan_ipv4": {"Address": "10.0.0.1", "Port": 80}}}
    assert ServiceInstance.from_agent(raw, ()).tagged_addresses == {}


def test_tagged_addresses_are_brought_into_their_canonical_form():
    pairs = {"wan": "[0:0::1]:080", "lan": "host.example.:80"}
    assert tagged_addresses(pairs) == {"lan": "host.example:80", "wan": "[::1]:80"}


def test_payload_of_an_update_keeps_tags_that_others_may_change():
    declared = spec(tags=["ours"], tag_override=True)
    assert declared.payload(marks=None, observed=observed(declared, tags=("theirs",)))["Tags"] == ["theirs"]
    assert declared.payload(marks=None)["Tags"] == ["ours"]
    strict = replace(declared, tag_override=False)
    assert strict.payload(marks=None, observed=observed(declared, tags=("theirs",)))["Tags"] == ["ours"]


@pytest.mark.parametrize(
    ("raw", "fields"),
    [
        ({"Kind": "connect-proxy", "Proxy": {"DestinationServiceName": "web"}}, ("Kind", "Proxy")),
        ({"Connect": {"Native": True}}, ("Connect",)),
        ({"Ports": [{"Name": "http", "Port": 80}]}, ("Ports",)),
        ({"SocketPath": "/run/x"}, ("SocketPath",)),
        ({"Kind": "", "Proxy": {"Mode": "", "MeshGateway": {}}, "Connect": {}, "Partition": "default"}, ()),
        ({"Kind": "typical", "Ports": None}, ()),
    ],
)
def test_uncarried_fields_are_those_that_hold_anything(raw, fields):
    assert uncarried_fields(raw) == fields
    assert ServiceInstance.from_agent(raw, ()).uncarried == fields
