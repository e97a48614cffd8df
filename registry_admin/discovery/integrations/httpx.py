"""Transports for httpx: `http://NAME.service/…` becomes a call, with its retries, hedging and deadline.

client = httpx.Client(transport=ServiceTransport())
client.get("http://backend-api.service/cards")
"""

from __future__ import annotations

from typing import cast

import httpx
import requests

from registry_admin.discovery.calls.async_client import ServiceDiscoveryClient, default_async_client
from registry_admin.discovery.calls.client import SyncServiceDiscoveryClient, default_client
from registry_admin.discovery.calls.options import CallOptions
from registry_admin.discovery.calls.service_url import own_headers, service_location, service_of
from registry_admin.discovery.http.response import ServiceResponse
from registry_admin.errors import DeadlineExceededError, InvalidValueError, RegistryError

_DECODED_HEADERS = frozenset({"content-encoding", "content-length", "transfer-encoding"})  # true of the received bytes


class ServiceTransport(httpx.BaseTransport):
    """Sends requests to `NAME.service` through `client`, or the process's own; all others through `fallback`.

    The longest of httpx's time-outs is the deadline of the whole call. Responses have been read by then.
    """

    def __init__(
        self, client: SyncServiceDiscoveryClient | None = None, *, fallback: httpx.BaseTransport | None = None
    ) -> None:
        self._client = client
        self._fallback = fallback or httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Implements httpx.BaseTransport. Raises its TransportErrors, with the RegistryError as their cause."""
        service = service_of(request.url.host)
        if not service:
            return self._fallback.handle_request(request)
        request.read()
        client = self._client or default_client()
        try:
            response = client.call_service(service, _target(request), method=request.method, **_options(request))
        except RegistryError as error:
            raise _to_httpx_error(error, request) from error
        return _to_httpx_response(response, request)

    def close(self) -> None:
        """Closes the fallback; the client, which others may use, stays open."""
        self._fallback.close()


class AsyncServiceTransport(httpx.AsyncBaseTransport):
    """Does the same as ServiceTransport for httpx.AsyncClient, on asyncio."""

    def __init__(
        self, client: ServiceDiscoveryClient | None = None, *, fallback: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._client = client
        self._fallback = fallback or httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Implements httpx.AsyncBaseTransport. Raises its TransportErrors, with the RegistryError as their cause."""
        service = service_of(request.url.host)
        if not service:
            return await self._fallback.handle_async_request(request)
        await request.aread()
        client = self._client or default_async_client()
        try:
            response = await client.call_service(service, _target(request), method=request.method, **_options(request))
        except RegistryError as error:
            raise _to_httpx_error(error, request) from error
        return _to_httpx_response(response, request)

    async def aclose(self) -> None:
        """Closes the fallback; the client, which others may use, stays open."""
        await self._fallback.aclose()


def _target(request: httpx.Request) -> str:
    if request.url.port is not None:
        error = InvalidValueError("url", str(request.url), "leave the port out: each instance has its own")
        raise httpx.UnsupportedProtocol(str(error), request=request)
    return request.url.raw_path.decode("ascii")


def _options(request: httpx.Request) -> CallOptions:
    headers = own_headers(request.headers)
    headers.pop("accept-encoding", None)  # httpx asks for all that it decodes; between services none is quicker
    limits_s = [limit for limit in request.extensions.get("timeout", {}).values() if limit is not None]
    return {"headers": headers, "data": request.content or None, "timeout": max(limits_s, default=None)}


def _to_httpx_response(response: requests.Response, request: httpx.Request) -> httpx.Response:
    received = cast("ServiceResponse", response)
    service_url = f"{request.url.scheme}://{request.url.host}"
    headers = [pair for pair in received.header_pairs if pair[0].lower() not in _DECODED_HEADERS]
    converted = httpx.Response(
        received.status_code,
        headers=headers,
        content=received.content,
        request=request,
        extensions={"http_version": b"HTTP/1.1", "reason_phrase": received.reason.encode("latin-1")},
    )
    if location := received.headers.get("Location"):
        converted.headers["Location"] = service_location(
            location, instance_url=received.base_url, service_url=service_url
        )
    return converted


def _to_httpx_error(error: RegistryError, request: httpx.Request) -> httpx.TransportError:
    if isinstance(error, InvalidValueError):
        return httpx.UnsupportedProtocol(str(error), request=request)
    if isinstance(error, DeadlineExceededError):
        return httpx.ReadTimeout(str(error), request=request)
    return httpx.ConnectError(str(error), request=request)
