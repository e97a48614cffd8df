"""Views of a Django module, registered by its app `registry_admin.autoregister`."""

from __future__ import annotations

import time

from django.http import HttpRequest, HttpResponse
from django.urls import path


def quick(_request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


def slow(_request: HttpRequest) -> HttpResponse:
    time.sleep(1)
    return HttpResponse("ok")


urlpatterns = [path("health", quick), path("", quick), path("slow", slow)]
