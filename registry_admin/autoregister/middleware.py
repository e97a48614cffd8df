"""Django middleware that passes a request's ID, trace and deadline on to the calls made for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import sync_and_async_middleware

from registry_admin.discovery import own_instances
from registry_admin.discovery.propagation import propagated

GetResponse = Callable[[HttpRequest], HttpResponse] | Callable[[HttpRequest], Awaitable[HttpResponse]]


@sync_and_async_middleware
def propagate_context(get_response: GetResponse) -> GetResponse:
    """Wraps a view, sync or async. In MIDDLEWARE: `registry_admin.autoregister.middleware.propagate_context`.

    Calls that are meant for another instance are refused, so put it first.
    """
    own_instances.add_middleware()
    if iscoroutinefunction(get_response):
        get_async_response = cast("Callable[[HttpRequest], Awaitable[HttpResponse]]", get_response)

        async def asynchronous(request: HttpRequest) -> HttpResponse:
            if (refusal := _refusal(request)) is not None:
                return refusal
            with propagated(request.headers):
                return await get_async_response(request)

        return asynchronous
    get_sync_response = cast("Callable[[HttpRequest], HttpResponse]", get_response)

    def synchronous(request: HttpRequest) -> HttpResponse:
        if (refusal := _refusal(request)) is not None:
            return refusal
        with propagated(request.headers):
            return get_sync_response(request)

    return synchronous


def _refusal(request: HttpRequest) -> HttpResponse | None:
    instance_id = own_instances.refusing_instance(request.headers.get(own_instances.HEADER))
    if instance_id is None:
        return None
    return HttpResponse(
        own_instances.refusal_text(instance_id),
        content_type="text/plain; charset=utf-8",
        status=own_instances.MISDIRECTED,
        headers={own_instances.HEADER: instance_id},
    )
