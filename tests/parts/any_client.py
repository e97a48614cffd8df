"""A common interface to every kind of client, so that a test runs with each."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import requests

from registry_admin.consul import ServiceRegistry
from registry_admin.discovery import ServiceDiscoveryClient, SyncServiceDiscoveryClient
from registry_admin.discovery.instances.explain import Explanation
from registry_admin.errors import RegistryError


class AdapterClient:
    """A `requests.Session` with the adapter; raises the causes of the adapter's errors."""

    def __init__(self, registry: ServiceRegistry, **options: Any) -> None:
        adapter = pytest.importorskip("registry_admin.discovery.calls.requests_adapter")
        self._client = SyncServiceDiscoveryClient(registry, **options)
        self.session = requests.Session()
        self.session.mount("http://", adapter.requests_adapter(self._client))

    def call_service(self, service: str, path: str = "/", *, method: str = "GET", **options: Any) -> requests.Response:
        try:
            return self.session.request(method, f"http://{service}.service{path}", **options)
        except requests.RequestException as error:
            if isinstance(error.__cause__, RegistryError):
                raise error.__cause__  # noqa: B904 - keeps its own cause
            raise

    def get(self, *args: Any, **options: Any) -> requests.Response:
        return self.call_service(*args, **options)

    def post(self, *args: Any, **options: Any) -> requests.Response:
        return self.call_service(*args, method="POST", **options)

    def explain(self, service: str) -> Explanation:
        return self._client.explain(service)

    def close(self) -> None:
        self.session.close()
        self._client.close()


class AnyClient:
    """A client of this kind: "sync", "async" (on an event loop of its own) or "adapter"."""

    def __init__(self, kind: str, registry: ServiceRegistry, **options: Any) -> None:
        self._runner = asyncio.Runner()
        kinds = {"sync": SyncServiceDiscoveryClient, "async": ServiceDiscoveryClient, "adapter": AdapterClient}
        self._client: Any = kinds[kind](registry, **options)

    def _run(self, result: Any) -> Any:
        return self._runner.run(result) if asyncio.iscoroutine(result) else result

    def call_service(self, *args: Any, **options: Any) -> requests.Response:
        return self._run(self._client.call_service(*args, **options))

    def explain(self, service: str) -> Explanation:
        return self._client.explain(service)

    def shorthand(self, verb: str, *args: Any) -> requests.Response:
        return self._run(getattr(self._client, verb)(*args))

    def get(self, *args: Any, **options: Any) -> requests.Response:
        return self._run(self._client.get(*args, **options))

    def post(self, *args: Any, **options: Any) -> requests.Response:
        return self._run(self._client.post(*args, **options))

    def close(self) -> None:
        self._run(self._client.close())
        self._runner.close()
