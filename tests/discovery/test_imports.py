"""Modules that `import registry_admin.discovery` loads, and the names that it loads later."""

from __future__ import annotations

import subprocess
import sys

import pytest

from registry_admin import discovery


def modules_loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(completed.stdout.split())


def loaded_by(statement: str) -> set[str]:
    """Returns the packages, without their modules."""
    return {name.partition(".")[0] for name in modules_loaded_by(statement)}


def test_process_loads_only_what_it_uses():
    calling = modules_loaded_by("from registry_admin.discovery import call_service")
    registering = modules_loaded_by("from registry_admin.discovery import registered")
    calls, registration = "registry_admin.discovery.calls.client", "registry_admin.discovery.registration.registration"
    assert (calls in calling, registration in calling) == (True, False)
    assert (calls in registering, registration in registering) == (False, True)
    assert not (calling | registering) & {"registry_admin.consul.snapshot"}


@pytest.mark.parametrize("package", ["registry_admin.discovery", "registry_admin.consul", "registry_admin.errors"])
def test_package_loads_no_django(package):
    assert "django" not in loaded_by(f"import {package}")


def test_discovery_loads_neither_asyncio_nor_prometheus_client():
    loaded = loaded_by("from registry_admin.discovery import call_service, lifespan, registered")
    assert "requests" in loaded
    assert not loaded & {"asyncio", "prometheus_client"}


def test_asynchronous_client_loads_no_http_library_of_others():
    loaded = loaded_by("from registry_admin.discovery import ServiceDiscoveryClient")
    assert "registry_admin" in loaded
    assert not loaded & {"aiohttp", "httpx", "httptools"}


@pytest.mark.parametrize(
    ("name", "library"),
    [("acall_service", "asyncio"), ("ServiceDiscoveryClient", "asyncio"), ("PrometheusHooks", "prometheus_client")],
)
def test_lazy_name_loads_its_library(name, library):
    assert library in loaded_by(f"from registry_admin.discovery import {name}")


def test_public_names_can_all_be_imported():
    assert all(getattr(discovery, name) is not None for name in discovery.__all__)


def test_unknown_name_is_an_import_error():
    with pytest.raises(ImportError, match="nonsense"):
        from registry_admin.discovery import nonsense  # noqa: F401
