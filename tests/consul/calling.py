"""The synchronous and the asynchronous client behind the same methods, so that one test is for both."""

from __future__ import annotations

import asyncio
from typing import Any

import requests

from registry_admin.consul import ServiceRegistry
from registry_admin.discovery import ServiceDiscoveryClient, SyncServiceDiscoveryClient


class BothClients:
    """The synchronous client, and the asynchronous one on an event loop that lasts, behind the same methods."""

    def __init__(self, kind: str, registry: ServiceRegistry, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client: Any = {"sync": SyncServiceDiscoveryClient, "async": ServiceDiscoveryClient}[kind](
            registry, **options
        )

    def _run(self, result: Any) -> Any:
        return self._runner.run(result) if asyncio.iscoroutine(result) else result

    def call_service(self, *args: Any, **options: Any) -> requests.Response:
        return self._run(self._client.call_service(*args, **options))

    def shorthand(self, verb: str, *args: Any) -> requests.Response:
        return self._run(getattr(self._client, verb)(*args))

    def get(self, *args: Any, **options: Any) -> requests.Response:
        return self._run(self._client.get(*args, **options))

    def post(self, *args: Any, **options: Any) -> requests.Response:
        return self._run(self._client.post(*args, **options))

    def end(self) -> None:
        self._run(self._client.close())
        self._runner.close()
