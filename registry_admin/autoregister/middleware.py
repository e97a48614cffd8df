"""Django middleware: calls made for a request carry on its ID and trace, and meet its deadline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import sync_and_async_middleware

from registry_admin.discovery.context import propagated

Answer = Callable[[HttpRequest], HttpResponse] | Callable[[HttpRequest], Awaitable[HttpResponse]]


@sync_and_async_middleware
def propagate_context(get_response: Answer) -> Answer:
    """For MIDDLEWARE: `registry_admin.autoregister.middleware.propagate_context`."""
    if iscoroutinefunction(get_response):
        answer_later = cast("Callable[[HttpRequest], Awaitable[HttpResponse]]", get_response)

        async def asynchronous(request: HttpRequest) -> HttpResponse:
            with propagated(request.headers):
                return await answer_later(request)

        return asynchronous
    answer = cast("Callable[[HttpRequest], HttpResponse]", get_response)

    def synchronous(request: HttpRequest) -> HttpResponse:
        with propagated(request.headers):
            return answer(request)

    return synchronous
