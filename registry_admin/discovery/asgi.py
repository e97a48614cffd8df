"""Registration and propagation for ASGI applications such as FastAPI and Starlette."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Unpack

from registry_admin.consul.registry import ServiceRegistry
from registry_admin.discovery import own_instances
from registry_admin.discovery.propagation import propagated
from registry_admin.discovery.registration import process_hooks
from registry_admin.discovery.registration.identity import IdentityOptions
from registry_admin.discovery.registration.registration import Registration
from registry_admin.discovery.registration.servers.notices import lifespan_notices
from registry_admin.discovery.registration.switch import may_register

_OWN_HEADER = own_instances.HEADER.lower()

logger = logging.getLogger(__name__)

ApplicationLifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]


class Lifespan:
    """Lifespan that registers the process while the application runs; see `lifespan`."""

    def __init__(
        self,
        registration: Registration,
        wrap: ApplicationLifespan | None,
        may_register: Callable[[], bool] = lambda: True,
    ) -> None:
        self.registration = registration
        self._wrap = wrap
        self._may_register = may_register
        for notice in lifespan_notices():
            logger.warning(notice)
        process_hooks.install_server_hooks()  # some servers set their handlers between the import and the start

    @property
    def service_id(self) -> str:
        """ID of the instance that this process registers as, or "" until it is known."""
        return self.registration.service_id

    def __call__(self, app: Any) -> AbstractAsyncContextManager[Any]:
        """Returns the context manager that the application enters when it starts."""
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
        import asyncio  # noqa: PLC0415 - the package is imported without an event loop, too

        if self._may_register():
            self.registration.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self.registration.stop)


def lifespan(
    name: str | None = None,
    *,
    wrap: ApplicationLifespan | None = None,
    registry: ServiceRegistry | None = None,
    **options: Unpack[IdentityOptions],
) -> Lifespan:
    """Registers the application while it serves: `app = FastAPI(lifespan=lifespan("backend-api", port=8000))`.

    Options that are left out come from SERVICE_NAME, SERVICE_ADDRESS, SERVICE_PORT, SERVICE_TAGS and SERVICE_ID. `wrap`
    is the application's own lifespan, if it has one; it runs around the registration. Within tests nothing is
    registered, unless a `registry` is given.
    """
    return Lifespan(Registration(name, registry=registry, **options), wrap, lambda: may_register(registry))


class PropagateContext:
    """ASGI middleware that propagates a request's ID, trace and deadline to the calls that are made for it.

    `app.add_middleware(PropagateContext)`, or `app = PropagateContext(app)`. Calls that are meant for another instance
    are refused.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        own_instances.add_middleware()

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """Handles one connection of the server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        instance_id = own_instances.refusing_instance(headers.get(_OWN_HEADER))
        if instance_id is not None:
            await _refuse(instance_id, send)
            return
        with propagated(headers):
            await self._app(scope, receive, send)


async def _refuse(instance_id: str, send: Any) -> None:
    body = own_instances.refusal_text(instance_id).encode()
    headers = {
        "content-type": "text/plain; charset=utf-8",
        "content-length": str(len(body)),
        _OWN_HEADER: instance_id,
    }
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": own_instances.MISDIRECTED, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
