"""Options that a client refuses when it is made."""

from __future__ import annotations

import pytest
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from registry_admin.consul import ServiceRegistry
from registry_admin.discovery import ServiceDiscoveryClient, SyncServiceDiscoveryClient
from registry_admin.errors import InvalidValueError


@pytest.fixture(params=[SyncServiceDiscoveryClient, ServiceDiscoveryClient])
def make(request):
    return lambda **options: request.param(ServiceRegistry(), **options)


@pytest.mark.parametrize("verify", ["", None, 0, "missing.pem", "empty.pem"])
def test_verify_that_is_no_ca_file_is_refused(make, verify, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.pem").touch()
    with pytest.raises(InvalidValueError, match=r"^verify: "):
        make(verify=verify)


@pytest.mark.parametrize("verify", [True, False, DEFAULT_CA_BUNDLE_PATH])
def test_verify_may_be_a_boolean_or_a_ca_file(make, verify):
    assert "ServiceRegistry" in repr(make(verify=verify))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", -1), ("timeout", 0), ("timeout", "10"), ("timeout", float("nan")), ("timeout", None),
        ("body_limit", "x"), ("body_limit", 0), ("body_limit", True), ("body_limit", 1.5),
        ("max_attempts", 0), ("max_attempts", "3"),
        ("hedge", 1), ("hedge_after", 0), ("hedge_after", "1"),
        ("balancing", "fastest"), ("same_node_first", "yes"), ("report_calls", None),
        ("on_attempt", "print"), ("on_call", 1),
    ],
)  # fmt: skip
def test_wrong_option_is_refused_by_its_name_when_the_client_is_made(make, name, value):
    with pytest.raises(InvalidValueError, match=f"^{name}: "):
        make(**{name: value})


def test_unknown_option_is_refused(make):
    with pytest.raises(TypeError, match="max_attempt"):
        make(max_attempt=1)
