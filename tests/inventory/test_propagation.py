"""A Django project hands on what came with a request to the calls that are made for it."""

from __future__ import annotations

import asyncio

import pytest
from django.http import HttpResponse
from django.test import RequestFactory

from registry_admin.autoregister.middleware import propagate_context
from registry_admin.discovery.context import Propagation, deadline

SENT = {"X-Request-ID": "card-7", "X-Request-Timeout-Ms": "1500"}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_django_projects_hand_on_what_came(kind):
    seen = []

    def answer(request):
        seen.append((Propagation.of({}).headers(1.0)["X-Request-ID"], deadline() is not None))
        return HttpResponse()

    async def answer_later(request):
        return answer(request)

    request = RequestFactory().get("/", headers=SENT)
    if kind == "sync":
        propagate_context(answer)(request)
    else:
        asyncio.run(propagate_context(answer_later)(request))
    assert seen == [("card-7", True)]
