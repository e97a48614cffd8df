"""The fixture that pytest finds by itself where the package is installed; here it runs from its source."""

from registry_admin.discovery.pytest_plugin import fake_services

__all__ = ["fake_services"]
