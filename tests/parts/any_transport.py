"""A common interface to the transports, so that a test runs with each, on each kind of event loop."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import time
from collections.abc import Callable
from typing import Any

import requests

from registry_admin.discovery.http.async_transport import AsyncTransport
from registry_admin.discovery.http.attempt_timer import AttemptTimer
from registry_admin.discovery.http.request import build_request
from registry_admin.discovery.http.sync_transport import SyncTransport


def _eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    return loop


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"async": asyncio.new_event_loop}
if importlib.util.find_spec("uvloop"):
    LOOPS["uvloop"] = _uvloop
if sys.version_info >= (3, 12):
    LOOPS["eager"] = _eager_loop
KINDS = ("sync", *LOOPS)


class AnyTransport:
    """A transport of this kind: "sync", or asynchronous on an event loop of its own."""

    def __init__(self, kind: str, **options: Any) -> None:
        self.kind = kind
        self.is_async = kind != "sync"
        self.runner = asyncio.Runner(loop_factory=LOOPS[kind]) if self.is_async else None
        self.transport: Any = (AsyncTransport if self.is_async else SyncTransport)(**options)

    def exchange(
        self, service: Any, *, timeout_s: float = 10.0, scheme: str = "http", **request: Any
    ) -> requests.Response:
        """Sends a request to the service and returns its response; raises AttemptError."""
        base_url = f"{scheme}://{service.host}:{service.port}"
        if self.runner is not None:
            return self.runner.run(send_async(self.transport, base_url, timeout_s=timeout_s, **request))
        deadline = time.monotonic() + timeout_s
        sent = self.transport.start(build_request("api", "/", **request), base_url, deadline=deadline, headers={})
        while (response := sent.read_response()) is None:
            pass
        return response

    def read(self, response: Any) -> bytes:
        """Returns the whole body of a streamed response; raises AttemptError."""
        return response.content if self.runner is None else self.runner.run(response.aread())

    def close(self) -> None:
        if self.runner is None:
            self.transport.close()
        else:
            self.runner.run(self.transport.close())
            self.runner.close()


async def send_async(
    transport: AsyncTransport, base_url: str, *, timeout_s: float = 10.0, **request: Any
) -> requests.Response:
    """Sends a request on the running loop and returns its response; raises AttemptError."""
    pool = transport.running_pool() or await transport.open_pool()
    timer = AttemptTimer(pool.timer, deadline=time.monotonic() + timeout_s)
    try:
        return await transport.send(build_request("api", "/", **request), base_url, headers={}, pool=pool, timer=timer)
    finally:
        timer.close()
