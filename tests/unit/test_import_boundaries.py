"""What a module pays for `from registry_admin.discovery import call_service`."""

from __future__ import annotations

import subprocess
import sys

import pytest


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("package", ["registry_admin.discovery", "registry_admin.consul", "registry_admin.errors"])
def test_no_django_is_loaded(package):
    assert "django" not in loaded_by(f"import {package}")


def test_aiohttp_is_loaded_only_for_the_asynchronous_client():
    assert "aiohttp" not in loaded_by("from registry_admin.discovery import call_service, lifespan, registered")
    assert "aiohttp" in loaded_by("from registry_admin.discovery import acall_service")


def test_an_unknown_name_is_an_import_error():
    with pytest.raises(ImportError):
        from registry_admin.discovery import nonsense  # noqa: F401
