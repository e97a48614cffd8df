"""Every kind of check has all its facts in one class."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from registry_admin.consul.check_fields import OPTIONS
from registry_admin.consul.checks import CHECK_CHOICES, CHECK_TYPES, CheckKind, CheckSpec, check_target
from registry_admin.consul.service_spec import ServiceSpec
from registry_admin.consul.types import ServiceInstance
from registry_admin.errors import InvalidValueError

TARGET = "127.0.0.1:8000"
KINDS = list(CheckKind)
PAYLOADS = {
    CheckKind.HTTP: {"HTTP": "http://127.0.0.1:8000/health", "Method": "GET", "Interval": "10s", "Timeout": "5s"},
    CheckKind.TCP: {"TCP": TARGET, "Interval": "10s", "Timeout": "5s"},
    CheckKind.GRPC: {"GRPC": TARGET, "Interval": "10s", "Timeout": "5s"},
    CheckKind.TTL: {"TTL": "10s"},
    CheckKind.KEEP: {"TCP": TARGET, "Interval": "10s", "Timeout": "5s"},
    CheckKind.NONE: {},
}
TEXTS = {
    CheckKind.HTTP: "http, http:/health, every 10s, timeout 5s, out after 30s",
    CheckKind.TCP: "tcp, every 10s, timeout 5s, out after 30s",
    CheckKind.GRPC: "grpc, every 10s, timeout 5s, out after 30s",
    CheckKind.KEEP: "keep",
    CheckKind.TTL: "ttl, within 10s, out after 30s",
    CheckKind.NONE: "none",
}


@pytest.mark.parametrize("kind", KINDS)
def test_check_kind_has_a_class_and_a_choice(kind):
    check_type = CHECK_TYPES[kind]
    assert check_type.kind is kind
    assert CheckSpec(kind=kind).type is check_type
    assert (kind.value, check_type.label) in CHECK_CHOICES


@pytest.mark.parametrize("kind", KINDS)
def test_check_kind_uses_fields_of_check_spec_only(kind):
    check_type = CHECK_TYPES[kind]
    assert {*check_type.fields, *check_type.options} <= {field.name for field in fields(CheckSpec)}
    assert not set(check_type.fields) & set(check_type.options)
    assert set(CheckSpec(kind=kind).effective) == {"kind", *CHECK_TYPES[kind].fields}


@pytest.mark.parametrize("kind", KINDS)
def test_check_kind_has_its_own_definition_and_text(kind):
    check = CheckSpec(kind=kind)
    assert check.type.definition(check, TARGET) == PAYLOADS[kind]
    assert str(check) == TEXTS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_check_kind_is_an_http_request_in_payload_or_probe_for_http_only(kind):
    spec = ServiceSpec(name="api", address="127.0.0.1", port=8000, check=CheckSpec(kind=kind))
    probe = spec.check.type.probe(spec.check, TARGET)
    is_http = kind is CheckKind.HTTP
    assert ("HTTP" in json.dumps([list(check) for check in spec.payload(marks=None).get("Checks", [])])) is is_http
    assert (probe is not None and probe.request.startswith(b"GET ")) is is_http


@pytest.mark.parametrize("kind", KINDS)
def test_check_kind_that_is_not_registered_has_no_check_in_the_payload_of_an_update(kind):
    spec = ServiceSpec(name="api", address="127.0.0.1", port=8000, check=CheckSpec(kind=kind))
    observed = ServiceInstance(service="api", id=spec.id, address="127.0.0.1", port=8000)
    assert ("Checks" in spec.payload(marks=None, observed=observed)) is CHECK_TYPES[kind].is_registered
    check_type = CHECK_TYPES[kind]
    assert ("Checks" in spec.payload(marks=None)) is (check_type.is_registered or check_type.is_kept)


@pytest.mark.parametrize("kind", KINDS)
def test_check_kind_that_needs_a_port_is_refused_without_one(kind):
    fields = {"name": "api", "address": "127.0.0.1", "port": 0, "check": CheckSpec(kind=kind)}
    if CHECK_TYPES[kind].needs_port:
        with pytest.raises(InvalidValueError, match="port"):
            ServiceSpec(**fields)
    else:
        spec = ServiceSpec(**fields)
        assert spec.probe is None
        assert not [check for check in spec.payload(marks=None).get("Checks", []) if "TCP" in check]


@pytest.mark.parametrize("kind", KINDS)
def test_check_kind_warns_of_a_timeout_above_the_interval_if_it_uses_both(kind):
    check = CheckSpec(kind=kind, interval="2s", timeout="5s", deregister_after="1s")
    expected = [name for name in ("timeout", "deregister_after") if name in CHECK_TYPES[kind].fields]
    assert [hint.field.replace(" ", "_") for hint in check.type.hints(check)] == expected


OPTION_VALUES = {
    "method": ("POST", "Method", "POST"),
    "headers": ({"Authorization": "Bearer s3cret"}, "Header", {"Authorization": ["Bearer s3cret"]}),
    "body": ("s3cret", "Body", "s3cret"),
    "disable_redirects": (True, "DisableRedirects", True),
    "tls_skip_verify": (True, "TLSSkipVerify", True),
    "tls_server_name": ("api.example", "TLSServerName", "api.example"),
    "grpc_service": ("pkg.Api", "GRPC", f"{TARGET}/pkg.Api"),
    "grpc_use_tls": (True, "GRPCUseTLS", True),
    "success_before_passing": (2, "SuccessBeforePassing", 2),
    "failures_before_warning": (3, "FailuresBeforeWarning", 3),
    "failures_before_critical": (4, "FailuresBeforeCritical", 4),
}
NEEDED = {"failures_before_warning": {"failures_before_critical": 3}}  # without it the option has no effect
OPTIONS_BY_KIND = [(kind, option) for kind in KINDS for option in CHECK_TYPES[kind].options]


def test_each_option_of_a_check_kind_has_an_example():
    assert {option for _, option in OPTIONS_BY_KIND} == OPTION_VALUES.keys()
    assert set(OPTIONS) | {"grpc_service"} == OPTION_VALUES.keys()


@pytest.mark.parametrize(("kind", "option"), OPTIONS_BY_KIND)
def test_option_of_a_check_is_in_definition_digest_and_text_without_secrets(kind, option):
    value, key, content = OPTION_VALUES[option]
    needed = NEEDED.get(option, {})
    plain = ServiceSpec(name="api", address="127.0.0.1", port=8000, check=CheckSpec(kind=kind, **needed))
    spec = replace(plain, check=CheckSpec(kind=kind, **needed, **{option: value}))
    (check,) = spec.payload(marks=None)["Checks"]
    assert check[key] == content
    assert (option in spec.check.effective, option in plain.check.effective) == (True, False)
    assert spec.digest != plain.digest
    assert str(spec.check) != str(plain.check)
    assert "s3cret" not in f"{spec.check} {spec.check!r} {spec!r}"


@pytest.mark.parametrize(("warning", "critical", "is_sent"), [(2, 0, False), (3, 2, False), (2, 2, True), (1, 2, True)])
def test_failures_before_warning_above_those_before_critical_are_not_sent_and_hinted_at(warning, critical, is_sent):
    """Newer agents refuse the whole registration."""
    check = CheckSpec(failures_before_warning=warning, failures_before_critical=critical)
    assert ("FailuresBeforeWarning" in check.type.definition(check, TARGET)) is is_sent
    assert [hint.field for hint in check.type.hints(check)] == ([] if is_sent else ["failures before warning"])


@pytest.mark.parametrize("kind", KINDS)
def test_option_that_a_check_kind_does_not_use_changes_nothing(kind):
    unused = OPTION_VALUES.keys() - set(CHECK_TYPES[kind].options)
    check = CheckSpec(kind=kind, **{option: OPTION_VALUES[option][0] for option in unused})
    assert check.effective == CheckSpec(kind=kind).effective
    assert check.type.definition(check, TARGET) == PAYLOADS[kind]


def test_probe_of_an_http_check_sends_its_method_headers_and_body():
    check = CheckSpec(
        scheme="https", method="POST", headers={"host": "api.example", "X-Key": "k"}, body="{}", disable_redirects=True,
        tls_server_name="cert.example",
    )  # fmt: skip
    probe = check.type.probe(check, TARGET)
    head, _, body = probe.request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /health HTTP/1.1"
    assert {"host: api.example", "X-Key: k", "Content-Length: 2"} <= set(lines)
    assert [line for line in lines if line.lower().startswith("host:")] == ["host: api.example"]
    assert (body, probe.tls, probe.follows_redirects, probe.server_name) == (b"{}", True, False, "cert.example")


@pytest.mark.parametrize(
    ("scheme", "port", "field"),
    [("http", 443, "scheme"), ("https", 80, "scheme"), ("http", 5432, "port"), ("https", 443, None)],
)
def test_port_hints_of_http_name_ports_that_speak_something_else(scheme, port, field):
    check = CheckSpec(scheme=scheme)
    assert [hint.field for hint in check.type.port_hints(check, port)] == ([field] if field else [])


def test_check_target_without_an_address_is_the_agents_machine():
    assert check_target("", 80) == "localhost:80"


def test_check_target_puts_ipv6_into_brackets():
    assert (check_target("::1", 80), check_target("10.0.0.1", 80)) == ("[::1]:80", "10.0.0.1:80")


@pytest.mark.parametrize(
    ("fields", "follows"),
    [({}, True), ({"method": "HEAD"}, True), ({"method": "PUT"}, False), ({"disable_redirects": True}, False)],
)
def test_redirects_are_followed_only_where_no_other_request_can_be_forged(fields, follows):
    check = CheckSpec(**fields)
    definition = check.type.definition(check, "10.0.0.1:80")
    assert ("DisableRedirects" in definition) is not follows
    assert check.type.probe(check, "10.0.0.1:80").follows_redirects is follows
