"""A Django module: `SERVICE_PORT=8000 gunicorn examples.django_module:application -b 127.0.0.1:8000`."""

from __future__ import annotations

import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

from registry_admin.discovery import call_service

os.environ.setdefault("SERVICE_NAME", "django-module")
if not settings.configured:  # in a project this is settings.py
    settings.configure(
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=["registry_admin.autoregister"],
        MIDDLEWARE=["registry_admin.autoregister.middleware.propagate_context"],
        ROOT_URLCONF=__name__,
        # pragma: allowlist nextline secret - only an example
        SECRET_KEY="only an example",  # noqa: S106
    )


def health(_request: HttpRequest) -> JsonResponse:
    """Answers Consul's check."""
    return JsonResponse({"status": "ok"})


def value(_request: HttpRequest, symbol: str) -> JsonResponse:
    """Returns the value of ten shares."""
    response = call_service("quotes", f"/quotes/{symbol}", timeout=2)
    if response.status_code == 404:
        return JsonResponse({"detail": f"There is no share {symbol}."}, status=404)
    response.raise_for_status()
    return JsonResponse({"symbol": symbol, "value": 10 * response.json()["price"]})


urlpatterns = [path("health", health), path("value/<str:symbol>", value)]
application = get_wsgi_application()
