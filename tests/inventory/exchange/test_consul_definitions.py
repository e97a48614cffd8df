"""Consul's own service definitions and dumps come in, with a list of what can't be carried over."""

from __future__ import annotations

import json
from typing import Any

import pytest

from registry_admin.inventory.exchange import DocumentError, Import, prepare_import
from registry_admin.inventory.models import Instance, Service

pytestmark = pytest.mark.django_db(transaction=True)

HCL = """
service {
  name = "web"
  id   = "web-1"
  address = "10.0.0.7"
  port = 8080
  tags = ["v1", "rails"]
  check {
    http     = "http://localhost:8080/health?deep=1"
    interval = "30s"
    timeout  = "2s"
    deregister_critical_service_after = "1h"
  }
}
"""
DEFINITION = {"name": "redis", "id": "red0", "address": "10.0.0.5", "port": 6000}
TWO = {
    "services": [
        DEFINITION | {"tags": ["primary"], "meta": {"a": "1", "b": "2"},
                      "checks": [{"tcp": "10.0.0.5:6000", "interval": "5s"}]},
        {"ID": "red1", "Name": "redis", "Address": "10.0.0.6", "Port": 6000, "Tags": ["secondary"], "Meta": {"a": "1"},
         "Check": {"TCP": "10.0.0.6:6000", "Interval": "5s"}, "Weights": {"Passing": 5, "Warning": 5}},
    ]
}  # fmt: skip
AGENT_SERVICE = {
    "Kind": "", "ID": "web-1", "Service": "web", "Tags": ["v1"], "Meta": {"a": "1", "registry-owner": "somebody"},
    "Port": 80, "Address": "10.0.0.1", "Weights": {"Passing": 3, "Warning": 3}, "EnableTagOverride": False,
    "TaggedAddresses": {"lan_ipv4": {"Address": "10.0.0.1", "Port": 80}}, "Connect": {},
    "Proxy": {"Mode": "", "MeshGateway": {}, "Expose": {}}, "Datacenter": "dc1", "Namespace": "default",
    "ContentHash": "x",
}  # fmt: skip
CATALOG_SERVICE = {
    "ID": "0f3a", "Node": "n1", "Address": "10.0.0.1", "Datacenter": "dc1", "TaggedAddresses": {"lan": "10.0.0.1"},
    "NodeMeta": {"x": "y"}, "ServiceKind": "", "ServiceID": "web-1", "ServiceName": "web", "ServiceTags": ["v1"],
    "ServiceAddress": "", "ServiceWeights": {"Passing": 3, "Warning": 3}, "ServiceMeta": {"a": "1"}, "ServicePort": 80,
    "ServiceEnableTagOverride": False, "ServiceProxy": {"MeshGateway": {}, "Expose": {}}, "ServiceConnect": {},
    "CreateIndex": 1, "ModifyIndex": 2,
}  # fmt: skip
NODE = {"ID": "0f3a", "Node": "n1", "Address": "10.0.0.1"}
HEALTH = [
    {"Node": NODE, "Service": AGENT_SERVICE, "Checks": [{"Node": "n1", "CheckID": "serfHealth", "ServiceID": ""}]}
]


def imported(document: Any) -> Import:
    """Imports a document, and asserts that the same import again has nothing to do."""
    text = document if isinstance(document, str) else json.dumps(document)
    result = prepare_import(text)
    result.apply()
    assert prepare_import(text).changes == []
    return result


def left_out(result: Import) -> list[str]:
    return [note.text for note in result.notes]


def problems(document: Any, **options: Any) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        prepare_import(document if isinstance(document, str) else json.dumps(document), **options)
    return [str(problem) for problem in caught.value.problems]


def test_hcl_definition_is_declared_as_it_is():
    result = imported(HCL)
    assert left_out(result) == []
    instance = Instance.objects.select_related("service").get()
    assert (instance.consul_id, instance.address, instance.port, instance.weight) == ("web-1", "10.0.0.7", 8080, 1)
    service = instance.service
    assert (service.name, service.tags) == ("web", ["rails", "v1"]) or service.tags == ["v1", "rails"]
    assert (service.check_kind, service.check_scheme, service.check_path) == ("http", "http", "/health?deep=1")
    assert (service.check_interval, service.check_timeout, service.deregister_after) == ("30s", "2s", "3600s")


@pytest.mark.parametrize(
    "document",
    [
        {"service": DEFINITION}, {"Service": {key.title(): value for key, value in DEFINITION.items()}},
        {"services": [DEFINITION]}, {"services": DEFINITION}, [DEFINITION], DEFINITION,
        'service { name = "redis" id = "red0" address = "10.0.0.5" port = 6000 }',
        'services { name = "redis" id = "red0" address = "10.0.0.5" port = 6000 }',
        'services = [{ name = "redis", id = "red0", address = "10.0.0.5", port = 6000 }]',
        'service = { Name = "redis" ID = "red0" Address = "10.0.0.5" Port = 6000 }',
        "service:\n  name: redis\n  id: red0\n  address: 10.0.0.5\n  port: 6000\n",
    ],
)  # fmt: skip
def test_definition_in_any_form_is_recognized(document):
    result = imported(document)
    assert left_out(result) == []
    instance = Instance.objects.select_related("service").get()
    assert (instance.service.name, instance.consul_id, instance.address, instance.port) == tuple(DEFINITION.values())
    assert instance.service.check_kind == "none"


