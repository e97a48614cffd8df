"""The page that Prometheus scrapes, with a token of its own."""

from __future__ import annotations

from collections.abc import Iterator
from hmac import compare_digest

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from registry_admin.errors import DatabaseUnavailableError
from registry_admin.inventory.database import database_errors
from registry_admin.metrics.families import families


class _Scrape(Collector):
    def collect(self) -> Iterator[Metric]:
        return families()


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Returns the metrics as text, or as OpenMetrics where the client asks for it.

    404 where no token is set up, 401 for a wrong one, 503 while the database is away.
    """
    token = settings.REGISTRY_METRICS_TOKEN
    if not token:
        return _text(404, "Metrics are not set up here: REGISTRY_METRICS_TOKEN is not set.")
    if not compare_digest(request.headers.get("Authorization", "").encode(), f"Bearer {token}".encode()):
        response = _text(401, "Give the token as 'Authorization: Bearer …'.")
        response["WWW-Authenticate"] = "Bearer"
        return response
    registry = CollectorRegistry()
    registry.register(_Scrape())
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    try:
        with database_errors():
            body = encode(registry)
    except DatabaseUnavailableError:
        return _text(503, "The database is away.")
    return HttpResponse(body, content_type=content_type)


def _text(status: int, text: str) -> HttpResponse:
    return HttpResponse(f"{text}\n", status=status, content_type="text/plain; charset=utf-8")
