"""Registration for FastAPI, Starlette and whatever else takes a lifespan: one line in the application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Unpack

from registry_admin.consul.registry import ServiceRegistry
from registry_admin.discovery.context import propagated
from registry_admin.discovery.identity import IdentityOptions
from registry_admin.discovery.registration import Registration

Wrapped = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]


class Lifespan:
    """What `lifespan` returns: give it to the application as `lifespan=`."""

    def __init__(self, registration: Registration, wrap: Wrapped | None) -> None:
        self.registration = registration
        self._wrap = wrap

    @property
    def service_id(self) -> str:
        """The ID of the instance that this process is, or nothing until it is known."""
        return self.registration.service_id

    def __call__(self, app: Any) -> AbstractAsyncContextManager[Any]:
        """Called by the application when it starts."""
        return self._run(app)

    @asynccontextmanager
    async def _run(self, app: Any) -> AsyncIterator[Mapping[str, Any] | None]:
        if self._wrap is None:
            async with self._registered():
                yield None
        else:
            async with self._wrap(app) as state, self._registered():
                yield state

    @asynccontextmanager
    async def _registered(self) -> AsyncIterator[None]:
        self.registration.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self.registration.stop)


def lifespan(
    name: str | None = None,
    *,
    wrap: Wrapped | None = None,
    registry: ServiceRegistry | None = None,
    **options: Unpack[IdentityOptions],
) -> Lifespan:
    """Registers the application while it serves: `app = FastAPI(lifespan=lifespan("backend-api", port=8000))`.

    What isn't given comes from SERVICE_NAME, SERVICE_ADDRESS, SERVICE_PORT, SERVICE_TAGS and SERVICE_ID. `wrap` is the
    application's own lifespan, if it has one; it runs around the registration.
    """
    return Lifespan(Registration(name, registry=registry, **options), wrap)


class PropagateContext:
    """ASGI middleware: calls made for a request carry on its ID and trace, and meet its deadline.

    `app.add_middleware(PropagateContext)`, or `app = PropagateContext(app)`.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """Called by the server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with propagated(headers):
            await self._app(scope, receive, send)