def test_definitions_of_one_name_are_instances_of_one_service():
    assert left_out(imported(TWO)) == []
    service = Service.objects.get()
    assert (service.tags, service.meta, service.check_kind, service.check_interval) == ([], {"a": "1"}, "tcp", "5s")
    assert (service.check_timeout, service.deregister_after) == ("10s", "")
    rows = Instance.objects.order_by("consul_id").values_list("consul_id", "extra_tags", "extra_meta", "weight")
    assert list(rows) == [("red0", ["primary"], {"b": "2"}, 1), ("red1", ["secondary"], {}, 5)]


def test_definition_without_id_has_its_name_as_id():
    imported({"service": {"name": "web", "address": "10.0.0.1", "port": 80}})
    assert Instance.objects.get().consul_id == "web"


@pytest.mark.parametrize(
    ("document", "label", "check"),
    [
        ({"web-1": AGENT_SERVICE}, "a dump of an agent", ""),
        (AGENT_SERVICE, "a service of an agent", ""),
        ([CATALOG_SERVICE], "a dump of the catalog", ""),
        (HEALTH, "a dump of services with their checks", "none"),
        ([{"AggregatedStatus": "passing", "Service": AGENT_SERVICE, "Checks": [{"ServiceID": "web-1"}]}],
         "a dump of services with their checks", ""),
        ({"Node": NODE, "Services": {"web-1": AGENT_SERVICE}}, "a dump of a node", ""),
        ({"Node": NODE, "Services": [AGENT_SERVICE]}, "a dump of a node", ""),
    ],
)  # fmt: skip
def test_dump_is_declared_as_it_is(document, label, check):
    result = imported(document)
    assert result.label == label
    instance = Instance.objects.select_related("service").get()
    service = instance.service
    assert (instance.consul_id, instance.address, instance.port, instance.weight) == ("web-1", "10.0.0.1", 80, 3)
    assert (service.name, service.tags, service.meta) == ("web", ["v1"], {"a": "1"})
    if check:
        assert (service.check_kind, left_out(result)) == (check, [])
    else:
        (note,) = left_out(result)
        assert note.startswith("check: the dump doesn't tell how it is checked")


def test_dump_keeps_what_it_cannot_tell_of_a_declared_service(declare):
    service = declare("web", owner="team-blue", description="The shop", check_kind="http", check_path="/up")
    Instance.objects.create(service=service, address="10.0.0.9", port=80, consul_id="web-1", enabled=False)
    result = imported({"web-1": AGENT_SERVICE})
    assert {key for change in result.changes for key, _, _ in change.fields} == {"tags", "meta", "address", "weight"}
    service.refresh_from_db()
    assert (service.owner, service.description, service.check_kind, service.check_path) == (
        "team-blue", "The shop", "http", "/up",
    )  # fmt: skip
    assert not Instance.objects.get().enabled


SIDECAR = {"connect": {"sidecar_service": {}}}
HTTP = {"http": "http://10.0.0.5:6000/up", "interval": "10s"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"token": "secret-token"}, "token: a secret; our own token registers the service"),
        ({"socket_path": "/run/x"}, "socket_path: a Unix socket can't be declared"),
        ({"Namespace": "team"}, "Namespace: namespaces can't be declared"),
        ({"locality": {"region": "eu"}}, "locality: can't be declared here"),
        ({"something_new": 1}, "something_new: can't be declared here"),
        ({"meta": {"consul-x": "1"}}, "meta.consul-x: reserved by Consul"),
        ({"check": {"args": ["/bin/true"], "interval": "10s"}}, "check.args: a script can't be declared"),
        ({"check": {"DockerContainerID": "x", "Args": ["a"]}}, "check.Args: a script can't be declared"),
        ({"check": {"udp": "10.0.0.5:6000"}}, "check.udp: a UDP check can't be declared"),
        ({"check": {"h2ping": "10.0.0.5:6000"}}, "check.h2ping: an HTTP/2 ping can't be declared"),
        ({"check": {"alias_service": "x"}}, "check.alias_service: an alias of another check can't be declared"),
        ({"check": {"http": "http://10.0.0.5:9/x"}}, "check.http: asks elsewhere than at the instance's own port"),
        ({"check": {"http": "http://evil:6000/x"}}, "check.http: asks elsewhere than at the instance's own port"),
        ({"check": {"http": "http://[bad"}}, "check.http: asks elsewhere than at the instance's own port"),
        ({"check": {"tcp": "nonsense"}}, "check.tcp: asks elsewhere than at the instance's own port"),
        ({"check": {"name": "up", "notes": "x"} | HTTP}, "check.name: can't be declared here"),
        ({"checks": [HTTP, {"ttl": "30s"}]}, "checks[2]: a service has one check here, and checks[1] is declared"),
        ({"check": {"tcp": "10.0.0.5:6000", "interval": "5s", "ttl": "20s"}}, "check.ttl: can't be declared here"),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_over_is_listed(fields, expected):
    result = prepare_import(json.dumps({"service": DEFINITION | fields}))
    assert expected in left_out(result)
    assert "secret-token" not in str(result.notes)
    assert result.count("create") == 2


