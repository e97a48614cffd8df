"""Django middleware that passes a request's ID, trace and deadline on to calls."""

from __future__ import annotations

import asyncio

import pytest
from django.http import HttpResponse
from django.test import RequestFactory

from registry_admin.autoregister.middleware import propagate_context
from registry_admin.discovery.propagation import CallHeaders, current_deadline

HEADERS = {"X-Request-ID": "card-7", "X-Request-Timeout-Ms": "1500"}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_propagate_context_passes_id_and_deadline_on_to_calls(kind):
    propagated = []

    def view(request):
        propagated.append((CallHeaders.for_call({}).for_attempt(1.0)["X-Request-ID"], current_deadline() is not None))
        return HttpResponse()

    async def async_view(request):
        return view(request)

    request = RequestFactory().get("/", headers=HEADERS)
    if kind == "sync":
        propagate_context(view)(request)
    else:
        asyncio.run(propagate_context(async_view)(request))
    assert propagated == [("card-7", True)]
