"""Middleware for aiohttp: requests to `http://NAME.service/…` go to a healthy instance, WebSockets too.

async with aiohttp.ClientSession(middlewares=[ServiceMiddleware()]) as session:
    await session.get("http://backend-api.service/cards")
"""

from __future__ import annotations

import aiohttp
from yarl import URL

from registry_admin.discovery.calls.async_client import ServiceDiscoveryClient, default_async_client
from registry_admin.discovery.calls.service_url import service_of

MAX_CONNECTS = 3  # instances that a request tries to connect to


class ServiceMiddleware:
    """Picks an instance for each request, and another one where it can't be connected to.

    Its replies count for outlier detection. A request that may have been received isn't sent again, and aiohttp's own
    time-outs hold. Raises the errors of a call that finds no instance.
    """

    def __init__(self, client: ServiceDiscoveryClient | None = None, *, tag: str | None = None) -> None:
        self._client = client
        self._tag = tag

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Implements aiohttp's middleware."""
        url = request.url
        service = service_of(url.host or "")
        if not service:
            return await handler(request)
        has_own_host = request.headers.get("Host") not in {None, url.host_port_subcomponent, url.host}
        pick = (self._client or default_async_client()).pick(
            service, tag=self._tag, failures=(aiohttp.ClientError, OSError)
        )
        for connects in range(1, MAX_CONNECTS + 1):
            try:
                async with pick as instance:
                    request.url = _url_on(instance.url, url)
                    if not has_own_host:
                        request.headers["Host"] = instance.host_port
                    request.headers.update(instance.headers)
                    response = await handler(request)
                    instance.record_status(response.status)
                    return response
            except aiohttp.ClientConnectorError:
                if connects == MAX_CONNECTS:
                    raise
        raise AssertionError("the loop returns or raises")


def _url_on(instance_url: str, url: URL) -> URL:
    """Returns `url` on the instance; a WebSocket's stays one."""
    root = URL(instance_url)
    scheme = {"http": "ws", "https": "wss"}[root.scheme] if url.scheme in {"ws", "wss"} else root.scheme
    path = root.raw_path.rstrip("/") + url.raw_path
    return URL.build(
        scheme=scheme, authority=root.raw_authority, path=path, query_string=url.raw_query_string, encoded=True
    )