@pytest.mark.parametrize(
    "check", [{"args": ["x"], "interval": "7s"}, {"http": "http://10.0.0.5:9/x", "interval": "7s"}]
)
def test_check_that_cannot_be_declared_is_replaced_by_one_of_the_port(check):
    result = imported({"service": DEFINITION | {"check": check}})
    assert "check: a TCP check of the port takes its place" in left_out(result)
    service = Service.objects.get()
    assert (service.check_kind, service.check_interval, service.deregister_after) == ("tcp", "7s", "")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (SIDECAR, "it is part of the mesh (connect), which can't be declared here"),
        ({"connect": {"native": True}}, "it is part of the mesh (connect), which can't be declared here"),
        ({"kind": "connect-proxy", "proxy": {"upstreams": []}}, "it is part of the mesh (connect-proxy)"),
        ({"kind": "mesh-gateway"}, "it is part of the mesh (mesh-gateway)"),
        ({"name": "consul"}, "Consul's own"),
    ],
)  # fmt: skip
def test_service_that_a_registration_would_break_is_left_out(fields, reason):
    document = {"services": [DEFINITION | fields, {"name": "web", "id": "web-1", "address": "10.0.0.9", "port": 80}]}
    result = imported(document)
    (note,) = left_out(result)
    assert note.startswith(f"left out: {reason}")
    assert set(Service.objects.values_list("name", flat=True)) == {"web"}
    assert problems({"service": DEFINITION | fields}) == [
        "document: read as service definitions of Consul, it holds nothing that can be declared"
    ]


def test_one_check_is_declared_for_definitions_that_differ_in_theirs():
    other = {"name": "redis", "id": "red1", "address": "10.0.0.6", "port": 6000, "check": {"ttl": "30s"}}
    result = imported({"services": [DEFINITION | {"check": HTTP}, other]})
    (note,) = result.notes
    assert str(note) == (
        "services[2] 'redis': check: a service has one check here: that of services[1] 'redis' is declared"
    )
    assert Service.objects.get().check_kind == "http"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"consul": [], "web": ["v1"]}, "it is /v1/catalog/services, which has only names and tags: use what"),
        ([NODE], "it is /v1/catalog/nodes, which has no services"),
        ([{"Node": "n1", "CheckID": "c", "ServiceName": "web"}], "it has checks only"),
        ({"Kind": "service-defaults", "Name": "web", "Protocol": "http"}, "it is a configuration entry of Consul"),
        ('datacenter = "dc1"\nserver = true', "it is HCL, but has neither 'service' nor 'services'"),
        ({"service": []}, "read as service definitions of Consul, it holds nothing that can be declared"),
        ({"service": ["x"]}, "service[1]: must be a mapping of keys and values"),
        ({"service": DEFINITION | {"name": 7}}, "service: name: must be text"),
        ({"service": {"port": 80}}, "service: name: is missing"),
        ({"service": DEFINITION | {"Name": "x"}}, "a key is there twice, spelled differently"),
        ({"service": DEFINITION | {"port": "6000"}}, "port: must be a whole number without quotes"),
        ({"service": DEFINITION | {"tags": "a"}}, "tags: must be a list of texts"),
        ({"service": DEFINITION | {"meta": []}}, "meta: must be pairs of texts"),
        ({"service": DEFINITION | {"meta": {"a": [1]}}}, "meta: must be pairs of texts"),
        ({"service": DEFINITION | {"address": "169.254.169.254"}}, "address: link-local and cloud metadata"),
        ({"service": DEFINITION | {"check": {"tcp": "10.0.0.5:6000", "interval": 10}}}, "check.interval: must be text"),
        ({"services": [DEFINITION, DEFINITION]}, "the same address and port as services[1] 'redis'"),
        ({"services": [DEFINITION, DEFINITION | {"port": 6001}]}, "the same service ID as services[1] 'redis' (red0)"),
        ([CATALOG_SERVICE, CATALOG_SERVICE | {"Node": "n2", "Address": "10.0.0.2"}],
         "service 'web-1' on n2: id: the same service ID as service 'web-1' on n1"),
    ],
)  # fmt: skip
def test_document_of_consul_that_cannot_come_in_says_why(document, expected):
    found = problems(document)
    assert any(expected in problem for problem in found), found


def test_document_of_consul_deletes_nothing(declare):
    declare("billing")
    found = problems({"service": DEFINITION}, delete_unlisted=True)
    assert "can't tell what else there should be" in found[0]


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"services": []}', '{"services": [{"name": "web"}]}', "services:\n- name: web"]
)
def test_document_of_ours_is_not_taken_for_consuls(text):
    assert "service definition" not in " ".join(problems(text))
