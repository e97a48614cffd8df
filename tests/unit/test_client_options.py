"""What a client refuses when it is made, so that no call fails of it later."""

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
def test_what_is_no_ca_file_is_refused(make, verify, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.pem").touch()
    with pytest.raises(InvalidValueError, match=r"^verify: "):
        make(verify=verify)


@pytest.mark.parametrize("verify", [True, False, DEFAULT_CA_BUNDLE_PATH])
def test_whom_to_trust_can_be_said(make, verify):
    make(verify=verify)


def test_a_misspelt_option_is_not_ignored(make):
    with pytest.raises(TypeError, match="max_attempt"):
        make(max_attempt=1)
