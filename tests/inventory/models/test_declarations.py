"""Declarations: validation, uniqueness, canonical values and service IDs."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from registry_admin.consul import CheckSpec, ServiceSpec
from registry_admin.consul.marks import META_OWNER
from registry_admin.inventory.models import Instance, Service

pytestmark = pytest.mark.django_db

RIGHT_TO_LEFT = "api\u202egnp"
BAD_NAMES = [
    "", " ", "a/b", "../../leave", "a%2Fb", "a?x#y", "..", "a b", "a\nb", "a\x00b", "-a", "a-", "a" * 129, "x" * 10_240,
    RIGHT_TO_LEFT, "аpi", "api\u200b", "consul", "Consul",
]  # fmt: skip
BAD_IDS = ["../../leave", "a//b", "a%2Fb", "a?x#y", "..", "a b", "a\nb", RIGHT_TO_LEFT, "аpi", "x" * 241, "-a"]
BAD_ADDRESSES = [
    "", " ", "evil@host", "http://host", "host/path", "host:80", "a b", "127.1", "2130706433", "0x7f000001",
    "169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "metadata.google.internal", "0.0.0.0", "::",
    "fe80::1%eth0", "224.0.0.1", "[::1]", "-host", "host\n", RIGHT_TO_LEFT, "a" * 254, "2852039166",
]  # fmt: skip
BAD_PORTS = [0, -1, 65536, 99999999999, None, "eighty"]
BAD_DURATIONS = ["0s", "-1s", "1ns", "10", "10000000h", "", "ten", "1 s", "10s\n", "1d", "٣s"]
BAD_PATHS = [
    "", "health", "//evil/x", "https://evil/", "/a/../../admin", "/%2e%2e/admin", "/a\x00", "/a\r\nb", "/%0d%0a",
    "\\\\evil", "/a\\b", "/" + "x" * 501, "/a b", "/#x", "/%zz",
]  # fmt: skip
BAD_TAGS = [
    ["a\u200bb"],
    ["a\nb"],
    [""],
    [" a"],
    ["x" * 256],
    [RIGHT_TO_LEFT],
    [1],
    "api",
    {"a": "b"},
    None,
    [str(n) for n in range(129)],
]
BAD_META = [
    {"consul-x": "1"}, {META_OWNER: "me"}, {"registry-self": "x"}, {"a b": "1"}, {"a": "x" * 513}, {"a": 1},
    {"a": "b\nc"}, {"a": RIGHT_TO_LEFT}, {"": "x"}, {"k" * 129: "x"}, [], "a=b", None,
    {f"k{number}": "v" for number in range(65)},
]  # fmt: skip


def fields_refused(row: Service | Instance) -> set[str]:
    """Returns the fields that full_clean names; saving must refuse the row too."""
    kind = type(row)
    before = kind.objects.count()
    with pytest.raises(ValidationError) as by_cleaning:
        row.full_clean()
    with pytest.raises(ValidationError):
        row.save()
    assert kind.objects.count() == before
    return set(by_cleaning.value.message_dict)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_service_invalid_name_is_refused(name):
    assert fields_refused(Service(name=name)) == {"name"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("check_interval", value) for value in BAD_DURATIONS),
        *(("check_timeout", value) for value in [*BAD_DURATIONS, "601s"]),
        *(("deregister_after", value) for value in BAD_DURATIONS if value),
        *(("check_path", value) for value in BAD_PATHS),
        *(("tags", value) for value in BAD_TAGS),
        *(("meta", value) for value in BAD_META),
        *(("documentation_url", value) for value in ["javascript:alert(1)", "ftp://x/", "data:text/html,x", "//evil"]),
        ("check_kind", "script"),
        ("check_kind", "docker"),
        ("check_scheme", "file"),
        ("check_method", "GET /x"),
        ("check_headers", {"Content-Length": "1"}),
        ("check_headers", {"X": "(not shown)"}),
        ("check_headers", "X: y"),
        ("check_body", "\x00"),
        ("check_disable_redirects", None),
        ("check_tls_server_name", "a b"),
        ("check_grpc_service", "a b"),
        ("check_success_before_passing", -1),
        ("check_failures_before_critical", None),
    ],
)
def test_service_invalid_field_is_refused(field, value):
    assert fields_refused(Service(name="api", **{field: value})) == {field}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("address", value) for value in BAD_ADDRESSES if value),
        *(("port", value) for value in BAD_PORTS),
        *(("weight", value) for value in [0, -1, 65536, None]),
        *(("warning_weight", value) for value in [-1, 65536, "x"]),
        *(("tagged_addresses", value) for value in [{"wan": "x"}, {"a b": "10.0.0.1:80"}, ["wan"]]),
        *(("consul_id", value) for value in BAD_IDS),
        *(("extra_tags", value) for value in BAD_TAGS),
        *(("extra_meta", value) for value in BAD_META),
    ],
)
def test_instance_invalid_field_is_refused(field, value):
    service = Service.objects.create(name="api")
    fields: dict[str, Any] = {"service": service, "address": "10.0.0.1", "port": 80} | {field: value}
    assert fields_refused(Instance(**fields)) == {field}


@pytest.mark.parametrize("field", ["port", "weight"])
@pytest.mark.parametrize("value", [True, 80.5, "80"])
def test_instance_number_of_another_type_is_refused(field, value):
    service = Service.objects.create(name="api")
    with pytest.raises(ValidationError, match="whole number"):
        Instance.objects.create(**{"service": service, "address": "10.0.0.1", "port": 80} | {field: value})


@pytest.mark.parametrize("kind", ["script", "docker", "alias", ""])
def test_check_spec_of_an_unknown_kind_is_refused(kind):
    service = Service(name="api", check_kind=kind)
    with pytest.raises(ValueError, match=kind or "not a valid"):
        service.check_spec()


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.0.0.2", "localhost", "LOCALHOST", "localhost.", "a.localhost", "::1", "0:0:0:0:0:0:0:1",
     "::ffff:127.0.0.1", "::ffff:7f00:1", "ip6-localhost"],
)  # fmt: skip
def test_instance_at_the_local_consul_port_is_refused(address, monkeypatch):
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:8555")
    service = Service.objects.create(name="api")
    assert fields_refused(Instance(service=service, address=address, port=8555)) == {"port"}


def test_instance_at_a_remote_consul_port_is_refused(monkeypatch):
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "consul.example:8555")
    service = Service.objects.create(name="api")
    for address in ("consul.example", "CONSUL.example."):
        assert fields_refused(Instance(service=service, address=address, port=8555)) == {"port"}


def test_instance_can_be_saved_with_an_invalid_consul_address(monkeypatch):
    service = Service.objects.create(name="api")
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "ftp://nonsense")
    Instance.objects.create(service=service, address="10.0.0.1", port=80)


def test_validation_opens_no_connection(monkeypatch):
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a connection was opened")

    service = Service.objects.create(name="api")
    monkeypatch.setattr("socket.socket.connect", refuse)
    Instance(service=service, address="10.0.0.1", port=80).full_clean()
    Instance(service=service, address="no-such-host.example", port=80).full_clean()
    assert fields_refused(Instance(service=service, address="169.254.169.254", port=80)) == {"address"}


def test_service_error_names_every_invalid_field():
    assert fields_refused(Service(name="a/b", check_interval="10", tags=["a\nb"])) == {"name", "check_interval", "tags"}


def test_service_error_names_the_invalid_meta_key():
    with pytest.raises(ValidationError, match="version: "):
        Service(name="api", meta={"ok": "1", "version": "x" * 513}).full_clean()


def test_save_stores_canonical_values():
    service = Service.objects.create(name="api", tags=["b", "a", "b"], check_interval="1m30s", deregister_after="")
    instance = Instance.objects.create(service=service, address="::ffff:10.0.0.1", port=80, extra_tags=["z", "c"])
    service.refresh_from_db()
    instance.refresh_from_db()
    assert (service.tags, service.check_interval, service.deregister_after) == (["a", "b"], "90s", "")
    assert (instance.address, instance.extra_tags) == ("10.0.0.1", ["c", "z"])


def test_instance_spec_combines_service_and_instance():
    service = Service.objects.create(
        name="api", tags=["v1"], meta={"team": "blue", "zone": "a"}, check_interval="20s", deregister_after=""
    )
    instance = Instance.objects.create(
        service=service, address="10.0.0.1", port=80, weight=3, extra_tags=["eu"], extra_meta={"zone": "b"}
    )
    assert instance.spec() == ServiceSpec(
        name="api", address="10.0.0.1", port=80, id="api-10.0.0.1-80", tags=("eu", "v1"), weight=3,
        meta={"team": "blue", "zone": "b"}, check=CheckSpec(interval="20s", deregister_after=None),
    )  # fmt: skip


def test_instance_with_too_much_combined_meta_is_refused():
    service = Service.objects.create(name="api", meta={f"a{number}": "v" for number in range(40)})
    instance = Instance(
        service=service, address="10.0.0.1", port=80, extra_meta={f"b{number}": "v" for number in range(30)}
    )
    assert fields_refused(instance) == {"__all__"}


# -- uniqueness -------------------------------------------------------------------------------------------------------


def test_service_names_are_unique_ignoring_case():
    Service.objects.create(name="api")
    with pytest.raises(ValidationError, match="of this name already"):
        Service(name="API").full_clean()
    with pytest.raises(IntegrityError), transaction.atomic():
        Service(name="API").save()


def test_service_ids_are_unique_ignoring_case():
    service = Service.objects.create(name="api")
    Instance.objects.create(service=service, address="10.0.0.1", port=80, consul_id="one")
    with pytest.raises(ValidationError, match="this service ID already"):
        Instance(service=service, address="10.0.0.1", port=81, consul_id="ONE").full_clean()
    with pytest.raises(IntegrityError), transaction.atomic():
        Instance(service=service, address="10.0.0.1", port=81, consul_id="ONE").save()


def test_instance_endpoints_are_unique_within_a_service():
    service = Service.objects.create(name="api")
    Instance.objects.create(service=service, address="10.0.0.1", port=80)
    with pytest.raises(ValidationError):
        Instance(service=service, address="10.0.0.1", port=80, consul_id="another").full_clean()


# -- the service ID ---------------------------------------------------------------------------------------------------


@pytest.fixture
def instance() -> Instance:
    service = Service.objects.create(name="api")
    return Instance.objects.create(service=service, address="10.0.0.1", port=80)


def test_default_service_id_is_name_address_port(instance):
    assert instance.consul_id == "api-10.0.0.1-80"


@pytest.mark.parametrize("reloaded", [True, False])
def test_default_service_id_follows_the_address(instance, reloaded):
    if reloaded:
        instance = Instance.objects.get(pk=instance.pk)
    instance.port = 81
    instance.save()
    assert instance.consul_id == "api-10.0.0.1-81"
    instance.address = "10.0.0.2"
    instance.save()
    assert Instance.objects.get(pk=instance.pk).consul_id == "api-10.0.0.2-81"


def test_given_service_id_stays_when_the_address_changes(instance):
    instance.consul_id = "mine"
    instance.save()
    instance.port = 81
    instance.save()
    assert instance.consul_id == "mine"


def test_given_service_id_that_is_the_service_s_name_stays():
    service = Service.objects.create(name="web")
    instance = Instance.objects.create(service=service, address="10.0.0.1", port=80, consul_id="web")
    assert instance.consul_id == "web"
    instance.port = 81
    instance.save()
    assert Instance.objects.get(pk=instance.pk).consul_id == "web"


def test_emptied_service_id_becomes_the_default(instance):
    instance.consul_id = "mine"
    instance.save()
    instance.consul_id = ""
    instance.save()
    assert instance.consul_id == "api-10.0.0.1-80"


def test_default_service_id_follows_a_rename_of_the_service(instance):
    service = Service.objects.get(pk=instance.service_id)
    row = service.instances.get()
    service.name = row.service.name = "web"
    row.service = service
    row.clean()
    assert row.consul_id == "web-10.0.0.1-80"


def test_service_keeps_its_saved_name_until_it_is_saved():
    Service.objects.create(name="one")
    service = Service.objects.get()
    service.name = "two"
    assert service.saved_name == "one"
    service.save()
    assert service.saved_name == "two"


@pytest.mark.parametrize("ipv6", ["::1", "2001:db8::"])
def test_default_service_id_of_an_ipv6_address(ipv6):
    service = Service.objects.create(name="api")
    instance = Instance.objects.create(service=service, address=ipv6, port=80)
    assert instance.consul_id == f"api-{ipv6}-80"


def test_instance_new_service_id_resets_claimed_and_departed(instance):
    Instance.objects.update(claimed_node="one", departed=True)
    row = Instance.objects.get()
    row.weight = 2
    row.save()
    assert (row.claimed_node, row.departed) == ("one", True)
    row.consul_id = "somebody-else-s"
    row.save()
    row.refresh_from_db()
    assert (row.claimed_node, row.departed) == ("", False)


def test_deferred_columns_are_not_fetched_to_track_saved_values(instance, django_assert_num_queries):
    with django_assert_num_queries(2):
        assert Instance.objects.only("pk").get().saved_id == ""
        assert Service.objects.only("pk").get().saved_name == ""
