"""research-api: enriches a card and calls backend-api to publish it. A whole Django project in one file.

It shows the two lines that a Django module needs: `registry_admin.autoregister` among the apps to register itself, and
`call_service` to call another. Run it as `gunicorn research_stub.main:application -b 127.0.0.1:8001`.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import secrets

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from registry_admin.discovery import call_service
from registry_admin.errors import (
    CallFailedError,
    ConsulUnavailableError,
    DeadlineExceededError,
    InvalidValueError,
    NoHealthyInstanceError,
    NoSuchServiceError,
    RegistryError,
)

BACKEND = "backend-api"

os.environ.setdefault("SERVICE_NAME", "research-api")
os.environ.setdefault("SERVICE_PORT", "8001")


if not settings.configured:
    settings.configure(
        # Consul and callers use the address that it registers. No reply is made of the Host header.
        ALLOWED_HOSTS=os.environ.get("DJANGO_ALLOWED_HOSTS", "*").split(","),
        DATA_UPLOAD_MAX_MEMORY_SIZE=64 * 1024,
        INSTALLED_APPS=["registry_admin.autoregister"],
        LOGGING={
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"stderr": {"class": "logging.StreamHandler"}},
            "loggers": {"registry_admin": {"handlers": ["stderr"], "level": "INFO"}},
        },
        MIDDLEWARE=[
            "registry_admin.autoregister.middleware.propagate_context",
            "django.middleware.security.SecurityMiddleware",
            "django.middleware.common.CommonMiddleware",
        ],
        ROOT_URLCONF=__name__,
        SECRET_KEY=secrets.token_urlsafe(50),  # signs nothing here, so each process may have its own
        USE_TZ=True,
    )


@require_GET
def health(_request: HttpRequest) -> HttpResponse:
    """Answers Consul's health check."""
    return JsonResponse({"status": "ok"})


@csrf_exempt  # an API for programs: there is no session that another site could abuse
@require_POST
def enrich(request: HttpRequest) -> HttpResponse:
    """Enriches a JSON object, calls backend-api to publish it, and returns the card and the instance that served it."""
    try:
        card = json.loads(request.body)
    except RequestDataTooBig:
        return _problem(413, "Send at most 64 KiB.")
    except (ValueError, RecursionError):
        return _problem(400, 'The body is not JSON. Send an object, such as {"title": "Test"}.')
    if not isinstance(card, dict) or not card:
        return _problem(400, 'Send a JSON object that is not empty, such as {"title": "Test"}.')
    details = {"by": os.environ["SERVICE_NAME"], "at": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")}
    return _publish({**card, "enriched": {**details, "words": len(str(card.get("title", "")).split())}})


def _publish(card: dict[str, object]) -> HttpResponse:
    # With the key, the backend recognises a repeated card, so the call may be retried even if it was received.
    headers = {"Idempotency-Key": secrets.token_hex(16)}
    try:
        reply = call_service(BACKEND, "/publish", method="POST", json=card, headers=headers)
    except InvalidValueError as error:
        return _problem(400, str(error))
    except DeadlineExceededError as error:
        return _problem(504, str(error))
    except (NoSuchServiceError, NoHealthyInstanceError, ConsulUnavailableError) as error:
        return _problem(503, str(error))
    except (CallFailedError, RegistryError) as error:
        return _problem(502, str(error))
    if not reply.ok:
        return _problem(502, f"{BACKEND} answered with status {reply.status_code}.")
    try:
        published = reply.json()
        return JsonResponse({"served_by": published["served_by"], "card": published})
    except (ValueError, TypeError, KeyError):
        return _problem(502, f"{BACKEND} answered with something that is no card.")


def _problem(status: int, message: str) -> HttpResponse:
    return JsonResponse({"error": message}, status=status)


urlpatterns = [path("health", health), path("enrich", enrich)]
application = get_wsgi_application()
