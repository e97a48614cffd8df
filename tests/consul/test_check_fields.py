"""Rules for the fields of a check, and options that old agents don't know."""

from __future__ import annotations

import pytest

from registry_admin.consul.check_fields import OPTIONS, RULES, known_definitions
from registry_admin.consul.checks import CheckSpec
from registry_admin.errors import InvalidValueError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("headers", {"a b": "x"}), ("headers", {"X": "a\r\nY: b"}), ("headers", {"Content-Length": "1"}),
        ("headers", {"X": "(not shown)"}), ("headers", ["X"]), ("method", "GET /x"), ("method", "CONNECT"), ("body", 1),
        ("body", "\x00"), ("body", "x" * 4097), ("disable_redirects", "yes"), ("tls_skip_verify", 1),
        ("tls_server_name", "a b"), ("tls_server_name", "metadata.google.internal"), ("grpc_service", "a b"),
        ("grpc_service", "/x"), ("grpc_use_tls", None), ("success_before_passing", -1), ("success_before_passing", 101),
        ("failures_before_warning", True), ("failures_before_critical", "2"),
    ],
)  # fmt: skip
def test_check_with_a_bad_option_is_refused_and_names_the_field(field, value):
    with pytest.raises(InvalidValueError) as caught:
        CheckSpec(**{field: value})
    assert caught.value.field.startswith(f"check.{field}")


def test_header_value_is_no_part_of_an_error():
    with pytest.raises(InvalidValueError) as caught:
        CheckSpec(headers={"Authorization": "s3cret\n"})
    assert "s3cret" not in str(caught.value)


def test_check_may_have_a_host_header():
    assert CheckSpec(headers={"Host": "x.example"}).headers == {"Host": "x.example"}


@pytest.mark.parametrize("field", RULES)
def test_rule_accepts_the_default_and_keeps_it(field):
    assert RULES[field](getattr(CheckSpec(), field), "") == getattr(CheckSpec(), field)


@pytest.mark.parametrize(
    ("version", "unknown"),
    [
        ((), {"DisableRedirects", "TLSServerName", "FailuresBeforeWarning"}),
        ((1, 8, 7), {"DisableRedirects", "TLSServerName", "FailuresBeforeWarning"}),
        ((1, 10, 0), {"DisableRedirects", "FailuresBeforeWarning"}),
        ((1, 11, 4), {"DisableRedirects"}),
        ((1, 11, 5), set()),
        ((1, 21, 4), set()),
    ],
)
def test_known_definitions_leave_out_what_the_agent_is_too_old_for(version, unknown):
    definition = {option.key: "x" for option in OPTIONS.values()} | {"HTTP": "http://x/"}
    (known,) = known_definitions([definition], lambda: version)
    assert definition.keys() - known.keys() == unknown


def test_known_definitions_without_newer_options_do_not_ask_for_the_version():
    def version() -> tuple[int, ...]:
        raise AssertionError("asked")

    definitions = [{"HTTP": "http://x/", "Header": {"X": ["y"]}}]
    assert known_definitions(definitions, version) == definitions
